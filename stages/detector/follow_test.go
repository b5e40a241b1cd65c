package detector

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/repository"
)

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

var brokenChanges = map[string]func(m map[string]any){
	"a class too many": func(m map[string]any) { m["classes"] = append(m["classes"].([]any), "stamp") },
	"no such field":    func(m map[string]any) { m["treshold"] = 0.5 },
	"other weights":    func(m map[string]any) { m["sha256"] = strings.Repeat("0", 64) },
	"no weights":       func(m map[string]any) { m["file"] = "gone.onnx" },
}

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

func archivedAt(t *testing.T, c Config, digest string) repository.Fetched {
	t.Helper()
	f, err := newArchive(c.CacheDir).find("yolo", digest)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

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
