package recorder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"slices"
	"strings"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/failpoint"
	"leafcutter/schemas"
)

// tables is what the recorder touches of ClickHouse. Errors are classed (package fault). Readers answer as SELECT …
// FINAL does: the row with the highest version, and what was inserted before is seen.
type tables interface {
	readDocuments(ctx context.Context, ids []string) ([]documentRow, error)
	readRuns(ctx context.Context, keys []runKey) ([]runRow, error)
	readPages(ctx context.Context, keys []runKey) ([]pageSeen, error)
	// readEnded gives the runs of documents that have ended.
	readEnded(ctx context.Context, documents []string) ([]runRow, error)
	// readIdle gives runs that are queued or waiting for their model, the newest first.
	readIdle(ctx context.Context, limit int) ([]runRow, error)
	// readDeletions gives what deletions has of documents.
	readDeletions(ctx context.Context, documents []string) ([]deletionRow, error)
	// delete lands rows in deletions and deletes all others of documents. After an error it may be called again.
	delete(ctx context.Context, documents []string, rows []deletionRow) error
	// insert returns nil once all rows can be read. After an error some of them may be there.
	insert(ctx context.Context, documents []documentRow, pages []pageRow, runs []runRow) error
}

// ProbeQuery finds out whether ClickHouse takes writes, by writing one row into a table made for that. A server that is
// read-only, or has no room on its disk or in its memory, still answers SELECT: a probe that only read would call it
// there, and the rows that it refuses would be taken for the ones at fault. It needs the right to insert that the
// recorder has, runs only while an insert or a query has failed, and leaves one row. A table whose own parts are too many
// is not seen by it.
const ProbeQuery = "INSERT INTO probes (prober, at) SELECT '" + Name + "', now64(3)"

// database is the real tables.
type database struct{ db *clickhouse.DB }

// maxNamed is how many identities a query names at most: the server bounds the length of a statement.
const maxNamed = 2000

const readDocumentsSQL = `SELECT toString(document_id), title, source_uri, content_type, sha256, bytes, page_count,
	toUnixTimestamp64Milli(submitted_at), webhook_url, version
FROM documents FINAL WHERE document_id IN (%s) ORDER BY submitted_at DESC`

