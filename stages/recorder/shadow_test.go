package recorder

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"leafcutter/schemas"
)

func shadowOf(document string, pages int) schemas.Run {
	r := runOf(document, pages)
	r.Options.Model, r.Options.Shadow = "candidate", true
	r.RunID = schemas.RunID(document, r.Options)
	return r
}

// Of a shadow no end is said, whatever comes first and however it ends, and its
// row says what it is.
func TestShadowEndsSilently(t *testing.T) {
	run, shadow := runOf(docA, 1), shadowOf(docA, 2)
	cancelled := schemas.RunCancelled{DocumentID: docA, RunID: shadow.RunID, SubmittedAt: day0, Sequence: 5, Shadow: true, CancelledAt: day0}
	for name, records := range map[string][]schemas.Result{
		"completed":            {accepted(docA, ""), planned(shadow), done(shadow, 1, 1), done(shadow, 2, 1)},
		"failed":               {accepted(docA, ""), planned(shadow), failed(shadow, 1, "x"), failed(shadow, 2, "x")},
		"cancelled":            {accepted(docA, ""), planned(shadow), cancelled},
		"before its plan":      {accepted(docA, ""), cancelled, planned(shadow)},
		"without its plan":     {accepted(docA, ""), cancelled},
		"before it was known":  {planned(shadow), done(shadow, 1, 1), done(shadow, 2, 1), accepted(docA, "")},
		"from the table again": {accepted(docA, ""), planned(shadow), done(shadow, 1, 1), done(shadow, 2, 1), done(shadow, 2, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			tables := newMemory()
			in := (&partition{t: t}).add(records...).in
			for i := range in { // a recorder each: what it knows is what the table has
				if events := handle(t, newRecorder(t, tables), in[i:i+1], 1); len(events) != 0 {
					t.Errorf("said %+v", events)
				}
			}
			row := tables.runs[[3]any{day0.UnixMilli(), docA, shadow.RunID}]
			if !row.Shadow || !row.State.Final() {
				t.Errorf("row %+v", row)
			}
		})
	}
	events := handle(t, newRecorder(t, newMemory()), (&partition{t: t}).add(accepted(docA, ""), planned(shadow), planned(run), done(shadow, 1, 1),
		done(run, 1, 1), done(shadow, 2, 1)).in, 2)
	if len(events) != 1 || events[0].RunID != run.RunID {
		t.Errorf("said %+v", events)
	}
}

// A document's state and failures are those without its shadow; its boxes are
// there, and marked.
func TestShadowInTheViews(t *testing.T) {
	db := openDatabase(t)
	r, err := New(Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	run, shadow := runOf(docA, 1), shadowOf(docA, 2)
	status := func() [][]string {
		return query(t, db, "SELECT state, pages_selected, pages_done, pages_failed, boxes FROM document_status")
	}
	p := (&partition{t: t}).add(accepted(docA, "Report"), planned(run), done(run, 1, 3))
	handle(t, r, p.in, 3)
	before := status()
	p.add(planned(shadow), done(shadow, 1, 2), failed(shadow, 2, "inference-failed"))
	handle(t, r, p.in[3:], 3)
	if diff := cmp.Diff(before, status()); diff != "" {
		t.Errorf("the document's state (-without +with its shadow):\n%s", diff)
	}
	if rows := query(t, db, "SELECT * FROM failures"); len(rows) != 0 {
		t.Errorf("failures: %v", rows)
	}
	got := query(t, db, "SELECT model, shadow, count() FROM detections GROUP BY model, shadow ORDER BY model")
	if want := [][]string{{"candidate", "true", "2"}, {"layout_cdla", "false", "3"}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("detections: %v", got)
	}
	if got := query(t, db, "SELECT model, state FROM runs FINAL WHERE shadow"); !slices.EqualFunc(got, [][]string{{"candidate", "completed_with_failures"}}, slices.Equal) {
		t.Errorf("runs: %v", got)
	}
}
