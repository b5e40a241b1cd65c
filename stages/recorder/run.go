package recorder

import (
	"time"
	"unique"

	"leafcutter/schemas"
)

// outranks is the bit of a row's version that sets a page that is done above its failure, and a run that has ended above
// every earlier row of it. What is below it is schemas.RowVersion, whose own highest bit stays 0 until the year 250,000.
const outranks = uint64(1) << 63

// maxPage bounds page numbers, so that a record cannot make memory grow by naming pages that nobody has.
const maxPage = 1 << 24

// stamp is the time of the record that a version came from, in Unix milliseconds.
func stamp(version uint64) int64 { return int64(version &^ outranks >> 20) }

// page is what the recorder keeps of one page: enough to tell whether another record about it outranks this one.
type page struct {
	version uint64
	boxes   uint32
	code    unique.Handle[string] // of a page that failed
}

func (p page) done() bool { return p.version&outranks != 0 }

// run is what the recorder keeps of one run: its row, and the page bitmap with a version for each bit.
type run struct {
	row    runRow // as it is to be read, but for the version
	landed runRow // as the table has it; Version 0 where it has none

	pages   map[uint32]page
	codes   map[unique.Handle[string]]int // failed pages by code
	seen    uint64                        // highest version of any record, without outranks
	decided schemas.State                 // what the deciding record said: Queued or Failed; "" where none came
	failure failure                       // what it said, where it was Failed
	waiting bool                          // no detector serves the model
	// pruned is a run that had ended with all its pages and whose page rows are gone since: its end and counters stay as
	// they are, whatever still comes of its pages.
	pruned bool

	// said is the identity of the end that was last put out, and saidBy the offset of the record it went out with. A
	// record from there or before comes again only if that output may be lost.
	said   string
	saidBy int64
}

type failure struct{ stage, code, error string }

func newRun(documentID, runID string, submittedAt int64) *run {
	return &run{
		row:   runRow{DocumentID: documentID, RunID: runID, SubmittedAt: submittedAt, State: schemas.Queued},
		pages: map[uint32]page{},
		codes: map[unique.Handle[string]]int{},
	}
}

// loadedRun is a run as its row has it; its pages are to be put in by see.
func loadedRun(row runRow) *run {
	r := newRun(row.DocumentID, row.RunID, row.SubmittedAt)
	r.row, r.landed = row, row
	// The counters are counted again from the pages: a crash may have come between their rows and this one.
	r.row.PagesDone, r.row.PagesFailed, r.row.Boxes = 0, 0, 0
	r.waiting = row.State == schemas.WaitingForModel
	switch {
	case row.Decision == 0:
	case row.State == schemas.Failed && row.Stage != "":
		r.decided, r.failure = schemas.Failed, failure{row.Stage, row.Code, row.Error}
	default:
		r.decided = schemas.Queued
	}
	return r
}

// loaded says that all pages of a loadedRun which have rows have been put in. Pages are landed before their run's row, so
// fewer than it counts means that rows were deleted for their age.
func (r *run) loaded() {
	l := r.landed
	counted := l.PagesDone + l.PagesFailed
	if l.State.Final() && l.PagesSelected > 0 && counted >= l.PagesSelected && uint32(len(r.pages)) < counted {
		r.pruned, r.row = true, l
	}
}

// describe takes over what a record says of the run itself. Every record of a run says the same, except that a run that
// failed early knows less.
func (r *run) describe(from schemas.Run) {
	o := from.Options
	if r.row.Options == "" || from.PagesSelected > int(r.row.PagesSelected) {
		r.row.Model, r.row.ModelDigest, r.row.Options, r.row.DPI = o.Model, o.ModelDigest, o.Canonical(), uint16(o.DPI)
	}
	r.row.Shadow = r.row.Shadow || o.Shadow // a stage of an earlier version leaves it out
	r.row.PagesSelected = max(r.row.PagesSelected, uint32(max(0, from.PagesSelected)))
}

// decide takes over the word of the planner, unless a later one is known.
func (r *run) decide(version uint64, state schemas.State, plannedAt int64, why failure) {
	r.seen = max(r.seen, version)
	if version < r.row.Decision {
		return
	}
	r.row.Decision, r.decided, r.failure = version, state, why
	if plannedAt != 0 && (r.row.PlannedAt == 0 || !r.covered()) {
		r.row.PlannedAt = plannedAt
	}
}

// command takes over a cancellation, or that earlier ones are taken back, unless a later control is known: one with a
// higher sequence, however late its record came. Of one sequence the cancellation holds, as in package controls.
func (r *run) command(version uint64, sequence int64, cancels bool) {
	r.seen = max(r.seen, version)
	sequence = max(sequence, 1) // records of the first version may carry none
	held := max(r.row.Control, -r.row.Control)
	switch {
	case sequence < held || sequence == held && !cancels:
	case cancels:
		r.row.Control = sequence
	default:
		r.row.Control = -sequence
	}
}

