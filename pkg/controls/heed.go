package controls

import (
	"encoding/json"
	"time"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Heed makes a stage whose records are of one run each let go of what was cancelled or deleted: its records are done
// without being handled. Of a cancelled one it is said on results that the run is cancelled, of a deleted one nothing.
func (s *Set) Heed(c *stage.Config) {
	c.Cancelled, c.Dropped = s.Unwanted, s.Dropped
}

// Unwanted tells whether the work of a record is not wanted any more: its document is deleted, or was cancelled after
// the record was asked for.
func (s *Set) Unwanted(about stage.About) bool {
	last, ok := s.Last(about.DocumentID)
	return ok && (last.Action == schemas.ActionDelete || last.Action == schemas.ActionCancel && last.Sequence > about.Control)
}

// Dropped gives what is to be said of a record that is done because it is unwanted. It is said for every such record,
// by every stage: the recorder takes the same cancellation any number of times.
func (s *Set) Dropped(in stage.In) []stage.Out {
	var run schemas.Run
	if json.Unmarshal(in.Value, &run) != nil || !schemas.IsUUID(run.RunID) {
		return nil
	}
	sequence, cancelled := s.Cancelled(run.DocumentID)
	if !cancelled {
		return nil // deleted, or resumed just now: then its missing pages are asked for again
	}
	out, err := Cancellation(run, sequence)
	if err != nil {
		return nil // it was read from JSON, so it can be written as JSON
	}
	return []stage.Out{out}
}

// Cancellation is the record that says on results that a run is cancelled by the control with that sequence.
func Cancellation(run schemas.Run, sequence int64) (stage.Out, error) {
	return stage.Emit(schemas.TopicResults, run.DocumentID, schemas.RunCancelled{
		DocumentID: run.DocumentID, RunID: run.RunID, SubmittedAt: run.SubmittedAt, Sequence: sequence, Shadow: run.Options.Shadow, CancelledAt: time.Now().UTC(),
	})
}
