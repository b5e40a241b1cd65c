package family

import (
	"testing"

	"leafcutter/stages/detector/internal/manifest"
)

func TestSuppress(t *testing.T) {
	classes := []string{"text", "title"}
	nms := manifest.NMS{IoU: 0.5, CrossClassIoU: 0.6, Candidates: 10, MaxBoxes: 3}
	whole, most, half := [4]float64{0, 0, 100, 10}, [4]float64{0, 0, 70, 10}, [4]float64{0, 0, 50, 10}
	text := func(score float64, box [4]float64) candidate { return candidate{score: score, box: box} }
	title := func(score float64, box [4]float64) candidate { return candidate{score: score, class: 1, box: box} }
	for name, c := range map[string]struct {
		in     []candidate
		prefer map[string]float64
		want   []float64 // scores
	}{
		"the lesser of one class goes":        {in: []candidate{text(.9, whole), text(.8, most)}, want: []float64{.9}},
		"overlap at the limit stays":          {in: []candidate{text(.9, whole), text(.8, half)}, want: []float64{.9, .8}},
		"classes have a limit of their own":   {in: []candidate{text(.9, whole), title(.8, half)}, want: []float64{.9, .8}},
		"the lesser of another class goes":    {in: []candidate{text(.9, whole), title(.8, most)}, want: []float64{.9}},
		"a preferred class wins":              {in: []candidate{text(.9, whole), title(.5, most)}, prefer: map[string]float64{"title": .4}, want: []float64{.5}},
		"but only from its score on":          {in: []candidate{text(.9, whole), title(.3, most)}, prefer: map[string]float64{"title": .4}, want: []float64{.9}},
		"a box that went takes none with it":  {in: []candidate{text(.9, whole), text(.8, most), text(.7, half)}, want: []float64{.9, .7}},
		"a box without an area goes":          {in: []candidate{text(.9, [4]float64{5, 5, 5, 9})}, want: []float64{}},
		"the best are kept, in falling order": {in: []candidate{text(.9, whole), text(.8, [4]float64{0, 20, 9, 30}), text(.7, [4]float64{0, 40, 9, 50}), title(.6, [4]float64{0, 60, 9, 70})}, prefer: map[string]float64{"title": .4}, want: []float64{.9, .8, .7}},
	} {
		t.Run(name, func(t *testing.T) {
			nms := nms
			nms.Prefer = c.prefer
			got := suppress(c.in, classes, nms)
			if len(got) != len(c.want) {
				t.Fatalf("got %+v, want scores %v", got, c.want)
			}
			for i := range got {
				if got[i].score != c.want[i] {
					t.Fatalf("got %+v, want scores %v", got, c.want)
				}
			}
		})
	}
}

func TestFinishDropsWhatRoundsToNothing(t *testing.T) {
	got := finish([]candidate{
		{score: .512345678, box: [4]float64{1.004, 2.006, 1.0049, 9}},
		{score: .512345678, box: [4]float64{1.004, 2.006, 3.3333, 9}},
	}, []string{"text"})
	if len(got) != 1 || got[0].Score != .51235 || got[0].Rect != [4]float64{1, 2.01, 3.33, 9} {
		t.Fatalf("%+v", got)
	}
}
