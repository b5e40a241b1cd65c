// Package control does what users ask of documents that were accepted: cancel, resume and delete. The handlers of package
// httpapi and the web pages call it.
//
// What is asked for is a record on the topic controls first, acknowledged by every replica: from then on it holds, in
// every stage and for every later record of the document, whatever becomes of this process. What follows (ends that SQL is
// told, pages that are asked for again) is lost where the process dies between the two, and done by asking once more.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"leafcutter/ingest-api/internal/catalogue"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/reconcile"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// Producer is what is used of Kafka.
type Producer interface {
	Produce(ctx context.Context, outs ...stage.Out) error
}

// Desk takes what is asked. It is safe for any number of goroutines. Its errors are problems.
type Desk struct {
	Catalogue *catalogue.Catalogue
	Asked     *controls.Set
	DB        reconcile.DB
	Producer  Producer
	Patience  time.Duration // for Kafka to acknowledge
	Timeout   time.Duration // of all questions to ClickHouse of one resume
	Now       func() time.Time
	Logger    *slog.Logger
}

// Cancel stops the runs of a document that have not ended. Pages that are done stay. A document all of whose runs have
// ended is left as it is.
func (k *Desk) Cancel(ctx context.Context, documentID string) (api.Controlled, error) {
	d, err := k.document(ctx, documentID)
	if err != nil {
		return api.Controlled{}, err
	}
	last, _ := k.Asked.Last(documentID)
	var open []string // runs that go on
	for _, run := range d.Runs {
		// One that has been resumed may be shown as cancelled yet.
		if !run.State.Final() || run.State == schemas.Cancelled && last.Action == schemas.ActionResume {
			open = append(open, run.RunID)
		}
	}
	if len(open) == 0 && (len(d.Runs) > 0 || last.Action == schemas.ActionCancel) {
		// Of a document that is planned a shadow may still be at work. The stages say what becomes of it.
		goes := false
		if len(d.Runs) > 0 {
			if goes, err = k.shadowed(ctx, documentID); err != nil {
				return api.Controlled{}, err
			}
		}
		if !goes {
			return answer(d, schemas.ActionCancel, 0), nil
		}
	}
	control, err := k.ask(ctx, documentID, schemas.ActionCancel)
	if err != nil {
		return api.Controlled{}, err
	}
	var outs []stage.Out
	for _, runID := range open {
		run := schemas.Run{DocumentID: documentID, RunID: runID, SubmittedAt: d.SubmittedAt}
		out, err := controls.Cancellation(run, control.Sequence)
		if err != nil {
			return api.Controlled{}, fmt.Errorf("make the record: %w", err)
		}
		outs = append(outs, out)
	}
	return answer(d, schemas.ActionCancel, control.Sequence), k.produce(ctx, outs)
}

// shadowed reports whether a shadow of a document goes on.
func (k *Desk) shadowed(ctx context.Context, documentID string) (bool, error) {
	bounded, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	var found []struct {
		ID string `ch:"id"`
	}
	err := k.DB.Select(bounded, &found, `SELECT toString(run_id) AS id FROM runs FINAL
		WHERE document_id = toUUID(?) AND shadow AND finished_at IS NULL LIMIT 1`, documentID)
	if err != nil {
		return false, problem.Because(err, problem.DatabaseUnavailable, "Looking for shadows failed")
	}
	return len(found) > 0, nil
}

// Resume takes a cancellation back and asks for the pages that are missing. A document that was not cancelled is left as
// it is.
func (k *Desk) Resume(ctx context.Context, documentID string) (api.Controlled, error) {
	d, err := k.document(ctx, documentID)
	if err != nil {
		return api.Controlled{}, err
	}
	_, cancelled := k.Asked.Cancelled(documentID)
	for _, run := range d.Runs {
		cancelled = cancelled || run.State == schemas.Cancelled
	}
	if !cancelled {
		return answer(d, schemas.ActionResume, 0), nil
	}
	control, err := k.ask(ctx, documentID, schemas.ActionResume)
	if err != nil {
		return api.Controlled{}, err
	}
	done := answer(d, schemas.ActionResume, control.Sequence)
	m, err := k.missing(ctx, d, control)
	if err != nil {
		return done, err
	}
	done.Pages, done.NotResumed = m.pages, m.left
	// The missing pages first, and only once Kafka has them that the run goes on: a resume that breaks off between the two
	// leaves the run cancelled, and the next one asks for all of it again. A client that hangs up breaks nothing off.
	steady := context.WithoutCancel(ctx)
	if err := k.produce(steady, m.again); err != nil {
		return done, err
	}
	return done, k.produce(steady, m.resumed)
}

// missing is what a resume has to say.
type missing struct {
	again   []stage.Out // what asks for pages, and how many
	pages   int
	resumed []stage.Out // that the runs of these pages go on
	left    []string    // runs whose pages cannot be asked for, and why
}

