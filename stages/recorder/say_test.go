package recorder

import (
	"context"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/schemas"
)

// A run may be over before its document is known: DocumentAccepted is the planner's, the last page another stage's.
func TestEndWaitsForItsDocument(t *testing.T) {
	run := runOf(docA, 1)
	told := func(t *testing.T, events []schemas.RunEnded) {
		t.Helper()
		if len(events) != 1 || events[0].Title != "Report" || events[0].WebhookURL == "" || events[0].RunID != run.RunID ||
			events[0].State != schemas.Completed || events[0].Boxes != 2 {
			t.Fatalf("%+v", events)
		}
	}
	for name, same := range map[string]bool{"by the recorder that saw the end": true, "by one that was started since": false} {
		t.Run(name, func(t *testing.T) {
			tables := newMemory()
			r := newRecorder(t, tables)
			p := (&partition{t: t}).add(done(run, 1, 2), planned(run), accepted(docA, "Report"), done(run, 1, 2))
			if events := handle(t, r, p.in[:2], 1); len(events) != 0 {
				t.Fatalf("said of a document that is not known: %+v", events)
			}
			if row := tables.runs[[3]any{day0.UnixMilli(), docA, run.RunID}]; row.State != schemas.Completed {
				t.Fatalf("the row does not wait for the document: %+v", row)
			}
			if !same {
				r = newRecorder(t, tables)
			}
			told(t, handle(t, r, p.in[2:3], 1))
			if events := handle(t, r, p.in[3:], 1); same && len(events) != 0 {
				t.Errorf("said again for a page that came again: %+v", events)
			}
		})
	}
	t.Run("in one batch", func(t *testing.T) {
		p := (&partition{t: t}).add(done(run, 1, 2), planned(run), accepted(docA, "Report"))
		told(t, handle(t, newRecorder(t, newMemory()), p.in, 3))
	})
	t.Run("again where it may be lost", func(t *testing.T) {
		tables := newMemory()
		r := newRecorder(t, tables)
		p := (&partition{t: t}).add(done(run, 1, 2), planned(run), accepted(docA, "Report"), done(run, 1, 2))
		told(t, handle(t, r, p.in[:3], 1))
		told(t, handle(t, r, p.in[2:], 2)) // its batch was not committed, and comes with another record now
		told(t, handle(t, newRecorder(t, tables), p.in[2:3], 1))
	})
	t.Run("not again for another submission", func(t *testing.T) {
		r := newRecorder(t, newMemory())
		p := (&partition{t: t}).add(accepted(docA, "Report"), planned(run), done(run, 1, 2), accepted(docA, "Report"))
		told(t, handle(t, r, p.in[:3], 1))
		if events := handle(t, r, p.in[3:], 1); len(events) != 0 {
			t.Errorf("%+v", events)
		}
	})
	t.Run("once the tables can be asked", func(t *testing.T) {
		tables := newMemory()
		r := newRecorder(t, tables)
		p := (&partition{t: t}).add(done(run, 1, 2), planned(run), accepted(docA, "Report"))
		handle(t, r, p.in[:2], 1)
		tables.failEnded = errAway
		results := r.Handle(context.Background(), p.in[2:])
		if fault.ClassOf(results[0].Err) != fault.Unavailable || len(results[0].Out) != 0 {
			t.Fatalf("%+v", results[0])
		}
		tables.failEnded = nil
		told(t, handle(t, r, p.in[2:], 1))
	})
	t.Run("not of a run that was resumed", func(t *testing.T) {
		two := runOf(docA, 2)
		p := (&partition{t: t}).add(planned(two), schemas.RunCancelled{DocumentID: docA, RunID: two.RunID, Sequence: 5, CancelledAt: day0},
			schemas.RunResumed{DocumentID: docA, RunID: two.RunID, Sequence: 6, ResumedAt: day0}, accepted(docA, "Report"))
		if events := handle(t, newRecorder(t, newMemory()), p.in, 1); len(events) != 0 {
			t.Errorf("%+v", events)
		}
	})
}
