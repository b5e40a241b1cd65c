package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"leafcutter/e2e/pipeline"
	"leafcutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The detector is run as it is with the tutorial's model, with the one that everybody has.
func TestDetectorIsMeasured(t *testing.T) {
	root, err := pipeline.Root()
	if err != nil {
		t.Fatal(err)
	}
	report, err := readPage(filepath.Join(root, "stages", "detector", "report.png"))
	if err != nil {
		t.Fatal(err)
	}
	p := plan{binary: filepath.Join(root, "build", "bin", "detector"), models: filepath.Join(root, "build", "models")}
	f, err := memoryOf(t.Context(), p, t.TempDir(), "layout_cdla", []page{report})
	if err != nil {
		t.Fatalf("%v: run make deps build", err)
	}
	if f.most < 5 || f.first < 30e6 || f.later < 30e6 || f.child < 30e6 {
		t.Errorf("%+v", f)
	}
	var m measurement
	m.outcomes, m.pages = map[string]outcome{}, []page{report}
	all, err := m.detect(t.Context(), p, t.TempDir(), "layout_cdla", 1, func(string, outcome) {})
	if err != nil {
		t.Fatal(err)
	}
	crops, err := cut(report, all.pages[0].boxes)
	if err != nil {
		t.Fatal(err)
	}
	if o := m.outcomes["layout_cdla, threads 1"]; len(crops) == 0 || o.seconds <= 0 || o.peak < 30e6 {
		t.Errorf("%d crops, %+v", len(crops), o)
	}
}

func TestADetectorThatCannotServeIsAnError(t *testing.T) {
	root, err := pipeline.Root()
	if err != nil {
		t.Fatal(err)
	}
	s, err := startDetector(t.Context(), filepath.Join(root, "build", "bin", "detector"), t.TempDir(), "a", t.TempDir(), nil, "LEAFCUTTER_INFERENCES=-1")
	if err == nil || !strings.Contains(err.Error(), "LEAFCUTTER_INFERENCES") {
		t.Errorf("%v, %v: run make deps build", s, err)
	}
}

func TestCropsAreAlikeInEveryPixel(t *testing.T) {
	a := []cropped{{Box: [4]int{1, 2, 3, 4}, SHA256: "x"}, {Box: [4]int{5, 6, 7, 8}, SHA256: "y"}}
	b := []cropped{{Box: [4]int{1, 2, 3, 4}, SHA256: "x"}, {Box: [4]int{5, 6, 7, 8}, SHA256: "z"}, {Box: [4]int{5, 6, 7, 9}, SHA256: "y"}}
	if got := sameCrops(a, b); got != (agreement{1, 2, 3}) || got.share() != 0.4 {
		t.Errorf("%+v, share %v", got, got.share())
	}
}

func TestBoxesFindTheirPartners(t *testing.T) {
	box := func(class string, score float64, rect ...float64) schemas.Box {
		return schemas.Box{Class: class, Score: score, Rect: [4]float64(rect)}
	}
	want := []schemas.Box{box("a", 0.95, 0, 0, 100, 10), box("a", 0.99, 0, 100, 100, 110), box("a", 0.5, 0, 0, 9, 9), box("a", 0.99, 0, 200, 50, 210)}
	got := []schemas.Box{
		box("a", 0.92, 1, 0, 100, 10),     // the first's, by 0.99
		box("b", 0.99, 0, 100, 100, 110),  // of another class
		box("a", 0.99, 0, 0, 9, 9),        // its partner scores too little
		box("a", 0.91, 0, 200, 56.5, 210), // overlaps by 0.88
		box("a", 0.9, 0, 200, 50, 210),    // scores too little
	}
	if a := sameBoxes(want, got); a != (agreement{1, 3, 4}) {
		t.Errorf("%+v", a)
	}
	slices.Reverse(want)
	if a := sameBoxes(want, want); a != (agreement{3, 3, 3}) {
		t.Errorf("with itself: %+v", a)
	}
}

func TestTableHasRatiosOfOneRun(t *testing.T) {
	m := measurement{outcomes: map[string]outcome{}, crops: agreement{7, 7, 8}, boxes: agreement{9, 10, 10}, memory: []footprint{{"m", 300e6, 200e6, 900e6, 100}}}
	m.keep("torch, threads 1", outcome{4, 4, 1})
	m.keep("torch, threads 1", outcome{3, 5, 2})
	m.keep("m, threads 1", outcome{2, 2, 1})
	m.keep("m8, threads 1", outcome{1.2, 1, 1})
	text := strings.Join(strings.Fields(m.table(plan{model: "m", int8: "m8"}, []int{1}).Text()), " ")
	for _, want := range []string{"m, threads 1 1.50; by processor time 2.00", "m8, threads 1 2.50; by processor time 4.00", "7 of 8", "9 of 10 and 10, 90 %", "300 at its first start, 200 later; up to 100 boxes a page; 900 in the child"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}
