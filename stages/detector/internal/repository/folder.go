package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
)

// maxManifest is more than any manifest needs, in bytes.
const maxManifest = 1 << 20

// folder is a place on this machine's disk.
type folder string

func (f folder) path(name string, more ...string) string {
	return filepath.Join(append([]string{string(f), name}, more...)...)
}

func (folder) close() {}

func (f folder) folders(context.Context) (map[string]string, error) {
	entries, err := os.ReadDir(string(f))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no folder %s: run make deps, or set LEAFCUTTER_MODELS_DIR to where the models are", ErrAbsent, string(f))
	}
	if err != nil {
		return nil, fmt.Errorf("list models: %w", err)
	}
	found := make(map[string]string)
	for _, e := range entries {
		// Hidden folders are other programs' (.git, and the versions behind
		// a volume of Kubernetes). A link to a folder is one.
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := f.bytes(e.Name())
		switch {
		case err == nil:
			sum := sha256.Sum256(b)
			found[e.Name()] = hex.EncodeToString(sum[:])
		case !schemas.IsModelName(e.Name()): // lost+found, and whatever else lies about
		case errors.Is(err, ErrAbsent):
			if files, err := os.ReadDir(f.path(e.Name())); err == nil && slices.ContainsFunc(files, func(e os.DirEntry) bool { return isWeights(e.Name()) }) {
				found[e.Name()] = ""
			}
		default:
			found[e.Name()] = err.Error()
		}
	}
	return found, nil
}

func (f folder) manifest(_ context.Context, name string) ([]byte, error) { return f.bytes(name) }

func (f folder) bytes(name string) ([]byte, error) {
	at := f.path(name, manifest.File)
	r, err := os.Open(at)
	if err != nil {
		// A file in the place of the folder is not a model either.
		if info, e := os.Stat(f.path(name)); errors.Is(err, os.ErrNotExist) || e == nil && !info.IsDir() {
			return nil, fmt.Errorf("%w: there is no %s: run make deps, leafcutter models add, or set LEAFCUTTER_MODELS_DIR to where the models are", ErrAbsent, at)
		}
		return nil, fmt.Errorf("open manifest: %w", err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrInvalid, at, maxManifest)
	}
	return b, nil
}

func (f folder) holds(_ context.Context, name, file string) (bool, error) {
	info, err := os.Stat(f.path(name, file))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for weights: %w", err)
	}
	return info.Mode().IsRegular(), nil
}

func (f folder) weights(_ context.Context, name, file, want string) (string, error) {
	at := f.path(name, file)
	got, err := manifest.FileDigest(at)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%w: there is no %s: run make deps, or set LEAFCUTTER_MODELS_DIR to where the models are", ErrAbsent, at)
	}
	if err != nil {
		return "", fmt.Errorf("read weights: %w", err)
	}
	if got != want {
		return "", fmt.Errorf("%w: %s is %s, its manifest says %s: add the model again, or for one of make deps remove the file and run it again", ErrDigest, at, got, want)
	}
	return at, nil
}

// put writes beside the file and renames: who reads it meanwhile reads the one
// before, or this one.
func (f folder) put(_ context.Context, name, file, from string) error {
	if err := os.MkdirAll(f.path(name), 0o755); err != nil {
		return fmt.Errorf("make the model's folder: %w", err)
	}
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("store %s: %w", file, err)
	}
	defer source.Close()
	at := f.path(name, file)
	if err := write(at, 0o644, source); err != nil {
		return fmt.Errorf("store %s: %w", at, err)
	}
	return nil
}

// write makes a file of all that r has, or none. It is on the disk when write
// returns, so what names it may be written next.
func write(at string, mode os.FileMode, r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(at), unfinished)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that matters is the first
		}
	}()
	_, err = io.Copy(f, r)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), at)
}

// unfinished begins the names of files that are being written.
const unfinished = ".new-"

func (f folder) files(_ context.Context, name string) ([]string, error) {
	entries, err := os.ReadDir(f.path(name))
	if err != nil {
		return nil, fmt.Errorf("list files of model %s: %w", name, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (f folder) remove(_ context.Context, name, file string) error {
	if err := os.Remove(f.path(name, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove weights of before: %w", err)
	}
	return nil
}
