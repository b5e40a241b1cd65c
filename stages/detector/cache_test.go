package detector

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/repository"
)

// unfinishedIn are folders and files below dir that were left unfinished.
func unfinishedIn(t *testing.T, dir string) (left []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), unfinished) {
			left = append(left, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// Several processes that share a cache and begin at once prepare the same model, each
// in a child of its own, and all of them serve it.
func TestProcessesThatShareACache(t *testing.T) {
	c := families(t, "yolo")
	c.CacheDir = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			m, err := OpenModels(t.Context(), c, objectstore.Config{}, slog.New(slog.DiscardHandler), InChild(self))
			if err != nil {
				t.Error(err)
				return
			}
			m.look(t.Context(), func(schemas.ModelAnnounced) {})
			if err := errors.Join(m.Ready(), m.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	prepared, err := os.ReadDir(filepath.Join(c.CacheDir, preparedFolder))
	if left := unfinishedIn(t, c.CacheDir); err != nil || len(prepared) != 1 || len(left) != 0 {
		t.Errorf("prepared %v, left %v, %v", prepared, left, err)
	}
}

// Whoever writes a version into the archive while others do, all of it is there, and
// what is damaged is replaced.
func TestArchiveIsWrittenByMany(t *testing.T) {
	c := families(t, "yolo")
	r, err := repository.Open(t.Context(), c.ModelsDir, objectstore.Config{}, "")
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Fetch(t.Context(), "yolo")
	if err != nil {
		t.Fatal(err)
	}
	a := newArchive(c.CacheDir)
	many := func(then func(kept repository.Fetched, version string, err error)) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				said := f
				said.Manifest.Version = strconv.Itoa(i)
				kept, err := newArchive(c.CacheDir).keep(said)
				then(kept, said.Manifest.Version, err)
			})
		}
		wg.Wait()
	}
	for range 10 {
		a.drop("yolo", f.Digest)
		many(func(kept repository.Fetched, version string, err error) {
			if err != nil || kept.Manifest.Version != version {
				t.Errorf("%+v, %v", kept, err)
			}
			if _, ok := a.has(f); !ok {
				t.Error("kept, and not there")
			}
		})
		if err := os.WriteFile(filepath.Join(a.of("yolo", f.Digest), "manifest.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		// One that repairs it may take away for a moment what another has repaired.
		many(func(repository.Fetched, string, error) {})
		if _, ok := a.has(f); !ok {
			t.Error("not repaired")
		}
	}
	if left := unfinishedIn(t, c.CacheDir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
