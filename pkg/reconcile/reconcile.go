// Package reconcile finds what was accepted and never came to its end: pages of runs that have no row, and documents that
// were never planned. It reads the tables alone and makes the records that ask for the missing part again, with the
// identities that they had the first time, so that asking for what is still on its way costs work and changes nothing.
//
// The API resumes a cancelled document with it; `leafcutter reconcile` mends runs whose records fell out of retention
// before a stage had read them.
package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"leafcutter/schemas"
	"leafcutter/schemas/pages"
)

// DB is what is used of ClickHouse; *clickhouse.DB is one. Errors keep their class.
type DB interface {
	Select(ctx context.Context, dest any, query string, args ...any) error
}

// Filter says which runs are looked at. Zero fields narrow nothing, but for the states.
type Filter struct {
	Documents []string        // only of these; each a UUID
	States    []schemas.State // only runs in these; none: those that are not final
	Quiet     time.Time       // only runs of which nothing was heard since
}

// Run is a run that has not come to its end, and what it misses.
type Run struct {
	schemas.Run
	State  schemas.State
	Heard  time.Time // when it was planned, or its last page was done or given up
	Ranges []schemas.PageRange
	// Why says why nothing can be asked for, nil where it can be.
	Why error
}

// Missing is how many pages of the run have no row.
func (r Run) Missing() int {
	n := 0
	for _, one := range r.Ranges {
		n += len(one.Pages)
	}
	return n
}

// atOnce is how many runs one question names.
const atOnce = 200

// Runs calls visit for each run that the filter lets through, by time of submission, until visit returns an error, which
// it returns. The pages of one run are in memory at a time.
func Runs(ctx context.Context, db DB, f Filter, visit func(Run) error) error {
	for after := (runRow{}); ; {
		rows, err := readRuns(ctx, db, f, after)
		if err != nil {
			return fmt.Errorf("read unfinished runs: %w", err)
		}
		documents, err := readDocuments(ctx, db, rows)
		if err != nil {
			return fmt.Errorf("read the documents of unfinished runs: %w", err)
		}
		for _, row := range rows {
			run, err := missing(ctx, db, row, documents)
			if err != nil {
				return fmt.Errorf("read the pages of run %s: %w", row.RunID, err)
			}
			if !f.Quiet.IsZero() && run.Heard.After(f.Quiet) {
				continue
			}
			if err := visit(run); err != nil {
				return err
			}
		}
		if len(rows) < atOnce {
			return nil
		}
		after = rows[len(rows)-1]
	}
}

type runRow struct {
	RunID         string     `ch:"run"`
	DocumentID    string     `ch:"document"`
	Options       string     `ch:"options"`
	PagesSelected uint32     `ch:"pages_selected"`
	State         string     `ch:"state"`
	PlannedAt     *time.Time `ch:"planned_at"`
	SubmittedAt   time.Time  `ch:"submitted_at"`
}

// readRuns gives the next rows after one, in the order of the table.
func readRuns(ctx context.Context, db DB, f Filter, after runRow) ([]runRow, error) {
	states := f.States
	if len(states) == 0 {
		states = []schemas.State{schemas.Queued, schemas.Running, schemas.WaitingForModel}
	}
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = string(s)
	}
	// FINAL replaces rows before the state is looked at: a run that has ended is not found by its earlier row.
	where, args := "state IN (?)", []any{names}
	if len(f.Documents) > 0 {
		where, args = where+" AND document_id IN (?)", append(args, f.Documents)
	}
	if !f.Quiet.IsZero() { // nothing is heard of a run before its document was submitted
		where, args = where+" AND submitted_at <= fromUnixTimestamp64Milli(?, 'UTC')", append(args, f.Quiet.UnixMilli())
	}
	if after.RunID != "" {
		at := after.SubmittedAt.UnixMilli()
		where += " AND submitted_at >= fromUnixTimestamp64Milli(?, 'UTC')" +
			" AND (submitted_at, toString(document_id), toString(run_id)) > (fromUnixTimestamp64Milli(?, 'UTC'), ?, ?)"
		args = append(args, at, at, after.DocumentID, after.RunID)
	}
	var rows []runRow
	err := db.Select(ctx, &rows, `SELECT toString(run_id) AS run, toString(document_id) AS document, options, pages_selected, state,
			planned_at, submitted_at
		FROM runs FINAL WHERE `+where+` ORDER BY submitted_at, document, run LIMIT ?`, append(args, atOnce)...)
	return rows, err
}

