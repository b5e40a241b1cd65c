package recorder

import (
	"cmp"
	"context"
	"errors"
	"unique"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// entry is one record of a batch, decoded.
type entry struct {
	in      stage.In
	record  schemas.Result
	key     runKey // run is empty for DocumentAccepted
	version uint64
	held    assignment // under which it was taken
	result  *stage.Result
}

// decode reads a record and refuses one that no table can hold. A record of a type that this build does not know gives
// false without an error: a newer producer is at work.
func decode(in stage.In) (entry, bool, error) {
	record, err := schemas.UnmarshalResult(in.Value)
	if err != nil {
		return entry{}, false, fault.AsPermanent("bad-record", err)
	}
	if record == nil {
		return entry{}, false, nil
	}
	e := entry{in: in, record: record, key: runKey{document: record.Document()}, version: schemas.RowVersion(in.Timestamp, in.Offset)}
	if !schemas.StorableTime(in.Timestamp) {
		return e, false, fault.Permanentf("bad-record", "timestamp %s of the record: no table holds such a time", in.Timestamp)
	}
	check := func(of schemas.Run, page int) error {
		e.key.run = of.RunID
		switch {
		case !schemas.StorableTime(of.SubmittedAt):
			return fault.Permanentf("bad-record", "submitted_at %s: missing, or no table holds such a time", of.SubmittedAt)
		case page < 1 || page > maxPage:
			return fault.Permanentf("bad-record", "page %d is outside 1 to %d", page, maxPage)
		case of.PagesSelected < 0 || of.PagesSelected > maxPage:
			return fault.Permanentf("bad-record", "pages_selected %d is outside 0 to %d", of.PagesSelected, maxPage)
		}
		return nil
	}
	switch r := record.(type) {
	case schemas.DocumentAccepted:
		if !schemas.StorableTime(r.SubmittedAt) {
			err = fault.Permanentf("bad-record", "submitted_at %s: missing, or no table holds such a time", r.SubmittedAt)
		}
	case schemas.RunPlanned:
		err = check(r.Run, 1)
	case schemas.RunFailed:
		err = check(r.Run, 1)
	case schemas.PageDone:
		err = check(r.Run, r.Page)
	case schemas.PageFailed:
		err = check(r.Run, r.Page)
	case schemas.RunCancelled:
		e.key.run, err = r.RunID, checkRunID(r.RunID)
	case schemas.RunResumed:
		e.key.run, err = r.RunID, checkRunID(r.RunID)
	case schemas.DocumentDeleted:
	default:
		return e, false, nil
	}
	return e, err == nil, err
}

func checkRunID(id string) error {
	if !schemas.IsUUID(id) {
		return fault.Permanentf("bad-record", "run_id %.80q is not a lower-case UUID", id)
	}
	return nil
}

// Handle lands a batch of the topic results. Each record's Result holds the RunEnded that the record brought about.
func (r *Recorder) Handle(ctx context.Context, in []stage.In) []stage.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	results := make([]stage.Result, len(in))
	entries := make([]entry, 0, len(in))
	for i := range in {
		e, ok, err := decode(in[i])
		if err != nil {
			results[i] = stage.Fail(err)
		} else if ok {
			e.result, e.held = &results[i], r.cache.owned.of(in[i].Partition)
			entries = append(entries, e)
		}
	}
	landing, deletions := r.wanted(entries)
	r.land(ctx, landing)
	r.erase(ctx, deletions)
	landed := make([]string, len(landing))
	for i, e := range landing {
		landed[i] = e.key.document
	}
	if err := r.recheck(ctx, landed); err != nil {
		for _, e := range landing {
			if r.owed[e.key.document] {
				*e.result = stage.Fail(err)
			}
		}
	}
	r.cache.trim()
	return results
}

// errTooLarge asks for a batch to be halved because its runs do not fit into memory together.
var errTooLarge = errors.New("the runs of this batch have too many pages to be loaded together")

