package detector

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
)

// A model that a child has prepared finds the same, and is the one that the next
// start uses.
func TestChildPrepares(t *testing.T) {
	c := testConfig(t)
	c.CacheDir = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	d, err := New(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)), InChild(self))
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Detect(t.Context(), samplePage)
	if err = errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	same(t, p.Boxes, golden(t, "report"))
	if !strings.Contains(log.String(), "model prepared") || !strings.Contains(log.String(), "hard_swish=94") {
		t.Errorf("log: %s", log.String())
	}
	log.Reset()
	if d, err = New(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)), InChild("/bin/false")); err != nil {
		t.Fatal(err)
	}
	again, err := d.Detect(t.Context(), samplePage)
	if err = errors.Join(err, d.Close()); err != nil || !slices.Equal(again.Boxes, p.Boxes) {
		t.Errorf("%v, other boxes at the second start: %v", err, again.Boxes)
	}
	if !strings.Contains(log.String(), c.CacheDir) {
		t.Errorf("not from the cache: %s", log.String())
	}
}

// A model that is taken up is prepared before any other has to make room for it.
func TestPreparedBeforeItsRoomIsMade(t *testing.T) {
	c := families(t, "yolo")
	c.CacheDir = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m, err := OpenModels(t.Context(), c, objectstore.Config{}, slog.New(slog.DiscardHandler), InChild(self))
	if err != nil {
		t.Fatal(err)
	}
	load, entered := m.room.load, 0
	m.room.load = func(ctx context.Context, v *version) (*Detector, error) {
		entered++
		if _, ok := trusted(preparedDir(c.CacheDir, v.Manifest.SHA256), v.Manifest.SHA256); !ok {
			t.Error("not prepared when it came")
		}
		return load(ctx, v)
	}
	m.look(t.Context(), func(schemas.ModelAnnounced) {})
	if err := errors.Join(m.Ready(), m.Close()); err != nil || entered != 1 {
		t.Errorf("entered %d times, %v", entered, err)
	}
}

// A child that cannot do it costs speed and memory, not the service.
func TestChildThatFails(t *testing.T) {
	c := testConfig(t)
	c.CacheDir = t.TempDir()
	var log strings.Builder
	d, err := New(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil)), InChild("/bin/false"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Detect(t.Context(), samplePage)
	if err = errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	same(t, p.Boxes, golden(t, "report"))
	if !strings.Contains(log.String(), "runs as shipped") {
		t.Errorf("log: %s", log.String())
	}
	if left, err := filepath.Glob(filepath.Join(c.CacheDir, "models", "*")); err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

// A child that fails when a model is taken up is not asked again, and what it said
// is told: loading it would find the same, minutes later. What was wrong may have
// passed an hour later.
func TestChildThatFailsIsNotAskedAgain(t *testing.T) {
	c := families(t, "yolo", "rtdetr_logits")
	c.CacheDir = t.TempDir()
	asked := filepath.Join(t.TempDir(), "asked")
	child := filepath.Join(t.TempDir(), "child")
	if err := os.WriteFile(child, []byte("#!/bin/sh\necho once >>"+asked+"\necho the disk is full >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	m, err := OpenModels(t.Context(), c, objectstore.Config{}, slog.New(slog.NewTextHandler(&log, nil)), InChild(child))
	if err != nil {
		t.Fatal(err)
	}
	all := &models{Models: m}
	all.look(t)
	if boxes, err := all.detected(t, "yolo", all.digest("yolo")); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
	if n := strings.Count(string(read(t, asked)), "once"); n != 2 {
		t.Errorf("asked %d times for two models", n)
	}
	all.room.tidy(0, func(*version) bool { return false })
	v := all.recall("yolo", "")
	v.tried = v.tried.Add(-longestRetrying)
	if boxes, err := all.detected(t, "yolo", v.Digest); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
	if err := errors.Join(m.Ready(), m.Close()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(string(read(t, asked)), "once"); n != 3 {
		t.Errorf("asked %d times, the last an hour later", n)
	}
	if !strings.Contains(log.String(), "runs as shipped") || !strings.Contains(log.String(), "the disk is full") {
		t.Errorf("log: %s", log.String())
	}
}

// Every family is served: inputs as large as the page, inputs besides the page,
// outputs of whole numbers and of sizes that only a run knows. The models are
// tiny; their boxes are those that tools/families.py found.
func TestEveryFamilyIsServed(t *testing.T) {
	dirs, err := filepath.Glob("testdata/families/*")
	if err != nil || len(dirs) < 6 {
		t.Fatalf("%v, %v", dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c := testConfig(t)
			c.ModelsDir, c.Model, c.CacheDir = "testdata/families", filepath.Base(dir), t.TempDir()
			d := open(t, c)
			var want map[string][]schemas.Box
			if err := json.Unmarshal(read(t, filepath.Join(dir, "boxes.json")), &want); err != nil {
				t.Fatal(err)
			}
			for range 2 { // pages of two sizes in turn, in the same memory
				for page, png := range map[string][]byte{"report": samplePage, "walden": read(t, "testdata/walden.png")} {
					p, err := d.Detect(t.Context(), png)
					if err != nil {
						t.Fatal(err)
					}
					same(t, p.Boxes, want[page])
				}
			}
		})
	}
}
