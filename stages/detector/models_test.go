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
	"leafcutter/stages/detector/internal/repository"
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

func TestModelChanges(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	first := m.digest("yolo")
	before, err := m.detected(t, "yolo", first)
	if err != nil || len(m.told) != 1 || m.told[0].Digest != first {
		t.Fatalf("%v, %+v", err, m.told)
	}
	m.look(t)
	if len(m.told) != 1 {
		t.Errorf("told again though nothing changed: %+v", m.told)
	}

	give(t, c.ModelsDir, "yolo", floor(0.95))
	m.look(t)
	second := m.digest("yolo")
	if len(m.told) != 2 || m.told[1].Digest != second || second == first || m.told[1].ScoreFloor != 0.95 {
		t.Fatalf("told %+v", m.told)
	}
	after, err := m.detected(t, "yolo", second)
	if err != nil || len(after) >= len(before) {
		t.Fatalf("%d boxes from 0.95, %d from 0.8 on: %v", len(after), len(before), err)
	}
	if boxes, err := m.detected(t, "yolo", ""); err != nil || !slices.Equal(boxes, after) {
		t.Errorf("a run without a digest: %d boxes, %v", len(boxes), err)
	}
	old, err := m.detected(t, "yolo", first)
	if err != nil || !slices.Equal(old, before) {
		t.Errorf("the version before: %d boxes, want %d: %v", len(old), len(before), err)
	}

	// Another threshold is no other model: it is told, and nothing is loaded.
	loaded := strings.Count(m.log.String(), "model loaded")
	give(t, c.ModelsDir, "yolo", func(m map[string]any) {
		floor(0.95)(m)
		m["version"], m["thresholds"] = "9", map[string]any{"*": 0.97}
	})
	m.look(t)
	if len(m.told) != 3 || m.told[2].Digest != second || m.told[2].Version != "9" || m.told[2].Thresholds["*"] != 0.97 {
		t.Errorf("told %+v", m.told)
	}
	if n := strings.Count(m.log.String(), "model loaded"); n != loaded {
		t.Errorf("loaded %d times for another threshold", n-loaded)
	}

	// Back to what it was, and away altogether: what is served stays.
	give(t, c.ModelsDir, "yolo", nil)
	m.look(t)
	if len(m.told) != 4 || m.told[3].Digest != first {
		t.Errorf("told %+v", m.told)
	}
	if err := os.RemoveAll(filepath.Join(c.ModelsDir, "yolo")); err != nil {
		t.Fatal(err)
	}
	m.look(t)
	if boxes, err := m.detected(t, "yolo", first); err != nil || !slices.Equal(boxes, before) || m.Ready() != nil {
		t.Errorf("once it was removed: %d boxes, %v, %v", len(boxes), err, m.Ready())
	}
	if !strings.Contains(m.log.String(), "no longer in the repository") {
		t.Errorf("log: %s", m.log)
	}
}

// brokenChanges are manifests that cannot be served, for each reason.
var brokenChanges = map[string]func(m map[string]any){
	"a class too many": func(m map[string]any) { m["classes"] = append(m["classes"].([]any), "stamp") },
	"no such field":    func(m map[string]any) { m["treshold"] = 0.5 },
	"other weights":    func(m map[string]any) { m["sha256"] = strings.Repeat("0", 64) },
	"no weights":       func(m map[string]any) { m["file"] = "gone.onnx" },
}

// A version that cannot be served changes nothing, and is not tried again until
// it is another.
func TestBrokenChange(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	first := m.digest("yolo")
	for name, change := range brokenChanges {
		m.log.Reset()
		give(t, c.ModelsDir, "yolo", change)
		m.look(t)
		if len(m.told) != 1 || m.digest("yolo") != first || m.Ready() != nil {
			t.Fatalf("%s: told %+v, ready %v", name, m.told, m.Ready())
		}
		if !strings.Contains(m.log.String(), "cannot be taken up") {
			t.Errorf("%s: log %s", name, m.log)
		}
		m.log.Reset()
		m.look(t)
		if m.log.Len() != 0 {
			t.Errorf("%s: said again: %s", name, m.log)
		}
		if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
			t.Errorf("%s: %d boxes, %v", name, len(boxes), err)
		}
	}
	give(t, c.ModelsDir, "yolo", floor(0.95))
	m.look(t)
	if len(m.told) != 2 || m.digest("yolo") == first {
		t.Errorf("mended, and told %+v", m.told)
	}
}

// A process that begins after a change to what does not work serves the version
// before, from the cache, until the change is mended.
func TestBeginsWithABrokenChange(t *testing.T) {
	for name, change := range brokenChanges {
		t.Run(name, func(t *testing.T) {
			c := families(t, "yolo")
			first := openModels(t, c).digest("yolo")
			give(t, c.ModelsDir, "yolo", change)
			m := openModels(t, c)
			if err := m.Ready(); err != nil || len(m.told) != 1 || m.told[0].Digest != first || m.settled() {
				t.Fatalf("ready %v, told %+v; %s", err, m.told, m.log)
			}
			if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
				t.Errorf("%d boxes, %v", len(boxes), err)
			}
			m.log.Reset()
			if m.look(t); m.log.Len() != 0 {
				t.Errorf("said again: %s", m.log)
			}
			give(t, c.ModelsDir, "yolo", floor(0.95))
			if m.look(t); len(m.told) != 2 || m.digest("yolo") == first || !m.settled() {
				t.Errorf("mended, and told %+v; %s", m.told, m.log)
			}
		})
	}
}

