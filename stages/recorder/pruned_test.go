package recorder

import (
	"testing"

	"leafcutter/schemas"
)

// A run whose page rows were deleted for their age stays as it ended, whatever comes of its pages later: a replayed page
// lands, and neither opens the run again nor changes what it counts.
func TestAPrunedRunStaysAsItEnded(t *testing.T) {
	tables := newMemory()
	run := runOf(docA, 3)
	p := &partition{t: t}
	p.add(accepted(run.DocumentID, "T"), planned(run), done(run, 1, 4), failed(run, 2, "page-too-large"), done(run, 3, 5))
	first := handle(t, newRecorder(t, tables), p.in, len(p.in))
	ended := only(t, tables)
	if ended.State != schemas.CompletedWithFailures || ended.PagesDone != 2 {
		t.Fatalf("ended %+v", ended)
	}
	clear(tables.pages)
	late := len(p.in)
	p.add(done(run, 2, 1))
	for _, event := range handle(t, newRecorder(t, tables), p.in[late:], 1) {
		if len(first) != 1 || event.ID != first[0].ID { // said again it is the same event
			t.Errorf("said %+v after %+v", event, first)
		}
	}
	now := only(t, tables)
	if now.State != ended.State || now.PagesDone != 2 || now.PagesFailed != 1 || now.Boxes != 9 || now.FinishedAt != ended.FinishedAt {
		t.Errorf("pruned, and a page came: %+v, was %+v", now, ended)
	}
	if len(tables.pages) != 1 {
		t.Errorf("%d pages landed", len(tables.pages))
	}
	// Once all of its pages have come again, they are counted again.
	all := len(p.in)
	p.add(done(run, 1, 4), done(run, 3, 5))
	handle(t, newRecorder(t, tables), p.in[all:], 2)
	p.add(done(run, 2, 1))
	handle(t, newRecorder(t, tables), p.in[all+2:], 1)
	if now := only(t, tables); now.State != schemas.Completed || now.PagesDone != 3 || now.Boxes != 10 {
		t.Errorf("all pages came again: %+v", now)
	}
}

func only(t *testing.T, m *memory) runRow {
	t.Helper()
	for _, row := range m.runs {
		return row
	}
	t.Fatal("no run")
	return runRow{}
}
