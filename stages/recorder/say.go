package recorder

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// An end is said once the document's row is known, because the event carries its title and whom to tell. A producer's
// records of one document are in order within a partition, but DocumentAccepted and the first page of a short run come
// from two stages, and nothing orders these: the page may be first, and the run be over before its document is known.
// Such an end is not kept in memory to be said later. The tables have it, so DocumentAccepted asks them for the runs of
// its document that have ended already, which costs no memory and holds after a restart.
//
// The end of a shadow is in the tables alone: whoever is told of an end takes it for the document's.

// settled notes that b has landed and says which runs have ended.
func (r *Recorder) settled(ctx context.Context, b *batch) {
	for _, row := range b.runs {
		b.touched[runKey{row.DocumentID, row.RunID}].run.landed = row
	}
	r.meters.landed(ctx, b)
	for _, key := range b.order {
		t := b.touched[key]
		r.watch.note(t.run)
		d := r.cache.document(t.last)
		if !t.run.row.State.Final() || !d.row.known() || t.run.row.Shadow {
			continue
		}
		event := ended(t.run.row, d.row)
		if event.ID == t.run.said && t.first > t.run.saidBy {
			continue
		}
		if r.say(ctx, t.last, event) {
			t.told, t.run.said, t.run.saidBy = true, event.ID, t.last.in.Offset
		}
	}
}

// endedEarlier gives the runs that have ended before the row of their document became known with b, which has landed.
func (r *Recorder) endedEarlier(ctx context.Context, b *batch) ([]runRow, error) {
	if len(b.named) == 0 {
		return nil, nil
	}
	return r.tables.readEnded(ctx, slices.Sorted(maps.Keys(b.named)))
}

// sayEarlier says the ends in rows, but for those that settled has said with this batch. Where DocumentAccepted comes again it says
// them again: they went out with it, and it comes again only if they may be lost.
func (r *Recorder) sayEarlier(ctx context.Context, b *batch, rows []runRow) {
	for _, row := range rows {
		key := runKey{row.DocumentID, row.RunID}
		if t := b.touched[key]; t != nil && t.told || row.Shadow {
			continue
		}
		e := b.named[row.DocumentID]
		event := ended(row, r.cache.document(e).row)
		if !r.say(ctx, e, event) {
			continue
		}
		if known, ok := r.cache.runs.get(key, e.held); ok {
			known.said, known.saidBy = event.ID, e.in.Offset
		}
	}
}

// say puts an event out with the record of e, and fails the record where that cannot be done.
func (r *Recorder) say(ctx context.Context, e *entry, event schemas.RunEnded) bool {
	out, err := stage.Emit(schemas.TopicDocumentEvents, event.DocumentID, event)
	if err != nil {
		*e.result = stage.Fail(fmt.Errorf("say that run %s has ended: %w", event.RunID, err))
		return false
	}
	e.result.Out = append(e.result.Out, out)
	r.meters.said(ctx, event.State)
	return true
}
