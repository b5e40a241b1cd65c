package detector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"leafcutter/pkg/fault"
)

// A process that begins after the change does the pages of the version before
// from the cache; without it they fail.
func TestVersionBeforeIsKept(t *testing.T) {
	c := families(t, "yolo")
	first := openModels(t, c).digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	m := openModels(t, c)
	if m.digest("yolo") == first {
		t.Fatal("not changed")
	}
	if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
	m.room.tidy(0, func(*version) bool { return false })

	kept := filepath.Join(c.CacheDir, "versions", "yolo", first)
	if err := os.WriteFile(filepath.Join(kept, archivedWeights), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := m.detected(t, "yolo", first); fault.CodeOf(err) != CodeModelChanged || fault.ClassOf(err) != fault.Permanent {
			t.Errorf("damaged: %v", err)
		}
	}
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged version stays: %v", err)
	}
}

// Another detector may have taken up a version, and runs be planned for it,
// before this one has looked.
func TestVersionThatIsNewerThanTheLastLook(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	give(t, c.ModelsDir, "yolo", floor(0.95))
	other := c
	other.CacheDir = t.TempDir()
	digest := openModels(t, other).digest("yolo")
	if boxes, err := m.detected(t, "yolo", digest); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
}

// A manifest that is missing or half copied says nothing of the version that a page
// asks for: it is waited for.
func TestVersionWhoseManifestCannotBeRead(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	give(t, c.ModelsDir, "yolo", floor(0.95))
	other := c
	other.CacheDir = t.TempDir()
	digest := openModels(t, other).digest("yolo")
	at := filepath.Join(c.ModelsDir, "yolo", "manifest.json")
	whole := read(t, at)
	for _, change := range []func() error{func() error { return os.WriteFile(at, whole[:len(whole)/2], 0o600) }, func() error { return os.Remove(at) }} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		_, err := m.detected(t, "yolo", digest)
		if fault.ClassOf(err) != fault.Unavailable {
			t.Fatalf("got %v", err)
		}
		if err := m.Stage("yolo", shelf{}).Probes[fault.DependencyOf(err)](t.Context()); err == nil {
			t.Error("the probe finds nothing wrong")
		}
	}
	if err := os.WriteFile(at, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.probe(t.Context(), "yolo"); err != nil {
		t.Errorf("whole again, and the probe says %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if boxes, err := m.detected(t, "yolo", digest); err != nil || len(boxes) == 0 {
				t.Errorf("%d boxes, %v", len(boxes), err)
			}
		})
	}
	wg.Wait()
}

// A version of which pages come before the look at it, and which is replaced in
// the repository soon after, is done from the cache like any other.
func TestVersionThatPagesBringIsKept(t *testing.T) {
	for _, looks := range []bool{true, false} {
		c := families(t, "yolo")
		m := openModels(t, c)
		give(t, c.ModelsDir, "yolo", floor(0.95))
		other := c
		other.CacheDir = t.TempDir()
		digest := openModels(t, other).digest("yolo")
		want, err := m.detected(t, "yolo", digest)
		if err != nil || len(want) == 0 {
			t.Fatalf("%d boxes, %v", len(want), err)
		}
		if looks {
			m.look(t)
		}
		give(t, c.ModelsDir, "yolo", floor(0.9))
		// Its weights are another's now.
		if err := os.WriteFile(filepath.Join(c.ModelsDir, "yolo", "model.onnx"), []byte("others"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.look(t)
		m.room.tidy(0, func(*version) bool { return false })
		if boxes, err := m.detected(t, "yolo", digest); err != nil || !slices.Equal(boxes, want) {
			t.Errorf("taken up %v: %d boxes, %v", looks, len(boxes), err)
		}
	}
}

// Where a version was not archived when its first page came but was later, it is
// loaded from there.
func TestVersionIsLookedForInTheArchiveAgain(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	v := m.recall("yolo", "")
	astray := newVersion(v.Fetched)
	astray.Weights = filepath.Join(t.TempDir(), "gone.onnx")
	m.served["yolo"].versions[v.Digest] = astray
	if boxes, err := m.detected(t, "yolo", v.Digest); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
}

// What could be loaded once and cannot be now is waited for.
func TestModelThatCannotBeLoadedAgain(t *testing.T) {
	c := families(t, "yolo", "rtdetr_logits")
	m := openModels(t, c)
	load, away := m.room.load, errors.New("no memory")
	m.room.load = func(context.Context, *version) (*Detector, error) { return nil, away }
	_, err := m.detected(t, "yolo", m.digest("yolo"))
	if fault.ClassOf(err) != fault.Unavailable || !errors.Is(err, away) {
		t.Fatalf("got %v", err)
	}
	probe := m.Stage("yolo", shelf{}).Probes[fault.DependencyOf(err)]
	if err := probe(t.Context()); !errors.Is(err, away) {
		t.Errorf("the probe says %v", err)
	}
	m.room.load = load
	if err := probe(t.Context()); err != nil {
		t.Errorf("the probe says %v", err)
	}
	if boxes, err := m.detected(t, "yolo", m.digest("yolo")); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
}

// ONNX Runtime says of a model that it is not accepted when memory is wanting too:
// a version before is waited for, and stays archived.
func TestVersionThatIsNotAcceptedForNow(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	first := m.digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	m.look(t)
	m.room.tidy(0, func(*version) bool { return false })
	load := m.room.load
	m.room.load = func(context.Context, *version) (*Detector, error) {
		return nil, fmt.Errorf("%w: std::bad_alloc", ErrModelInvalid)
	}
	if _, err := m.detected(t, "yolo", first); fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
	m.room.load = load
	if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
	if _, err := os.Stat(m.archive.weights("yolo", first)); err != nil {
		t.Error(err)
	}
}
