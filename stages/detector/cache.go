package detector

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/rewrite"
	"leafcutter/stages/detector/internal/session"
)

// A prepared model is a folder in the cache: the model's graph, rewritten and
// then optimised for this machine's processor, the weights in a file of their
// own, from which the runtime maps them, and the facts. The folder gets its
// name once its graph has been compared with the original on a page, so what is
// there under its name may be trusted as long as it is undamaged.
const (
	preparedFolder  = "models" // of the cache
	preparedGraph   = "graph.onnx"
	preparedWeights = "graph.weights" // named within the graph: the files cannot be renamed
	preparedFacts   = "facts.json"
)

// factsVersion is raised with every change of facts, so that a folder of an
// earlier build is not trusted for what it does not say.
const factsVersion = 2

// facts say what a prepared model was made of, and how to know it again.
type facts struct {
	Source     string            `json:"source"`     // sha256 of the weights as shipped
	Runtime    string            `json:"runtime"`    // that it was made and compared with
	Processor  string            `json:"processor"`  // that it was made for
	Rewritten  rewrite.Report    `json:"rewritten"`  // what was changed before
	Quantized  bool              `json:"quantized"`  // its weights are integers
	Difference float64           `json:"difference"` // largest |a-b| / (1+|a|) over all outputs
	Speeds     []speed           `json:"speeds"`     // of one inference, by threads
	Files      map[string]string `json:"files"`      // sha256 by name
}

// preparedDir is where a prepared model lies.
func preparedDir(cache, source string) string {
	return filepath.Join(cache, preparedFolder, fmt.Sprintf("%s-r%d.%d-ort%s-%s", source[:16], rewrite.Version, factsVersion, session.Version, session.Processor()))
}

// trusted says whether dir holds a model that was prepared from these weights,
// for this runtime and processor, and is undamaged.
func trusted(dir, source string) (f facts, ok bool) {
	b, err := os.ReadFile(filepath.Join(dir, preparedFacts))
	if err != nil {
		return f, false
	}
	if json.Unmarshal(b, &f) != nil || f.Source != source || f.Runtime != session.Version || f.Processor != session.Processor() ||
		f.Files[preparedGraph] == "" {
		return f, false
	}
	for name, want := range f.Files {
		if got, err := manifest.FileDigest(filepath.Join(dir, filepath.Base(name))); err != nil || got != want {
			return f, false
		}
	}
	return f, true
}

// unfinished begins the name of a folder in which a model is being prepared.
const unfinished = ".new-"

// sweep removes folders that processes left unfinished when they were killed.
// Preparing takes seconds, so what is older than age belongs to nobody.
func sweep(models string, age time.Duration) {
	entries, err := os.ReadDir(models)
	if err != nil {
		return // nothing there yet
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), unfinished) {
			continue
		}
		if i, err := e.Info(); err == nil && time.Since(i.ModTime()) > age {
			_ = os.RemoveAll(filepath.Join(models, e.Name())) // the next start tries again
		}
	}
}

// write puts the facts beside a prepared model, with the digests of its files.
func (f facts) write(dir string) error {
	f.Files = make(map[string]string)
	for _, name := range []string{preparedGraph, preparedWeights} {
		sum, err := manifest.FileDigest(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && name == preparedWeights {
			continue // a model without large tensors has none
		}
		if err != nil {
			return fmt.Errorf("prepare model: %w", err)
		}
		f.Files[name] = sum
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("prepare model: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, preparedFacts), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("prepare model: %w", err)
	}
	return nil
}

// keep gives a finished folder its name in the cache, which processes may share. One
// that has the name already is left there if it is good: another process was faster,
// and staged stays the caller's. Else it is damaged and makes way. Nobody ever sees
// half a folder, and who has mapped the old files keeps them.
func keep(staged, dir string, good func() bool) error {
	for try := 0; ; try++ {
		err := os.Rename(staged, dir)
		if !errors.Is(err, fs.ErrExist) || try == 3 {
			return err
		}
		if good() {
			return nil
		}
		// Under a name that is nobody else's: it may have been replaced meanwhile,
		// and another process be about to move it as well.
		aside := staged + "-before"
		if err := os.Rename(dir, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.RemoveAll(aside); err != nil {
			return err
		}
	}
}
