package ingestapi_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
	"time"

	"leafcutter/pkg/crop"
	"leafcutter/schemas"
)

// landed is a document that the pipeline has done, as the recorder and the annotator leave it: two pages done, one
// failed. Page 2 has its crops left to the API.
type landed struct {
	documentID, runID string
	submittedAt       time.Time
	title             string
	boxes             map[int][]schemas.CutBox
	images            map[int][]byte // by page
}

const (
	pageWidth, pageHeight = 400, 300
	renderer              = "test"
)

// land writes rows and objects of a document with the state given.
func (w *world) land(documentID, title string, submittedAt time.Time, state schemas.State) *landed {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	options := schemas.RunOptions{Model: "layout_cdla", ModelDigest: strings.Repeat("ab", 32), DPI: 108, Pages: "1-3",
		Thresholds: map[string]float64{"*": 0.4}, CropPadding: 4, Renderer: renderer}
	d := &landed{documentID: documentID, runID: schemas.RunID(documentID, options), submittedAt: submittedAt.UTC().Truncate(time.Millisecond),
		title: title, boxes: map[int][]schemas.CutBox{}, images: map[int][]byte{}}
	source := schemas.SourceKey(documentID)
	w.put(ctx, source, []byte("%PDF-1.7 of "+title), "application/pdf")
	w.insert(ctx, "documents (document_id, title, source_uri, content_type, sha256, bytes, page_count, submitted_at, version)",
		[]any{documentID, title, w.store.URI(source), "application/pdf", strings.Repeat("cd", 32), uint64(1234), uint32(4), d.submittedAt, uint64(1)})
	var finished *time.Time
	if state.Final() {
		at := d.submittedAt.Add(5 * time.Second)
		finished = &at
	}
	planned := d.submittedAt.Add(time.Second)
	w.insert(ctx, `runs (run_id, document_id, model, model_digest, options, dpi, pages_selected, pages_done, pages_failed, boxes,
		state, planned_at, finished_at, submitted_at, version)`,
		[]any{d.runID, documentID, options.Model, options.ModelDigest, options.Canonical(), uint16(108), uint32(3), uint32(2), uint32(1),
			uint64(5), string(state), &planned, finished, d.submittedAt, uint64(1)})
	for _, page := range []int{1, 2} {
		w.landPage(ctx, d, options, page)
	}
	w.insert(ctx, "page_results (document_id, run_id, page, state, stage, code, error, detected_at, submitted_at, version)",
		[]any{documentID, d.runID, uint32(3), "failed", "splitter", "page-too-large", "page 3 has 900000000 pixels", d.submittedAt, d.submittedAt, uint64(1)})
	return d
}

func (w *world) landPage(ctx context.Context, d *landed, o schemas.RunOptions, page int) {
	w.Helper()
	imageKey := schemas.PageImageKey(d.documentID, o.DPI, renderer, page)
	annotatedKey := schemas.AnnotatedKey(d.documentID, d.runID, page)
	picture := picture(w, page)
	d.images[page] = picture
	w.put(ctx, imageKey, picture, "image/png")
	w.put(ctx, annotatedKey, picture, "image/png")
	boxes := []schemas.CutBox{
		{Box: schemas.Box{Class: "title", Score: 0.9, Rect: [4]float64{20, 10, 200, 40}}, Text: fmt.Sprintf("Heading %d <script>alert(1)</script>", page)},
		{Box: schemas.Box{Class: "table", Score: 0.6, Rect: [4]float64{20, 60, 380, 200}}},
		{Box: schemas.Box{Class: "text", Score: 0.2, Rect: [4]float64{20, 220, 380, 280}}, Text: "below the threshold"},
	}
	var class, cropKey, text []string
	var score, x0, y0, x1, y1 []float64
	for i := range boxes {
		b := &boxes[i]
		if b.Score >= o.Threshold(b.Class) {
			rect := crop.Rect(b.Rect, o.CropPadding, pageWidth, pageHeight)
			b.CropKey = schemas.CropKey(d.documentID, d.runID, page, imageKey, rect, o.CropPadding)
			if page == 1 {
				w.put(ctx, b.CropKey, []byte("\x89PNG\r\n\x1a\n crop "+b.Class), "image/png")
			}
		}
		class, cropKey, text = append(class, b.Class), append(cropKey, b.CropKey), append(text, b.Text)
		score, x0, y0 = append(score, b.Score), append(x0, b.Rect[0]), append(y0, b.Rect[1])
		x1, y1 = append(x1, b.Rect[2]), append(y1, b.Rect[3])
	}
	d.boxes[page] = boxes
	// Twice, with an older version that says otherwise: FINAL must give the newer one.
	for version, state := range []string{"failed", "done"} {
		w.insert(ctx, `page_results (document_id, run_id, page, state, dpi, width, height, image_key, annotated_key, boxes.class, boxes.score,
			boxes.x0, boxes.y0, boxes.x1, boxes.y1, boxes.crop_key, boxes.text, render_ms, queue_ms, infer_ms, annotate_ms, trace_id,
			detected_at, submitted_at, version)`,
			[]any{d.documentID, d.runID, uint32(page), state, uint16(o.DPI), uint32(pageWidth), uint32(pageHeight), imageKey, annotatedKey,
				class, score, x0, y0, x1, y1, cropKey, text, 1.5, 2.5, 3.5, 4.5, "", d.submittedAt.Add(2 * time.Second), d.submittedAt, uint64(version + 1)})
	}
}

func (w *world) put(ctx context.Context, key string, body []byte, contentType string) {
	w.Helper()
	if err := w.store.Put(ctx, key, body, contentType); err != nil {
		w.Fatal(err)
	}
}

func (w *world) insert(ctx context.Context, into string, rows ...[]any) {
	w.Helper()
	batch, err := w.db.PrepareBatch(ctx, "INSERT INTO "+into)
	for _, row := range rows {
		if err == nil {
			err = batch.Append(row...)
		}
	}
	if err == nil {
		err = batch.Send()
	}
	if err != nil {
		w.Fatal(err)
	}
}

// picture is a page image: a colour of its own at each pixel.
func picture(w *world, page int) []byte {
	w.Helper()
	m := image.NewRGBA(image.Rect(0, 0, pageWidth, pageHeight))
	for y := range pageHeight {
		for x := range pageWidth {
			m.SetRGBA(x, y, color.RGBA{R: byte(x), G: byte(y), B: byte(50 * page), A: 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		w.Fatal(err)
	}
	return b.Bytes()
}
