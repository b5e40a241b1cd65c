// Package up runs the whole pipeline on one machine: the embedded servers and the binaries that are deployed, each a
// supervised child process, on one data directory. `leafcutter up` calls it, and so do the end-to-end tests.
package up

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Format is the version of the data directory's layout. It grows when an older directory can no longer be read.
const Format = "2"

// Layout says where everything is: the data directory, and what make deps and make build put beside the binary.
type Layout struct {
	Data   string // data directory
	Bin    string // folder of the binaries
	ONNX   string // libonnxruntime
	ChDB   string // libchdb
	Models string // folder of the models, a folder each
}

// FindLayout finds the libraries, models and binaries beside this executable: in bin/, ../lib and ../models of the
// tarball or the build folder. The environment overrides each.
func FindLayout(executable, data string, getenv func(string) string) (Layout, error) {
	bin := filepath.Dir(executable)
	root := filepath.Dir(bin)
	onnx := "libonnxruntime.so.1.32.0"
	if runtime.GOOS == "darwin" {
		onnx = "libonnxruntime.1.32.0.dylib"
	}
	or := func(name, fallback string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return fallback
	}
	l := Layout{
		Data: data, Bin: or("LEAFCUTTER_BIN_DIR", bin),
		ONNX:   or("LEAFCUTTER_ONNXRUNTIME_LIB", filepath.Join(root, "lib", onnx)),
		ChDB:   or("LEAFCUTTER_CHDB_LIB", filepath.Join(root, "lib", "libchdb.so")),
		Models: or("LEAFCUTTER_MODELS_DIR", filepath.Join(root, "models")),
	}
	if strings.HasPrefix(l.Models, "s3://") {
		return l, fmt.Errorf("LEAFCUTTER_MODELS_DIR: %s: this pipeline starts with an S3 of its own, so it takes models from a folder; models in S3 are for detectors that are deployed", l.Models)
	}
	// The children run elsewhere.
	var err error
	if l.Models, err = filepath.Abs(l.Models); err != nil {
		return l, fmt.Errorf("find the models: %w", err)
	}
	return l, l.Check()
}

// Check reports everything that is missing at once.
func (l Layout) Check() error {
	var faults []error
	missing := func(path, what string) {
		if _, err := os.Stat(path); err != nil {
			faults = append(faults, fmt.Errorf("%s is missing: %s", what, path))
		}
	}
	missing(l.ONNX, "ONNX Runtime")
	missing(l.ChDB, "chDB")
	for _, b := range []string{"ingest-api", "page-splitter", "detector", "annotator", "recorder"} {
		missing(filepath.Join(l.Bin, b), "the binary "+b)
	}
	models, err := l.ModelNames()
	if err != nil || len(models) == 0 {
		faults = append(faults, fmt.Errorf("no model in %s", l.Models))
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w\nrun make deps build, or unpack the whole tarball", errors.Join(faults...))
	}
	return nil
}

// ModelNames are the models whose manifests lie in the models folder.
func (l Layout) ModelNames() ([]string, error) {
	manifests, err := filepath.Glob(filepath.Join(l.Models, "*", "manifest.json"))
	if err != nil {
		return nil, fmt.Errorf("look for models: %w", err)
	}
	var names []string
	for _, m := range manifests {
		names = append(names, filepath.Base(filepath.Dir(m)))
	}
	return names, nil
}

// Prepare makes the data directory, or checks that this build can read the one that is there.
func (l Layout) Prepare() error {
	for _, d := range []string{"", "kafka", "objects", "clickhouse", "cache", "spool", "logs", "run"} {
		if err := os.MkdirAll(filepath.Join(l.Data, d), 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
	}
	path := filepath.Join(l.Data, "format")
	found, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return os.WriteFile(path, []byte(Format+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("read the data directory's format: %w", err)
	}
	if got := strings.TrimSpace(string(found)); got != Format {
		return fmt.Errorf("the data directory %s has format %s and this build reads format %s: use the build that made it, or another --data-dir",
			l.Data, got, Format)
	}
	return nil
}

// DefaultData is where data lie when nobody says otherwise.
func DefaultData(getenv func(string) string) (string, error) {
	if v := getenv("LEAFCUTTER_DATA_DIR"); v != "" {
		return v, nil
	}
	if v := getenv("XDG_DATA_HOME"); v != "" {
		return filepath.Join(v, "leafcutter"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home directory; give --data-dir: %w", err)
	}
	return filepath.Join(home, ".local", "share", "leafcutter"), nil
}
