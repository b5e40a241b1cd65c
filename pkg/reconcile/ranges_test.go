package reconcile_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"leafcutter/pkg/reconcile"
	"leafcutter/schemas"
)

var options = schemas.RunOptions{Model: "layout_cdla", ModelDigest: strings.Repeat("ab", 32), DPI: 108, Pages: "all",
	Thresholds: map[string]float64{"*": 0.4}, CropPadding: 4, Renderer: "test"}

const documentID = "0198a000-0000-7000-8000-00000000000a"

func aRun(selected int) schemas.Run {
	return schemas.Run{DocumentID: documentID, RunID: schemas.RunID(documentID, options), PagesSelected: selected, Options: options}
}

// planned is what the planner makes of a selection.
func planned(run schemas.Run, selected []int) (ranges []schemas.PageRange) {
	position := 0
	for chunk := range slices.Chunk(selected, schemas.FirstPages) {
		ranges = append(ranges, schemas.PageRange{Run: run, Pages: chunk, Position: position})
		position += len(chunk)
	}
	return ranges
}

// Whatever is done and whatever is selected, the missing pages are asked for once each, in the planner's own ranges where
// nothing of them is done, and in parts of them where something is.
func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var selected []int
		done := map[int]bool{}
		for page := range rapid.IntRange(0, 200).Draw(t, "pages") {
			if rapid.IntRange(0, 4).Draw(t, "selected") > 0 {
				selected = append(selected, page+1)
				done[page+1] = rapid.IntRange(0, 3).Draw(t, "done") == 0
			}
		}
		run := aRun(len(selected))
		ranges := reconcile.Ranges(run, selected, func(page int) bool { return done[page] })
		known := map[string]bool{}
		for _, r := range ranges {
			known[r.Identity()] = true
		}
		for _, r := range planned(run, selected) {
			if !slices.ContainsFunc(r.Pages, func(page int) bool { return done[page] }) && !known[r.Identity()] {
				t.Fatalf("nothing of %v is done, and it is not asked for as the planner did", r.Pages)
			}
		}
		asked := map[int]bool{}
		for i, r := range ranges {
			if err := r.Validate(); err != nil {
				t.Fatal(err)
			}
			if r.Position/schemas.FirstPages != (r.Position+len(r.Pages)-1)/schemas.FirstPages {
				t.Fatalf("%v from position %d on are of two ranges", r.Pages, r.Position)
			}
			if last := i - 1; last >= 0 && ranges[last].Position+len(ranges[last].Pages) == r.Position && r.Position%schemas.FirstPages != 0 {
				t.Fatalf("%v and %v might be one", ranges[last].Pages, r.Pages)
			}
			for k, page := range r.Pages {
				if asked[page] || done[page] || selected[r.Position+k] != page {
					t.Fatalf("page %d at position %d: asked for before %t, done %t", page, r.Position+k, asked[page], done[page])
				}
				asked[page] = true
			}
		}
		for _, page := range selected {
			if !done[page] && !asked[page] {
				t.Fatalf("page %d is missing and not asked for", page)
			}
		}
	})
}

func TestRecords(t *testing.T) {
	run := aRun(20)
	var selected []int
	for page := range 20 {
		selected = append(selected, page+1)
	}
	ranges := reconcile.Ranges(run, selected, func(page int) bool { return page == 2 })
	outs, err := reconcile.Records(ranges, 7)
	if err != nil || len(outs) != 3 {
		t.Fatalf("%d records, %v", len(outs), err)
	}
	for i, want := range []struct {
		topic, key string
		own        bool
	}{{"page-ranges", "/1", false}, {"page-ranges", "/3", false}, {"page-ranges.bulk", "/17", true}} {
		got, err := schemas.Unmarshal[schemas.PageRange](outs[i].Value)
		if err != nil || outs[i].Topic != want.topic || outs[i].Key != run.RunID+want.key || outs[i].OwnTrace != want.own || got.Control != 7 {
			t.Errorf("%+v, %v", outs[i], err)
		}
		if outs[i].Headers[schemas.HeaderID] != schemas.LCID(ranges[i]) {
			t.Error("the record has another identity than the planner's")
		}
	}
}
