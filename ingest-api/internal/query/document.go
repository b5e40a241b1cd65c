package query

import (
	"context"
	"encoding/json"
	"time"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// maxFailures is how many failed pages a document names; the rest is in SQL.
const maxFailures = 100

// Document is everything about a document except its pages; nil where nothing of it has landed yet.
func (r *Reader) Document(ctx context.Context, documentID string) (*api.Document, error) {
	var documents []documentRow
	err := r.DB.Select(ctx, &documents, `SELECT title, content_type, sha256, bytes, page_count, submitted_at, webhook_url
		FROM documents FINAL WHERE document_id = toUUID(?) LIMIT 1`, documentID)
	if err != nil {
		return nil, err
	}
	runs, err := r.runs(ctx, documentID)
	if err != nil {
		return nil, err
	}
	if len(documents) == 0 && len(runs) == 0 {
		return nil, nil
	}
	d := &api.Document{Runs: []api.Run{}, Failures: []api.PageFailure{}}
	d.DocumentID, d.State, d.Links = documentID, schemas.Queued, api.LinksOf(documentID)
	if len(documents) > 0 {
		row := documents[0]
		d.Title, d.ContentType, d.SHA256 = row.Title, row.ContentType, row.SHA256
		d.Bytes, d.PageCount, d.SubmittedAt = int64(row.Bytes), int(row.PageCount), row.SubmittedAt.UTC()
	}
	failed := 0
	for _, row := range runs {
		d.Runs = append(d.Runs, row.run())
		failed += int(row.PagesFailed)
	}
	if len(runs) > 0 {
		newest := d.Runs[0]
		d.State, d.Code, d.Error, d.FinishedAt = newest.State, newest.Code, newest.Error, newest.FinishedAt
		d.PagesSelected, d.PagesDone, d.PagesFailed, d.Boxes = newest.PagesSelected, newest.PagesDone, newest.PagesFailed, newest.Boxes
		d.SubmittedAt = runs[0].SubmittedAt.UTC()
	}
	if failed > 0 {
		if d.Failures, err = r.failures(ctx, documentID, d.SubmittedAt); err != nil {
			return nil, err
		}
	}
	if len(documents) > 0 && documents[0].WebhookURL != "" {
		if d.Webhooks, err = r.deliveries(ctx, documentID); err != nil {
			return nil, err
		}
	}
	return d, nil
}

type documentRow struct {
	Title       string    `ch:"title"`
	ContentType string    `ch:"content_type"`
	SHA256      string    `ch:"sha256"`
	Bytes       uint64    `ch:"bytes"`
	PageCount   uint32    `ch:"page_count"`
	SubmittedAt time.Time `ch:"submitted_at"`
	WebhookURL  string    `ch:"webhook_url"`
}

// Source is where a document lies, s3://bucket/key, and its title; empty where nothing of it has landed yet.
func (r *Reader) Source(ctx context.Context, documentID string) (uri, title string, err error) {
	var rows []struct {
		URI   string `ch:"source_uri"`
		Title string `ch:"title"`
	}
	err = r.DB.Select(ctx, &rows, "SELECT source_uri, title FROM documents FINAL WHERE document_id = toUUID(?) LIMIT 1", documentID)
	if err != nil || len(rows) == 0 {
		return "", "", err
	}
	return rows[0].URI, rows[0].Title, nil
}

// runs are those of a document but its shadows, newest first by the order of the view document_status.
func (r *Reader) runs(ctx context.Context, documentID string) ([]runRow, error) {
	var rows []runRow
	err := r.DB.Select(ctx, &rows, `SELECT toString(run_id) AS id, model, model_digest, options, dpi, pages_selected,
			pages_done, pages_failed, boxes, state, stage, code, error, planned_at, first_result_at, finished_at, submitted_at
		FROM runs FINAL WHERE document_id = toUUID(?) AND NOT shadow
		ORDER BY coalesce(planned_at, finished_at, submitted_at) DESC, run_id DESC LIMIT 1000`, documentID)
	return rows, err
}

type runRow struct {
	RunID         string     `ch:"id"`
	Model         string     `ch:"model"`
	ModelDigest   string     `ch:"model_digest"`
	Options       string     `ch:"options"`
	DPI           uint16     `ch:"dpi"`
	PagesSelected uint32     `ch:"pages_selected"`
	PagesDone     uint32     `ch:"pages_done"`
	PagesFailed   uint32     `ch:"pages_failed"`
	Boxes         uint64     `ch:"boxes"`
	State         string     `ch:"state"`
	Stage         string     `ch:"stage"`
	Code          string     `ch:"code"`
	Error         string     `ch:"error"`
	PlannedAt     *time.Time `ch:"planned_at"`
	FirstResultAt *time.Time `ch:"first_result_at"`
	FinishedAt    *time.Time `ch:"finished_at"`
	SubmittedAt   time.Time  `ch:"submitted_at"`
}

func (r runRow) run() api.Run {
	return api.Run{
		RunID: r.RunID, Model: r.Model, ModelDigest: r.ModelDigest, State: schemas.State(r.State),
		Stage: r.Stage, Code: r.Code, Error: r.Error, DPI: int(r.DPI),
		PagesSelected: int(r.PagesSelected), PagesDone: int(r.PagesDone), PagesFailed: int(r.PagesFailed), Boxes: int(r.Boxes),
		Options: r.options(), PlannedAt: utc(r.PlannedAt), FirstResultAt: utc(r.FirstResultAt), FinishedAt: utc(r.FinishedAt),
	}
}

// options are what the run was resolved to; nil for a run that failed before it was.
func (r runRow) options() *schemas.RunOptions {
	var o schemas.RunOptions
	if r.Options == "" || json.Unmarshal([]byte(r.Options), &o) != nil {
		return nil
	}
	return &o
}

func (r *Reader) failures(ctx context.Context, documentID string, submittedAt time.Time) ([]api.PageFailure, error) {
	var rows []struct {
		RunID string `ch:"id"`
		Page  uint32 `ch:"page"`
		Stage string `ch:"stage"`
		Code  string `ch:"code"`
		Error string `ch:"error"`
	}
	err := r.DB.Select(ctx, &rows, `SELECT toString(run_id) AS id, page, stage, code, error FROM page_results FINAL
		WHERE submitted_at = fromUnixTimestamp64Milli(?, 'UTC') AND document_id = toUUID(?) AND state = 'failed'
			AND run_id NOT IN (SELECT run_id FROM runs FINAL WHERE document_id = toUUID(?) AND shadow)
		ORDER BY page, id LIMIT ?`, submittedAt.UnixMilli(), documentID, documentID, maxFailures)
	failures := make([]api.PageFailure, 0, len(rows))
	for _, row := range rows {
		failures = append(failures, api.PageFailure{RunID: row.RunID, Page: int(row.Page), Stage: row.Stage, Code: row.Code, Error: row.Error})
	}
	return failures, err
}
