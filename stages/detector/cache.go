package detector

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"leafcutter/stages/detector/internal/rewrite"
	"leafcutter/stages/detector/internal/session"
)

// prepared is a rewritten graph in the cache, and what is known about it. It
// is written after the graph has been compared with the original on a page, so
// that a file which is there is one that may be trusted.
type prepared struct {
	Source     string         `json:"source"`     // sha256 of the weights as shipped
	Graph      string         `json:"graph"`      // sha256 of the rewritten file
	Runtime    string         `json:"runtime"`    // that they were compared with
	Report     rewrite.Report `json:"report"`     // what was changed
	Difference float64        `json:"difference"` // largest |a-b| / (1+|a|) over all outputs
}

// cacheEntry names the two files of a rewritten graph.
type cacheEntry struct{ graph, facts string }

func entryFor(dir, source string) cacheEntry {
	base := filepath.Join(dir, "models", fmt.Sprintf("%s-r%d-ort%s", source[:16], rewrite.Version, session.Version))
	return cacheEntry{graph: base + ".onnx", facts: base + ".json"}
}

// trusted says whether the entry holds a graph that was made from these
// weights by this program, was compared, and is undamaged.
func (e cacheEntry) trusted(source string) bool {
	b, err := os.ReadFile(e.facts)
	if err != nil {
		return false
	}
	var p prepared
	if json.Unmarshal(b, &p) != nil || p.Source != source || p.Runtime != session.Version {
		return false
	}
	got, err := digestOf(e.graph)
	return err == nil && got == p.Graph
}

// writeTemp writes a graph under a temporary name in dir, and returns it.
func writeTemp(dir string, graph []byte) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	f, err := os.CreateTemp(dir, ".new-*.onnx")
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	_, err = f.Write(graph)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("cache: %w", err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// trust gives a staged graph its name. The facts come last: until they are
// there the graph does not count, and two processes doing this at once write
// the same content.
func (e cacheEntry) trust(staged string, p prepared) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	if err := os.Rename(staged, e.graph); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	temp := staged + ".json"
	if err := os.WriteFile(temp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	if err := os.Rename(temp, e.facts); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// digestOf is a file's sha256 in lower-case hex.
func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