// see takes over what a record says of a page, and reports whether that is news: false where what is known outranks it
// or is the very same. version carries outranks where the page is done.
func (r *run) see(n uint32, p page) bool {
	r.seen = max(r.seen, p.version&^outranks)
	if at := stamp(p.version); !r.pruned && (r.row.FirstResultAt == 0 || at < r.row.FirstResultAt) {
		r.row.FirstResultAt = at
	}
	old, known := r.pages[n]
	if known && old.version >= p.version {
		return false
	}
	if known {
		r.count(old, -1)
	}
	r.count(p, 1)
	r.pages[n] = p
	return true
}

func (r *run) count(p page, by int) {
	if r.pruned {
		return
	}
	if p.done() {
		r.row.PagesDone = uint32(int(r.row.PagesDone) + by)
		r.row.Boxes = uint64(int(r.row.Boxes) + by*int(p.boxes))
		return
	}
	r.row.PagesFailed = uint32(int(r.row.PagesFailed) + by)
	if r.codes[p.code] += by; r.codes[p.code] == 0 {
		delete(r.codes, p.code)
	}
}

// settle works out state, code and end from what is known. It is a function of the set of records seen, not of their
// order, except that the time of an end stays what it was first said to be for as long as the end is the same: another
// delivery of a page does not end the run again.
func (r *run) settle() {
	if r.pruned {
		return
	}
	before := r.row
	now := &r.row
	now.Code, now.Stage, now.Error, now.FinishedAt = "", "", "", 0
	switch {
	case r.covered():
		switch {
		case now.PagesDone == 0:
			now.State, now.Code = schemas.Failed, r.commonest()
		case now.PagesFailed > 0:
			now.State = schemas.CompletedWithFailures
		default:
			now.State = schemas.Completed
		}
	case r.decided == schemas.Failed:
		now.State, now.Stage, now.Code, now.Error = schemas.Failed, r.failure.stage, r.failure.code, r.failure.error
		now.FinishedAt = stamp(now.Decision)
	case r.decided == schemas.Queued && now.PagesSelected == 0:
		now.State, now.Stage, now.Code, now.Error = schemas.Failed, "planner", "no-pages", "the selection has no page of the document"
		now.FinishedAt = stamp(now.Decision)
	case now.Control > 0:
		now.State, now.FinishedAt = schemas.Cancelled, cancelledAt(now)
	case now.PagesDone+now.PagesFailed > 0:
		now.State = schemas.Running
	case r.waiting:
		now.State = schemas.WaitingForModel
	default:
		now.State = schemas.Queued
	}
	if before.State.Final() && before.FinishedAt != 0 && before.end() == now.end() {
		now.FinishedAt = before.FinishedAt
	} else if r.covered() {
		for _, p := range r.pages {
			now.FinishedAt = max(now.FinishedAt, stamp(p.version))
		}
	}
}

// cancelledAt is when the cancellation that holds was asked for: sequences of controls are times. Of one that is not, when
// the document was submitted.
func cancelledAt(r *runRow) int64 {
	if asked := orZero(time.UnixMilli(r.Control)); asked != 0 {
		return asked
	}
	return r.SubmittedAt
}

// covered tells whether every selected page has a result. It stays so: results are never taken back.
func (r *run) covered() bool {
	return r.row.PagesSelected > 0 && r.row.PagesDone+r.row.PagesFailed >= r.row.PagesSelected
}

// commonest is the code that most failed pages have, the first by name among equals.
func (r *run) commonest() string {
	best, n := "", 0
	for code, count := range r.codes {
		if c := code.Value(); count > n || count == n && c < best {
			best, n = c, count
		}
	}
	return best
}

// change gives the row to be written with its version, or false where the table has it already. The version is that of
// the newest record seen, and in any case above what the table has, so that clocks that disagree cannot hide a change.
func (r *run) change() (runRow, bool) {
	row := r.row
	row.Version = r.landed.Version
	if r.landed.Version != 0 && row == r.landed {
		return runRow{}, false
	}
	row.Version = r.seen
	if row.State.Final() {
		row.Version |= outranks
	}
	row.Version = max(row.Version, r.landed.Version+1)
	return row, true
}

// ended is what is said of a run that has ended, of a document whose row is known.
func ended(r runRow, d documentRow) schemas.RunEnded {
	e := schemas.RunEnded{
		DocumentID: r.DocumentID, RunID: r.RunID, Title: d.Title, Model: r.Model, State: r.State, Code: r.Code,
		PagesSelected: int(r.PagesSelected), PagesDone: int(r.PagesDone), PagesFailed: int(r.PagesFailed),
		Boxes: int(r.Boxes), SubmittedAt: millis(r.SubmittedAt), FinishedAt: millis(r.FinishedAt), WebhookURL: d.WebhookURL,
	}
	if r.State == schemas.Cancelled {
		e.Control = r.Control
	}
	e.ID = e.EventID()
	return e
}
