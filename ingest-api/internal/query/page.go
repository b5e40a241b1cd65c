package query

import (
	"context"
	"time"

	"leafcutter/schemas/api"
	"leafcutter/schemas/pages"
)

// Run is one run of a document, and what its rows are found by.
type Run struct {
	api.Run
	DocumentID  string
	SubmittedAt time.Time
	PageCount   int // of the document; 0 where it was not opened yet
}

// Run is the run named, or the newest where runID is empty; nil where there is none.
func (r *Reader) Run(ctx context.Context, documentID, runID string) (*Run, error) {
	runs, err := r.runs(ctx, documentID)
	if err != nil {
		return nil, err
	}
	for _, row := range runs {
		if runID == "" || row.RunID == runID {
			run := &Run{Run: row.run(), DocumentID: documentID, SubmittedAt: row.SubmittedAt}
			var counts []struct {
				PageCount uint32 `ch:"page_count"`
			}
			err := r.DB.Select(ctx, &counts, `SELECT page_count FROM documents FINAL
				WHERE submitted_at = fromUnixTimestamp64Milli(?, 'UTC') AND document_id = toUUID(?) LIMIT 1`,
				row.SubmittedAt.UnixMilli(), documentID)
			if len(counts) > 0 {
				run.PageCount = int(counts[0].PageCount)
			}
			return run, err
		}
	}
	return nil, nil
}

// Selects reports whether page n is one that the run is to do.
func (r *Run) Selects(n int) bool {
	if r.Options == nil || n < 1 || n > r.PageCount {
		return false
	}
	selection, err := pages.Parse(r.Options.Pages)
	if err != nil {
		return false
	}
	for _, p := range selection.Of(r.PageCount) {
		if p == n {
			return true
		}
	}
	return false
}

// Page is a page of a run with the keys of its objects.
type Page struct {
	api.Page
	ImageKey     string
	AnnotatedKey string
	CropKeys     []string // by box, from box 1; empty where the box has none
}

// Pages are the pages of a run that have a row, from number first on, by number: up to limit.
func (r *Reader) Pages(ctx context.Context, run *Run, first, limit int) ([]Page, error) {
	var rows []pageRow
	err := r.DB.Select(ctx, &rows, pageColumns+` FROM page_results FINAL
		WHERE submitted_at = fromUnixTimestamp64Milli(?, 'UTC') AND document_id = toUUID(?) AND run_id = toUUID(?) AND page >= ?
		ORDER BY page LIMIT ?`, run.SubmittedAt.UnixMilli(), run.DocumentID, run.RunID, first, limit)
	if err != nil {
		return nil, err
	}
	list := make([]Page, 0, len(rows))
	for _, row := range rows {
		list = append(list, row.page(run))
	}
	return list, nil
}

const pageColumns = `SELECT page, state, stage, code, error, dpi, width, height, image_key, annotated_key,
	boxes.class AS class, boxes.score AS score, boxes.x0 AS x0, boxes.y0 AS y0, boxes.x1 AS x1, boxes.y1 AS y1,
	boxes.crop_key AS crop_key, boxes.text AS text, render_ms, queue_ms, infer_ms, annotate_ms, trace_id, detected_at`

type pageRow struct {
	Page         uint32    `ch:"page"`
	State        string    `ch:"state"`
	Stage        string    `ch:"stage"`
	Code         string    `ch:"code"`
	Error        string    `ch:"error"`
	DPI          uint16    `ch:"dpi"`
	Width        uint32    `ch:"width"`
	Height       uint32    `ch:"height"`
	ImageKey     string    `ch:"image_key"`
	AnnotatedKey string    `ch:"annotated_key"`
	Class        []string  `ch:"class"`
	Score        []float64 `ch:"score"`
	X0           []float64 `ch:"x0"`
	Y0           []float64 `ch:"y0"`
	X1           []float64 `ch:"x1"`
	Y1           []float64 `ch:"y1"`
	CropKey      []string  `ch:"crop_key"`
	Text         []string  `ch:"text"`
	RenderMS     float64   `ch:"render_ms"`
	QueueMS      float64   `ch:"queue_ms"`
	InferMS      float64   `ch:"infer_ms"`
	AnnotateMS   float64   `ch:"annotate_ms"`
	TraceID      string    `ch:"trace_id"`
	DetectedAt   time.Time `ch:"detected_at"`
}

func (r pageRow) page(run *Run) Page {
	n := int(r.Page)
	p := Page{
		Page: api.Page{
			RunID: run.RunID, Page: n, State: r.State, Stage: r.Stage, Code: r.Code, Error: r.Error,
			DPI: int(r.DPI), Width: int(r.Width), Height: int(r.Height), Boxes: make([]api.Box, 0, len(r.Class)),
			RenderMS: r.RenderMS, QueueMS: r.QueueMS, InferMS: r.InferMS, AnnotateMS: r.AnnotateMS,
			TraceID: r.TraceID, DetectedAt: utc(&r.DetectedAt),
			Links: api.LinksOfPage(run.DocumentID, run.RunID, n, r.State == api.PageDone),
		},
		ImageKey: r.ImageKey, AnnotatedKey: r.AnnotatedKey, CropKeys: r.CropKey,
	}
	for i := range r.Class {
		box := api.Box{K: i + 1, Class: r.Class[i], Score: r.Score[i],
			Rect: [4]float64{r.X0[i], r.Y0[i], r.X1[i], r.Y1[i]}, Text: r.Text[i]}
		if r.CropKey[i] != "" {
			box.Crop = api.CropLink(run.DocumentID, run.RunID, n, box.K)
		}
		p.Boxes = append(p.Boxes, box)
	}
	return p
}

