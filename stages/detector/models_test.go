package detector

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/session"
)

// families is a folder of models with some of testdata's tiny ones, and the
// configuration to serve them with a cache of its own.
func families(t *testing.T, names ...string) Config {
	t.Helper()
	c := Config{
		Model: "yolo", Models: names, ModelsDir: t.TempDir(), CacheDir: t.TempDir(), Library: built(t, "lib", session.LibraryFile()),
		Threads: 1, MaxPixels: 40_000_000, MaxBytes: 1 << 22,
	}
	// What was prepared once need not be again; versions are each test's own.
	if err := os.MkdirAll(filepath.Join(preparedModels, "models"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(preparedModels, "models"), filepath.Join(c.CacheDir, "models")); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name != everyModel {
			give(t, c.ModelsDir, name, nil)
		}
	}
	return c
}

// give puts one of testdata's models, after change, into a folder of models.
func give(t *testing.T, models, name string, change func(m map[string]any)) {
	t.Helper()
	from := filepath.Join("testdata", "families", name)
	var m map[string]any
	if err := json.Unmarshal(read(t, filepath.Join(from, "manifest.json")), &m); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(models, name)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "model.onnx"), read(t, filepath.Join(from, "model.onnx")), 0o600),
		os.WriteFile(filepath.Join(dir, "manifest.json"), b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// floor changes from which score on a model keeps boxes, and so its digest.
func floor(score float64) func(m map[string]any) {
	return func(m map[string]any) {
		m["score_floor"], m["thresholds"] = score, map[string]any{"*": max(score, 0.99)}
	}
}

// models are those of a configuration, and what Follow would have told.
type models struct {
	*Models
	told []schemas.ModelAnnounced
	log  *bytes.Buffer
}

func openModels(t *testing.T, c Config) *models {
	t.Helper()
	return openHeeding(t, c, nil)
}

// openHeeding opens models whose last announcements are known.
func openHeeding(t *testing.T, c Config, announced func(context.Context, string) (schemas.ModelAnnounced, error)) *models {
	t.Helper()
	log := &bytes.Buffer{}
	m, err := OpenModels(t.Context(), c, objectstore.Config{}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	m.Heed(announced)
	all := &models{Models: m, log: log}
	all.look(t)
	return all
}

func (m *models) look(t *testing.T) {
	t.Helper()
	m.Models.look(t.Context(), func(a schemas.ModelAnnounced) { m.told = append(m.told, a) })
}

func (m *models) digest(name string) string { return m.recall(name, "").Digest }

// page is one of a run that was planned for a version of a model.
func pageFor(name, digest string) schemas.PageRendered {
	return schemas.PageRendered{RenderedPage: schemas.RenderedPage{
		Run: schemas.Run{
			DocumentID: "0190a2c0-0000-7000-8000-000000000001", RunID: "0190a2c0-0000-5000-8000-000000000002",
			SubmittedAt: time.Now().UTC(), PagesSelected: 1, Options: schemas.RunOptions{Model: name, ModelDigest: digest, DPI: 108},
		},
		Page: 1, ImageKey: "report.png", Width: 918, Height: 1188, DPI: 108,
	}}
}

// detected are the boxes of the sample page by a version of a model.
func (m *models) detected(t *testing.T, name, digest string) ([]schemas.Box, error) {
	t.Helper()
	r := one(t, m.Stage(name, shelf{objects: map[string][]byte{"report.png": samplePage}}), record(t, pageFor(name, digest)))
	if r.Err != nil {
		return nil, r.Err
	}
	found, err := schemas.Unmarshal[schemas.PageDetected](r.Out[0].Value)
	return found.Boxes, err
}

func (m *models) loaded() (names []string) {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	for v := range m.room.guests {
		names = append(names, v.Manifest.Name)
	}
	slices.Sort(names)
	return names
}

func TestSeveralModels(t *testing.T) {
	c := families(t, "yolo", "rtdetr_logits", "yolo_end_to_end")
	m := openModels(t, c)
	if err := m.Ready(); err != nil || len(m.told) != 3 {
		t.Fatalf("%v; told %+v", err, m.told)
	}
	if got := m.loaded(); len(got) != 0 {
		t.Errorf("loaded before a page came: %v", got)
	}
	for _, name := range c.Models {
		want := Config{Model: name, ModelsDir: c.ModelsDir, Library: c.Library, CacheDir: c.CacheDir, Threads: 1, MaxPixels: c.MaxPixels, MaxBytes: c.MaxBytes}
		p, err := open(t, want).Detect(t.Context(), samplePage)
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.detected(t, name, m.digest(name))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || !slices.Equal(got, p.Boxes) {
			t.Errorf("%s: %d boxes, alone %d", name, len(got), len(p.Boxes))
		}
		s := m.Stage(name, shelf{})
		if s.Group != "detector-"+name || !slices.Equal(s.Topics, []string{"pages." + name}) || !s.Bulk {
			t.Errorf("stage of %s: %+v", name, s)
		}
	}
	if got := m.loaded(); !slices.Equal(got, []string{"rtdetr_logits", "yolo", "yolo_end_to_end"}) {
		t.Errorf("loaded within the budget: %v", got)
	}
	if _, err := m.detected(t, "yolo", strings.Repeat("0", 64)); fault.CodeOf(err) != CodeModelChanged || fault.ClassOf(err) != fault.Permanent {
		t.Errorf("a digest that nobody knows: %v", err)
	}
}

// brokenChanges are manifests that cannot be served, for each reason.
// A version that cannot be served changes nothing, and is not tried again until
// it is another.
// A process that begins after a change to what does not work serves the version
// before, from the cache, until the change is mended.
// What others announced last is served then, wherever it is kept, and never what an
// old cache has: runs would be planned for that.
// archivedAt is a version as the cache has it.
// A change that was taken back is as new as at first when it comes again.
// What is put off is not even read again until its manifest is another.
// A model that is missing is named, with the reason, and the others are served.
func TestReadyNamesWhatIsMissing(t *testing.T) {
	c := families(t, "yolo")
	c.Models = []string{"yolo", "absent"}
	m := openModels(t, c)
	err := m.Ready()
	if !errors.Is(err, ErrModelAbsent) || !strings.HasPrefix(err.Error(), "absent: ") || strings.Contains(err.Error(), "yolo:") {
		t.Errorf("ready: %v", err)
	}
	if boxes, err := m.detected(t, "yolo", ""); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
	if _, err := m.detected(t, "absent", ""); err == nil {
		t.Error("a page was done by a model that is not there")
	}
}

// What keeps a version from being loaded passes without anybody touching the
// manifest, and until then each try comes later than the one before.
// A model that was never served and cannot be loaded lets the others be.
func TestBrokenModelBesideAGoodOne(t *testing.T) {
	c := families(t, "yolo", "rtdetr_logits")
	c.Memory = 1
	give(t, c.ModelsDir, "rtdetr_logits", func(m map[string]any) { m["classes"] = append(m["classes"].([]any), "stamp") })
	m := openModels(t, c)
	if _, err := m.detected(t, "yolo", ""); err != nil {
		t.Fatal(err)
	}
	before := strings.Count(m.log.String(), "model unloaded")
	m.look(t)
	if n := strings.Count(m.log.String(), "model unloaded"); n != before || m.Ready() == nil {
		t.Errorf("unloaded %d times; ready %v", n-before, m.Ready())
	}
	give(t, c.ModelsDir, "rtdetr_logits", nil)
	m.look(t)
	if err := m.Ready(); err != nil {
		t.Errorf("mended, and %v", err)
	}
}
