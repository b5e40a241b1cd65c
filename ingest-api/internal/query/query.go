// Package query answers the API's questions from ClickHouse: what there is, how far it is, what was found. The handlers
// of package httpapi, the progress feed and the web pages call it.
//
// It reads the tables and views of schemas/clickhouse with FINAL, so that a page that was done twice is told once.
// Errors keep the class that leafcutter/pkg/clickhouse gave them.
package query

import (
	"context"
	"time"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// DB is what is used of the database.
type DB interface {
	Select(ctx context.Context, dest any, query string, args ...any) error
}

// Reader answers questions. It is safe for any number of goroutines.
type Reader struct {
	DB DB
}

// Filter narrows the list of documents. Zero fields narrow nothing.
type Filter struct {
	State schemas.State
	Title string // part of it, in any case
	After Place  // what was listed last
	Limit int
}

// Place is a document's place in the list.
type Place struct {
	SubmittedAt int64  `json:"s,omitempty"` // milliseconds since 1970
	DocumentID  string `json:"d,omitempty"`
}

// Documents lists documents, newest first: up to Limit, and where to go on if there are more.
func (r *Reader) Documents(ctx context.Context, f Filter) (list []api.Summary, next *Place, err error) {
	where, args := "1", []any{}
	and := func(condition string, values ...any) {
		where += " AND " + condition
		args = append(args, values...)
	}
	if f.After.DocumentID != "" {
		// The plain bound on the leading column of the order is what the tables can skip by.
		and("submitted_at <= fromUnixTimestamp64Milli(?, 'UTC')", f.After.SubmittedAt)
		and("(submitted_at, toString(document_id)) < (fromUnixTimestamp64Milli(?, 'UTC'), ?)", f.After.SubmittedAt, f.After.DocumentID)
	}
	if f.State != "" {
		and("state = ?", string(f.State))
	}
	if f.Title != "" {
		and("positionCaseInsensitiveUTF8(title, ?) > 0", f.Title)
	}
	var rows []summaryRow
	err = r.DB.Select(ctx, &rows, summaryColumns+" FROM document_status WHERE "+where+
		" ORDER BY submitted_at DESC, toString(document_id) DESC LIMIT ?", append(args, f.Limit+1)...)
	if err != nil {
		return nil, nil, err
	}
	for _, row := range rows[:min(len(rows), f.Limit)] {
		list = append(list, row.summary())
	}
	if len(rows) > f.Limit {
		last := rows[f.Limit-1]
		next = &Place{SubmittedAt: last.SubmittedAt.UnixMilli(), DocumentID: last.DocumentID}
	}
	return list, next, nil
}

// Summaries are those of the documents given, by id; one that has no row yet is missing.
func (r *Reader) Summaries(ctx context.Context, documentIDs []string) (map[string]api.Summary, error) {
	var rows []summaryRow
	err := r.DB.Select(ctx, &rows, summaryColumns+" FROM document_status WHERE document_id IN (?)", documentIDs)
	if err != nil {
		return nil, err
	}
	found := make(map[string]api.Summary, len(rows))
	for _, row := range rows {
		found[row.DocumentID] = row.summary()
	}
	return found, nil
}

// Progress is how far documents are, by id, as document_status has it; one that has no row yet is missing. It is asked
// twice a second while somebody watches, so it reads the runs, which take a third of the time of the view, and the view for
// documents without a run alone.
func (r *Reader) Progress(ctx context.Context, documentIDs []string) (map[string]api.Progress, error) {
	var rows []summaryRow
	err := r.DB.Select(ctx, &rows, `SELECT toString(document_id) AS id, state, pages_selected, pages_done, pages_failed, boxes
		FROM runs FINAL WHERE document_id IN (?) AND NOT shadow ORDER BY decision DESC, run_id DESC LIMIT 1 BY document_id`, documentIDs)
	if err != nil {
		return nil, err
	}
	found := make(map[string]api.Progress, len(documentIDs))
	for _, row := range rows {
		found[row.DocumentID] = row.summary().Progress()
	}
	var others []string
	for _, id := range documentIDs {
		if _, ok := found[id]; !ok {
			others = append(others, id)
		}
	}
	if len(others) == 0 {
		return found, nil
	}
	queued, err := r.Summaries(ctx, others)
	for id, s := range queued {
		found[id] = s.Progress()
	}
	return found, err
}

const summaryColumns = `SELECT toString(document_id) AS id, title, state, pages_selected, pages_done, pages_failed, boxes,
	submitted_at, finished_at`

type summaryRow struct {
	DocumentID    string     `ch:"id"`
	Title         string     `ch:"title"`
	State         string     `ch:"state"`
	PagesSelected uint32     `ch:"pages_selected"`
	PagesDone     uint32     `ch:"pages_done"`
	PagesFailed   uint32     `ch:"pages_failed"`
	Boxes         uint64     `ch:"boxes"`
	SubmittedAt   time.Time  `ch:"submitted_at"`
	FinishedAt    *time.Time `ch:"finished_at"`
}

func (r summaryRow) summary() api.Summary {
	return api.Summary{
		DocumentID: r.DocumentID, Title: r.Title, State: schemas.State(r.State),
		PagesSelected: int(r.PagesSelected), PagesDone: int(r.PagesDone), PagesFailed: int(r.PagesFailed), Boxes: int(r.Boxes),
		SubmittedAt: r.SubmittedAt.UTC(), FinishedAt: utc(r.FinishedAt), Links: api.LinksOf(r.DocumentID),
	}
}

func utc(t *time.Time) *time.Time {
	if t == nil || t.IsZero() {
		return nil
	}
	in := t.UTC()
	return &in
}