// land takes entries all the way into the tables, or halves them and tries again where they are refused. Halving keeps
// the order, and a half is inserted as it would have been inserted alone.
func (r *Recorder) land(ctx context.Context, entries []entry) {
	if len(entries) == 0 {
		return
	}
	b, err := r.apply(ctx, entries)
	if err == nil {
		err = r.tables.insert(ctx, b.documents, b.pages, b.runs)
	}
	var earlier []runRow
	if err == nil {
		earlier, err = r.endedEarlier(ctx, b)
	}
	if err == nil {
		r.settled(ctx, b)
		r.sayEarlier(ctx, b, earlier)
		return
	}
	// Some rows may have landed and some not: what memory has of these runs is no longer what the tables have.
	r.cache.forget(entries)
	if len(entries) > 1 && (errors.Is(err, errTooLarge) || fault.ClassOf(err) == fault.Permanent) {
		r.meters.halved(ctx)
		r.land(ctx, entries[:len(entries)/2])
		r.land(ctx, entries[len(entries)/2:])
		return
	}
	for _, e := range entries {
		*e.result = stage.Fail(err)
	}
}

// batch is the rows that entries make, and whose they are.
type batch struct {
	entries   []entry
	documents []documentRow
	pages     []pageRow
	runs      []runRow
	touched   map[runKey]*touched
	order     []runKey
	named     map[string]*entry // by document, the record that made its row known
}

// touched is a run that a batch has to do with.
type touched struct {
	run   *run
	first int64  // offset of the batch's first record about it
	last  *entry // of them
	told  bool   // its end went out with the batch
}

// apply brings the entries' documents and runs into memory and applies the entries to them, in order.
func (r *Recorder) apply(ctx context.Context, entries []entry) (*batch, error) {
	if err := r.cache.load(ctx, r.tables, entries); err != nil {
		return nil, err
	}
	b := &batch{entries: entries, touched: map[runKey]*touched{}, named: map[string]*entry{}}
	for i := range entries {
		r.applyOne(b, &entries[i])
	}
	for _, key := range b.order {
		t := b.touched[key]
		t.run.settle()
		if row, changed := t.run.change(); changed {
			b.runs = append(b.runs, row)
		}
	}
	return b, nil
}

func (r *Recorder) applyOne(b *batch, e *entry) {
	d := r.cache.document(e)
	if d.deleted {
		return
	}
	if accepted, ok := e.record.(schemas.DocumentAccepted); ok {
		// Equal where the record that made the row comes again: what went out with it may be lost.
		if !d.row.known() || e.version == d.row.Version {
			b.named[e.key.document] = e
		}
		if e.version > d.row.Version {
			d.row = newDocumentRow(accepted, d.row.SubmittedAt, e.version)
			b.documents = append(b.documents, d.row)
		}
		return
	}
	run := r.cache.run(e, d)
	if run == nil {
		// A run that was cancelled before anything else was heard of it, of a document of which nothing is known, by a
		// record that does not say when that was submitted: there is nowhere to show it.
		return
	}
	t := b.touched[e.key]
	if t == nil {
		t = &touched{run: run, first: e.in.Offset}
		b.touched[e.key] = t
		b.order = append(b.order, e.key)
	}
	t.last, t.first = e, min(t.first, e.in.Offset)
	switch rec := e.record.(type) {
	case schemas.RunPlanned:
		run.describe(rec.Run)
		run.decide(e.version, schemas.Queued, orTimestamp(rec.PlannedAt, e.in), failure{})
	case schemas.RunFailed:
		run.describe(rec.Run)
		run.decide(e.version, schemas.Failed, 0, failure{cmp.Or(rec.Stage, unknownStage), cmp.Or(rec.Code, unknownCode), rec.Error})
	case schemas.RunCancelled:
		run.row.Shadow = run.row.Shadow || rec.Shadow // it may come before the plan
		run.command(e.version, rec.Sequence, true)
	case schemas.RunResumed:
		run.command(e.version, rec.Sequence, false)
	case schemas.PageDone:
		run.describe(rec.Run)
		if run.see(uint32(rec.Page), page{version: e.version | outranks, boxes: uint32(len(rec.Boxes))}) {
			b.pages = append(b.pages, newPageDoneRow(rec, run.row.SubmittedAt, e))
		}
	case schemas.PageFailed:
		run.describe(rec.Run)
		if run.see(uint32(rec.Page), page{version: e.version, code: unique.Make(cmp.Or(rec.Code, unknownCode))}) {
			b.pages = append(b.pages, newPageFailedRow(rec, run.row.SubmittedAt, e))
		}
	}
	// The end is worked out record by record, so that its time does not depend on how records fell into batches.
	run.settle()
}
