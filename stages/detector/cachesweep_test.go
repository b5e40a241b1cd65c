package detector

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Of all that the cache keeps, what is served stays however long ago it was loaded,
// and what was of no use for long goes.
func TestCacheIsSwept(t *testing.T) {
	c := families(t, "yolo")
	c.CacheDir = t.TempDir()
	m := openModels(t, c)
	v := m.recall("yolo", "")
	served := []string{filepath.Join(m.archive.of("yolo", v.Digest), "manifest.json"), preparedDir(c.CacheDir, v.Manifest.SHA256)}
	useless := []string{filepath.Join(m.archive.of("gone", v.Digest), "manifest.json"), preparedDir(c.CacheDir, strings.Repeat("1", 64)),
		filepath.Join(c.CacheDir, "weights", strings.Repeat("1", 64)+".onnx")}
	for _, at := range useless {
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * archivedFor)
	for _, at := range slices.Concat(served, useless) {
		if err := os.Chtimes(at, long, long); err != nil {
			t.Fatal(err)
		}
	}
	m.sweepCache()
	for _, at := range served {
		if _, err := os.Stat(at); err != nil {
			t.Error(err)
		}
	}
	for _, at := range useless {
		if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", at, err)
		}
	}
}

func TestArchiveSweeps(t *testing.T) {
	a := newArchive(t.TempDir())
	long := time.Now().Add(-2 * archivedFor)
	for i, name := range []string{"old", "young", unfinished + "old"} {
		dir := a.of("m", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			if err := os.WriteFile(filepath.Join(dir, "manifest.json"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if name != "young" {
			for _, path := range []string{filepath.Join(dir, "manifest.json"), dir} {
				if err := os.Chtimes(path, long, long); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
		}
	}
	a.sweep("m", archivedFor)
	a.sweep("absent", archivedFor)
	left, err := os.ReadDir(filepath.Join(a.dir, "m"))
	if err != nil || len(left) != 1 || left[0].Name() != "young" {
		t.Errorf("left %v, %v", left, err)
	}
	for _, odd := range [][2]string{{"../m", strings.Repeat("0", 64)}, {"m", "young"}, {"m", "../m/young"}, {"", ""}} {
		if f, err := a.find(odd[0], odd[1]); !errors.Is(err, ErrModelAbsent) {
			t.Errorf("%v found %+v, %v", odd, f, err)
		}
	}
	archive{}.sweep("m", 0)
	if _, err := (archive{}).find("m", fmt.Sprintf("%064d", 0)); !errors.Is(err, ErrModelAbsent) {
		t.Errorf("without a cache: %v", err)
	}
}