// What others announced last is served then, wherever it is kept, and never what an
// old cache has: runs would be planned for that.
func TestBeginsWithABrokenChangeAndAnOldCache(t *testing.T) {
	c := families(t, "yolo")
	old := openModels(t, c).digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	last := openModels(t, c).digest("yolo")
	openModels(t, c).used(archivedAt(t, c, old)) // by a page that was queued for it
	give(t, c.ModelsDir, "yolo", brokenChanges["no such field"])
	said := schemas.ModelAnnounced{Digest: last, Version: "as announced"}
	why := errors.New("no broker")
	announced := func(context.Context, string) (schemas.ModelAnnounced, error) { return said, why }
	m := openHeeding(t, c, announced)
	if m.Ready() == nil || len(m.told) != 0 || !strings.Contains(m.log.String(), "no broker") {
		t.Errorf("Kafka is away: told %+v; %s", m.told, m.log)
	}
	m.log.Reset()
	why = nil
	if m.look(t); m.Ready() == nil {
		t.Error("tried again at once")
	}
	m.served["yolo"].fallAgain = time.Time{}
	if m.look(t); m.Ready() != nil || m.digest("yolo") != last || len(m.told) != 1 || m.told[0].Version != said.Version {
		t.Errorf("ready %v, told %+v; %s", m.Ready(), m.told, m.log)
	}
	said.Digest = strings.Repeat("0", 64)
	if m := openHeeding(t, c, announced); m.Ready() == nil || len(m.told) != 0 {
		t.Errorf("kept nowhere: told %+v", m.told)
	}
}

// archivedAt is a version as the cache has it.
func archivedAt(t *testing.T, c Config, digest string) repository.Fetched {
	t.Helper()
	f, err := newArchive(c.CacheDir).find("yolo", digest)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A change that was taken back is as new as at first when it comes again.
func TestBrokenChangeComesAgain(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	for range 2 {
		m.log.Reset()
		give(t, c.ModelsDir, "yolo", brokenChanges["other weights"])
		if m.look(t); !strings.Contains(m.log.String(), "cannot be taken up") {
			t.Errorf("log %s", m.log)
		}
		give(t, c.ModelsDir, "yolo", nil)
		m.look(t)
	}
}

// What is put off is not even read again until its manifest is another.
func TestWeightsOfAnotherDigestArePutOff(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	first := m.digest("yolo")
	weights := filepath.Join(c.ModelsDir, "yolo", "model.onnx")
	good, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	give(t, c.ModelsDir, "yolo", floor(0.95))
	if err := os.WriteFile(weights, good[:len(good)/2], 0o600); err != nil { // it is being copied
		t.Fatal(err)
	}
	m.look(t)
	if err := os.WriteFile(weights, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if m.look(t); m.digest("yolo") != first {
		t.Error("looked into again at once")
	}
	m.served["yolo"].again = time.Now()
	if m.look(t); m.digest("yolo") == first {
		t.Errorf("not taken up though it is whole: %s", m.log)
	}
}

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

func TestEveryModelOfTheRepository(t *testing.T) {
	c := families(t, "*")
	m := openModels(t, c)
	if err := m.Ready(); err == nil || !strings.Contains(err.Error(), c.ModelsDir) {
		t.Fatalf("ready without a model: %v", err)
	}
	give(t, c.ModelsDir, "yolo", nil)
	m.look(t)
	give(t, c.ModelsDir, "rtdetr_logits", nil)
	m.look(t)
	var told []string
	for _, a := range m.told {
		told = append(told, a.Model)
	}
	if m.Ready() != nil || !slices.Equal(told, []string{"yolo", "rtdetr_logits"}) || m.Alone() {
		t.Errorf("told of %v; ready %v", told, m.Ready())
	}
	// What was put there by mistake is forgotten with its folder.
	odd := filepath.Join(c.ModelsDir, "odd")
	if err := errors.Join(os.Mkdir(odd, 0o700), os.WriteFile(filepath.Join(odd, "manifest.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	m.look(t)
	if m.Ready() == nil {
		t.Error("ready in spite of a broken model")
	}
	if err := os.RemoveAll(odd); err != nil {
		t.Fatal(err)
	}
	m.look(t)
	if err := m.Ready(); err != nil {
		t.Errorf("removed, and %v", err)
	}
}

// What keeps a version from being loaded passes without anybody touching the
// manifest, and until then each try comes later than the one before.
func TestChangeThatCannotBeLoadedForNow(t *testing.T) {
	c := families(t, "yolo")
	m := openModels(t, c)
	first := m.digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	load, tries, away := m.room.load, 0, error(nil)
	m.room.load = func(context.Context, *version) (*Detector, error) { tries++; return nil, away }
	s := m.served["yolo"]
	for _, try := range []struct {
		why   error
		pause time.Duration
	}{{errors.New("no space"), retrying}, {errors.New("no space"), 2 * retrying}, {ErrModelInvalid, retryingBroken}, {ErrModelInvalid, 2 * retryingBroken}} {
		away = try.why
		m.look(t)
		m.look(t)
		if s.pause != try.pause || m.digest("yolo") != first || m.Ready() != nil {
			t.Errorf("%v: next try after %v, want %v", try.why, s.pause, try.pause)
		}
		s.again = time.Now()
	}
	if tries != 4 {
		t.Errorf("%d tries, want 4", tries)
	}
	m.room.load = load
	m.look(t)
	if len(m.told) != 2 || m.digest("yolo") == first {
		t.Errorf("told %+v", m.told)
	}
}

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