type documentRow struct {
	DocumentID  string    `ch:"document"`
	SourceURI   string    `ch:"source_uri"`
	SHA256      string    `ch:"sha256"`
	ContentType string    `ch:"content_type"`
	PageCount   uint32    `ch:"page_count"`
	SubmittedAt time.Time `ch:"submitted_at"`
}

// documentKey is a document's place in its table: a run lies beside the row of the same time.
type documentKey struct {
	submittedAt int64 // Unix milliseconds
	id          string
}

func readDocuments(ctx context.Context, db DB, runs []runRow) (map[documentKey]documentRow, error) {
	if len(runs) == 0 {
		return nil, nil
	}
	var ids []string
	for _, r := range runs {
		ids = append(ids, r.DocumentID)
	}
	slices.Sort(ids)
	var rows []documentRow
	err := db.Select(ctx, &rows, `SELECT toString(document_id) AS document, source_uri, sha256, content_type, page_count, submitted_at
		FROM documents FINAL
		WHERE submitted_at >= fromUnixTimestamp64Milli(?, 'UTC') AND submitted_at <= fromUnixTimestamp64Milli(?, 'UTC')
			AND document_id IN (?)`,
		runs[0].SubmittedAt.UnixMilli(), runs[len(runs)-1].SubmittedAt.UnixMilli(), slices.Compact(ids))
	found := make(map[documentKey]documentRow, len(rows))
	for _, row := range rows {
		found[documentKey{row.SubmittedAt.UnixMilli(), row.DocumentID}] = row
	}
	return found, err
}

// missing looks for what a run has, and tells what it lacks. Its error is that of the database.
func missing(ctx context.Context, db DB, row runRow, documents map[documentKey]documentRow) (Run, error) {
	run := Run{State: schemas.State(row.State), Heard: row.SubmittedAt.UTC()}
	run.DocumentID, run.RunID, run.SubmittedAt, run.PagesSelected = row.DocumentID, row.RunID, row.SubmittedAt.UTC(), int(row.PagesSelected)
	if row.PlannedAt != nil && row.PlannedAt.After(run.Heard) {
		run.Heard = row.PlannedAt.UTC()
	}
	var found []struct {
		Page uint32    `ch:"page"`
		At   time.Time `ch:"at"`
	}
	// A page whose failure was replaced by its success is one page, so nothing is gained by FINAL.
	err := db.Select(ctx, &found, `SELECT page, max(detected_at) AS at FROM page_results
		WHERE submitted_at = fromUnixTimestamp64Milli(?, 'UTC') AND document_id = toUUID(?) AND run_id = toUUID(?)
		GROUP BY page`, row.SubmittedAt.UnixMilli(), row.DocumentID, row.RunID)
	if err != nil {
		return run, err
	}
	done := make(map[int]bool, len(found))
	for _, p := range found {
		done[int(p.Page)] = true
		if p.At.After(run.Heard) {
			run.Heard = p.At.UTC()
		}
	}
	document, known := documents[documentKey{row.SubmittedAt.UnixMilli(), row.DocumentID}]
	if !known || document.PageCount == 0 {
		run.Why = errors.New("the row of its document has not landed")
		return run, nil
	}
	run.Source, run.SHA256, run.ContentType = document.SourceURI, document.SHA256, document.ContentType
	run.Why = run.plan(row.Options, int(document.PageCount), func(page int) bool { return done[page] })
	return run, nil
}

// plan works out the ranges as the planner did. It refuses a run that this build would plan otherwise: its pages would
// carry another run's identity.
func (r *Run) plan(options string, pageCount int, done func(page int) bool) error {
	if err := json.NewDecoder(strings.NewReader(options)).Decode(&r.Options); err != nil {
		return fmt.Errorf("its options cannot be read: %w", err)
	}
	if id := schemas.RunID(r.DocumentID, r.Options); id != r.RunID {
		return fmt.Errorf("its options are those of run %s", id)
	}
	selection, err := pages.Parse(r.Options.Pages)
	if err != nil {
		return fmt.Errorf("its selection of pages cannot be read: %w", err)
	}
	selected := selection.Of(pageCount)
	if len(selected) != r.PagesSelected {
		return fmt.Errorf("it has %d pages, and %q of %d pages are %d", r.PagesSelected, selection, pageCount, len(selected))
	}
	r.Ranges = Ranges(r.Run, selected, done)
	return nil
}