func (d database) readDocuments(ctx context.Context, ids []string) ([]documentRow, error) {
	var rows []documentRow
	for part := range slices.Chunk(ids, maxNamed) {
		err := d.read(ctx, fmt.Sprintf(readDocumentsSQL, quoted(part)), func(r driver.Rows) error {
			var row documentRow
			if err := r.Scan(&row.DocumentID, &row.Title, &row.SourceURI, &row.ContentType, &row.SHA256, &row.Bytes, &row.PageCount,
				&row.SubmittedAt, &row.WebhookURL, &row.Version); err != nil {
				return err
			}
			rows = append(rows, row)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read documents: %w", err)
		}
	}
	return rows, nil
}

// The columns of a run. coalesce to 0 stands for NULL, as in runRow.
const runColumns = `toString(run_id), toString(document_id), model, model_digest, options, dpi, pages_selected, pages_done,
	pages_failed, boxes, state, code, coalesce(toUnixTimestamp64Milli(planned_at), 0),
	coalesce(toUnixTimestamp64Milli(first_result_at), 0), coalesce(toUnixTimestamp64Milli(finished_at), 0),
	toUnixTimestamp64Milli(submitted_at), stage, error, decision, control, shadow, version`

func scanRun(r driver.Rows) (row runRow, err error) {
	var state string
	err = r.Scan(&row.RunID, &row.DocumentID, &row.Model, &row.ModelDigest, &row.Options, &row.DPI, &row.PagesSelected,
		&row.PagesDone, &row.PagesFailed, &row.Boxes, &state, &row.Code, &row.PlannedAt, &row.FirstResultAt, &row.FinishedAt,
		&row.SubmittedAt, &row.Stage, &row.Error, &row.Decision, &row.Control, &row.Shadow, &row.Version)
	row.State = schemas.State(state)
	return row, err
}

func (d database) readRuns(ctx context.Context, keys []runKey) ([]runRow, error) {
	var rows []runRow
	for part := range slices.Chunk(keys, maxNamed/2) {
		documents, runs := split(part)
		query := fmt.Sprintf("SELECT %s FROM runs FINAL WHERE document_id IN (%s) AND run_id IN (%s)", runColumns, quoted(documents), quoted(runs))
		err := d.read(ctx, query, func(r driver.Rows) error {
			row, err := scanRun(r)
			rows = append(rows, row)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read runs: %w", err)
		}
	}
	return rows, nil
}

func (d database) readEnded(ctx context.Context, documents []string) ([]runRow, error) {
	var rows []runRow
	for part := range slices.Chunk(documents, maxNamed) {
		// FINAL replaces rows before state is looked at: a run that was resumed has not ended.
		query := fmt.Sprintf("SELECT %s FROM runs FINAL WHERE document_id IN (%s) AND state IN ('%s', '%s', '%s', '%s')", runColumns,
			quoted(part), schemas.Completed, schemas.CompletedWithFailures, schemas.Failed, schemas.Cancelled)
		err := d.read(ctx, query, func(r driver.Rows) error {
			row, err := scanRun(r)
			rows = append(rows, row)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read ended runs: %w", err)
		}
	}
	return rows, nil
}

const readPagesSQL = `SELECT toString(document_id), toString(run_id), page, toUInt32(length(boxes.class)), code,
	toUnixTimestamp64Milli(submitted_at), version
FROM page_results FINAL WHERE document_id IN (%s) AND run_id IN (%s)`

func (d database) readPages(ctx context.Context, keys []runKey) ([]pageSeen, error) {
	var rows []pageSeen
	for part := range slices.Chunk(keys, maxNamed/2) {
		documents, runs := split(part)
		err := d.read(ctx, fmt.Sprintf(readPagesSQL, quoted(documents), quoted(runs)), func(r driver.Rows) error {
			var row pageSeen
			err := r.Scan(&row.DocumentID, &row.RunID, &row.Page, &row.Boxes, &row.Code, &row.SubmittedAt, &row.Version)
			rows = append(rows, row)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read pages: %w", err)
		}
	}
	return rows, nil
}

func (d database) readIdle(ctx context.Context, limit int) ([]runRow, error) {
	var rows []runRow
	query := fmt.Sprintf("SELECT %s FROM runs FINAL WHERE state IN ('%s', '%s') ORDER BY submitted_at DESC LIMIT %d",
		runColumns, schemas.Queued, schemas.WaitingForModel, limit)
	err := d.read(ctx, query, func(r driver.Rows) error {
		row, err := scanRun(r)
		rows = append(rows, row)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read queued runs: %w", err)
	}
	return rows, nil
}

func (d database) read(ctx context.Context, query string, each func(driver.Rows) error) (err error) {
	rows, err := d.db.Query(ctx, query)
	if err != nil {
		return err
	}
	defer func() {
		if closed := rows.Close(); err == nil {
			err = closed
		}
	}()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// insert sends documents, then pages, then runs. Each carries a token made of its rows: ClickHouse drops a block that
// it has taken already when the answer was lost on the way.
func (d database) insert(ctx context.Context, documents []documentRow, pages []pageRow, runs []runRow) error {
	if len(documents) > 0 {
		token := newToken("documents")
		token.json(documents)
		err := d.send(ctx, insertDocumentsSQL, token, len(documents), func(b driver.Batch, i int) error {
			r := &documents[i]
			return b.Append(r.DocumentID, r.Title, r.SourceURI, r.ContentType, r.SHA256, r.Bytes, r.PageCount,
				millis(r.SubmittedAt), r.WebhookURL, r.Version)
		})
		if err != nil {
			return fmt.Errorf("land documents: %w", err)
		}
	}
	if len(pages) > 0 {
		token := newToken("page_results")
		for i := range pages { // key and version name a page's row: see schemas/clickhouse
			fmt.Fprintf(token.hash, "%s/%s/%d/%d\n", pages[i].DocumentID, pages[i].RunID, pages[i].Page, pages[i].Version)
		}
		err := d.send(ctx, insertPagesSQL, token, len(pages), func(b driver.Batch, i int) error { return appendPage(b, &pages[i]) })
		if err != nil {
			return fmt.Errorf("land pages: %w", err)
		}
	}
	if len(runs) > 0 {
		token := newToken("runs")
		token.json(runs)
		err := d.send(ctx, insertRunsSQL, token, len(runs), func(b driver.Batch, i int) error {
			r := &runs[i]
			return b.Append(r.RunID, r.DocumentID, r.Model, r.ModelDigest, r.Options, r.DPI, r.PagesSelected, r.PagesDone,
				r.PagesFailed, r.Boxes, string(r.State), r.Code, nullable(r.PlannedAt), nullable(r.FirstResultAt),
				nullable(r.FinishedAt), millis(r.SubmittedAt), r.Stage, r.Error, r.Decision, r.Control, r.Shadow, r.Version)
		})
		if err != nil {
			return fmt.Errorf("land runs: %w", err)
		}
	}
	return nil
}

const (
	insertDocumentsSQL = `INSERT INTO documents (document_id, title, source_uri, content_type, sha256, bytes, page_count,
	submitted_at, webhook_url, version)`
	insertPagesSQL = `INSERT INTO page_results (document_id, run_id, page, state, code, error, dpi, width, height, image_key,
	annotated_key, boxes.class, boxes.score, boxes.x0, boxes.y0, boxes.x1, boxes.y1, boxes.crop_key, boxes.text,
	render_ms, queue_ms, infer_ms, annotate_ms, trace_id, detected_at, submitted_at, stage, version)`
	insertRunsSQL = `INSERT INTO runs (run_id, document_id, model, model_digest, options, dpi, pages_selected, pages_done,
	pages_failed, boxes, state, code, planned_at, first_result_at, finished_at, submitted_at, stage, error, decision, control,
	shadow, version)`
)

func appendPage(b driver.Batch, r *pageRow) error {
	n := len(r.Boxes)
	classes, crops, texts := make([]string, n), make([]string, n), make([]string, n)
	numbers := make([]float64, 5*n)
	scores, x0, y0, x1, y1 := numbers[:n], numbers[n:2*n], numbers[2*n:3*n], numbers[3*n:4*n], numbers[4*n:]
	for i := range r.Boxes {
		box := &r.Boxes[i]
		classes[i], scores[i], crops[i], texts[i] = box.Class, box.Score, box.CropKey, box.Text
		x0[i], y0[i], x1[i], y1[i] = box.Rect[0], box.Rect[1], box.Rect[2], box.Rect[3]
	}
	return b.Append(r.DocumentID, r.RunID, r.Page, r.State, r.Code, r.Error, r.DPI, r.Width, r.Height, r.ImageKey,
		r.AnnotatedKey, classes, scores, x0, y0, x1, y1, crops, texts,
		r.RenderMS, r.QueueMS, r.InferMS, r.AnnotateMS, r.TraceID, millis(r.DetectedAt), millis(r.SubmittedAt), r.Stage, r.Version)
}

func (d database) send(ctx context.Context, query string, t token, n int, row func(driver.Batch, int) error) error {
	ctx = chgo.Context(ctx, chgo.WithSettings(chgo.Settings{"insert_deduplication_token": t.String()}))
	b, err := d.db.PrepareBatch(ctx, query)
	if err != nil {
		return err
	}
	for i := range n {
		if err := row(b, i); err != nil {
			_ = b.Abort() // nothing was sent; the error of the row is the one that matters
			return err
		}
	}
	if err := b.Send(); err != nil {
		return err
	}
	failpoint.Hit("rows", "inserted")
	return nil
}

// token names a block of rows by what is in it.
type token struct{ hash hash.Hash }

func newToken(table string) token {
	t := token{sha256.New()}
	t.hash.Write([]byte(table + "\n"))
	return t
}

func (t token) json(rows any) {
	_ = json.NewEncoder(t.hash).Encode(rows) // rows hold strings and integers, and a hash takes every byte
}

func (t token) String() string { return hex.EncodeToString(t.hash.Sum(nil)) }

func nullable(ms int64) any {
	if ms == 0 {
		return nil
	}
	return millis(ms)
}

func split(keys []runKey) (documents, runs []string) {
	seen := make(map[string]bool, len(keys))
	for _, k := range keys {
		if !seen[k.document] {
			seen[k.document] = true
			documents = append(documents, k.document)
		}
		runs = append(runs, k.run)
	}
	return documents, runs
}

// quoted is ids as the inside of IN (…). They are UUIDs, which decode has made sure of.
func quoted(ids []string) string { return "'" + strings.Join(ids, "','") + "'" }