// missing looks for what a document's runs lack.
func (k *Desk) missing(ctx context.Context, d *api.Document, control schemas.Control) (m missing, err error) {
	bounded, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	filter := reconcile.Filter{Documents: []string{d.DocumentID},
		States: []schemas.State{schemas.Cancelled, schemas.Queued, schemas.Running, schemas.WaitingForModel}}
	err = reconcile.Runs(bounded, k.DB, filter, func(run reconcile.Run) error {
		if run.Why != nil {
			k.Logger.WarnContext(ctx, "the pages of a run cannot be asked for again", slog.String("run", run.RunID), slog.Any("error", run.Why))
			m.left = append(m.left, run.RunID+": "+run.Why.Error())
			return nil //nolint:nilerr // the run cannot be resumed, others can
		}
		goes, err := stage.Emit(schemas.TopicResults, d.DocumentID, schemas.RunResumed{
			DocumentID: d.DocumentID, RunID: run.RunID, SubmittedAt: run.SubmittedAt, Sequence: control.Sequence, ResumedAt: control.At,
		})
		if err != nil {
			return err
		}
		ranges, err := reconcile.Records(run.Ranges, control.Sequence)
		m.resumed, m.again, m.pages = append(m.resumed, goes), append(m.again, ranges...), m.pages+run.Missing()
		return err
	})
	switch {
	case err != nil && bounded.Err() != nil && ctx.Err() == nil:
		return missing{}, problem.Because(err, problem.DatabaseUnavailable, "Looking for the missing pages took longer than %s", k.Timeout)
	case err != nil:
		return missing{}, problem.From(err, "Looking for the missing pages")
	case len(m.resumed) == 0 && len(d.Runs) == len(m.left):
		// The planner says of the runs that it makes of this that they go on.
		m.again, err = k.again(ctx, d.DocumentID)
	}
	return m, err
}

// again submits a document that is not planned as far as SQL knows. It may have been planned while it was cancelled, and
// its ranges be dropped: planned again it has the same runs. A document that another producer submitted is in the topic
// still, or was planned.
func (k *Desk) again(ctx context.Context, documentID string) ([]stage.Out, error) {
	kept, err := k.Catalogue.Markers.Find(ctx, documentID)
	if err != nil || kept == nil {
		return nil, err
	}
	out, err := reconcile.Resubmission(kept.Document)
	if err != nil {
		return nil, fmt.Errorf("make the record: %w", err)
	}
	return []stage.Out{out}, nil
}

// Delete deletes a document for good: its objects and rows, and whatever still comes of it. One that is deleted already
// is left as it is.
func (k *Desk) Delete(ctx context.Context, documentID string) (api.Controlled, error) {
	done := api.Controlled{DocumentID: documentID, Action: schemas.ActionDelete, Links: api.LinksOf(documentID)}
	if _, deleted := k.Asked.Deleted(documentID); deleted {
		return done, nil
	}
	if err := k.ready(); err != nil {
		return api.Controlled{}, err
	}
	if _, err := k.Catalogue.Summary(ctx, documentID); err != nil {
		return api.Controlled{}, err
	}
	control, err := k.ask(ctx, documentID, schemas.ActionDelete)
	done.Sequence = control.Sequence
	return done, err
}

func (k *Desk) document(ctx context.Context, documentID string) (*api.Document, error) {
	if err := k.ready(); err != nil {
		return nil, err
	}
	return k.Catalogue.Document(ctx, documentID)
}

// ready refuses while it is not known what was asked before: a sequence must be above the last.
func (k *Desk) ready() error {
	if err := k.Asked.Ready(); err != nil {
		return problem.Because(err, problem.KafkaUnavailable, "What was asked of documents before is not known yet")
	}
	return nil
}

// ask makes a control durable.
func (k *Desk) ask(ctx context.Context, documentID, action string) (schemas.Control, error) {
	if _, deleted := k.Asked.Deleted(documentID); deleted { // while other things were looked for
		return schemas.Control{}, problem.New(problem.DocumentDeleted, "The document has been deleted")
	}
	control := k.Asked.Next(documentID, action, k.Now())
	out, err := stage.Emit(schemas.TopicControls, control.Key(), control)
	if err != nil {
		return schemas.Control{}, fmt.Errorf("make the record: %w", err)
	}
	if err := k.produce(ctx, []stage.Out{out}); err != nil {
		return schemas.Control{}, err
	}
	k.Asked.Asked(control)
	return control, nil
}

func (k *Desk) produce(ctx context.Context, outs []stage.Out) error {
	bounded, cancel := context.WithTimeout(ctx, k.Patience)
	defer cancel()
	err := k.Producer.Produce(bounded, outs...)
	if err != nil && ctx.Err() == nil && errors.Is(bounded.Err(), context.DeadlineExceeded) {
		return problem.Because(err, problem.KafkaUnavailable, "Kafka did not acknowledge the record within %s", k.Patience)
	}
	if err != nil {
		return problem.From(err, "Handing it to the pipeline")
	}
	return nil
}

func answer(d *api.Document, action string, sequence int64) api.Controlled {
	return api.Controlled{DocumentID: d.DocumentID, Action: action, Sequence: sequence, State: d.State, Links: d.Links}
}