// Spot is a box's place in the list of a run's boxes.
type Spot struct {
	Page int `json:"p,omitempty"`
	K    int `json:"k,omitempty"`
}

// Boxes narrows the list of a run's boxes. Zero fields narrow nothing.
type Boxes struct {
	Class    string
	MinScore float64
	Page     int
	After    Spot // what was listed last
	Limit    int
}

// Detections are the boxes of a run, by page and number: up to Limit, and where to go on if there are more.
func (r *Reader) Detections(ctx context.Context, run *Run, f Boxes) (list []api.Detection, next *Spot, err error) {
	inner, args := "", []any{run.SubmittedAt.UnixMilli(), run.DocumentID, run.RunID}
	if f.After.Page > 0 {
		inner, args = inner+" AND page >= ?", append(args, f.After.Page)
	}
	if f.Page > 0 {
		inner, args = inner+" AND page = ?", append(args, f.Page)
	}
	outer := "score >= ?"
	args = append(args, f.MinScore)
	if f.After.Page > 0 {
		outer, args = outer+" AND (page, k) > (?, ?)", append(args, f.After.Page, f.After.K)
	}
	if f.Class != "" {
		outer, args = outer+" AND class = ?", append(args, f.Class)
	}
	var rows []boxRow
	err = r.DB.Select(ctx, &rows, `SELECT page, k, class, score, x0, y0, x1, y1, crop_key, text, dpi, width, height FROM (
			SELECT page, dpi, width, height, arrayEnumerate(boxes.class) AS ks, boxes.class AS classes, boxes.score AS scores,
				boxes.x0 AS x0s, boxes.y0 AS y0s, boxes.x1 AS x1s, boxes.y1 AS y1s, boxes.crop_key AS crop_keys, boxes.text AS texts
			FROM page_results FINAL
			WHERE submitted_at = fromUnixTimestamp64Milli(?, 'UTC') AND document_id = toUUID(?) AND run_id = toUUID(?)`+inner+`
		) ARRAY JOIN ks AS k, classes AS class, scores AS score, x0s AS x0, y0s AS y0, x1s AS x1, y1s AS y1,
			crop_keys AS crop_key, texts AS text
		WHERE `+outer+` ORDER BY page, k LIMIT ?`, append(args, f.Limit+1)...)
	if err != nil {
		return nil, nil, err
	}
	for _, row := range rows[:min(len(rows), f.Limit)] {
		list = append(list, row.detection(run))
	}
	if len(rows) > f.Limit {
		last := rows[f.Limit-1]
		next = &Spot{Page: int(last.Page), K: int(last.K)}
	}
	return list, next, nil
}

type boxRow struct {
	Page    uint32  `ch:"page"`
	K       uint32  `ch:"k"`
	Class   string  `ch:"class"`
	Score   float64 `ch:"score"`
	X0      float64 `ch:"x0"`
	Y0      float64 `ch:"y0"`
	X1      float64 `ch:"x1"`
	Y1      float64 `ch:"y1"`
	CropKey string  `ch:"crop_key"`
	Text    string  `ch:"text"`
	DPI     uint16  `ch:"dpi"`
	Width   uint32  `ch:"width"`
	Height  uint32  `ch:"height"`
}

func (r boxRow) detection(run *Run) api.Detection {
	n := int(r.Page)
	links := api.LinksOfPage(run.DocumentID, run.RunID, n, true)
	d := api.Detection{DocumentID: run.DocumentID, RunID: run.RunID, Model: run.Model, Page: n,
		Box: api.Box{K: int(r.K), Class: r.Class, Score: r.Score, Rect: [4]float64{r.X0, r.Y0, r.X1, r.Y1}, Text: r.Text},
		DPI: int(r.DPI), Width: int(r.Width), Height: int(r.Height), Image: links.Image, Annotated: links.Annotated}
	if r.CropKey != "" {
		d.Crop = api.CropLink(run.DocumentID, run.RunID, n, d.K)
	}
	return d
}

// QueuedPage is page n of a run that has no row yet.
func (r *Run) QueuedPage(n int) api.Page {
	return api.Page{RunID: r.RunID, Page: n, State: api.PageQueued, Boxes: []api.Box{},
		Links: api.LinksOfPage(r.DocumentID, r.RunID, n, false)}
}

// Final reports whether no page of the run will come any more.
func (r *Run) Final() bool { return r.State.Final() }
