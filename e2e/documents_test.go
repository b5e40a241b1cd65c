package e2e

import (
	"image"
	"strings"
	"testing"

	"leafcutter/e2e/corpus"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// Real PDFs and images of each kind end as completed, each page with its row, each row's objects in place.
func TestDocumentsOfEachKindComplete(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	type document struct {
		corpus.File
		pages int
		text  bool // has a text layer
	}
	var documents []document
	for _, f := range must(corpus.Real(p.Root))(t) {
		n := must(corpus.Pages(f.Data))(t)
		documents = append(documents, document{f, min(n, 6), f.Name != "Wonderwall.pdf"}) // which is a scan
	}
	scan := corpus.Scan(918, 1188, 1)
	documents = append(documents,
		document{corpus.File{Name: "scan.png", Data: must(corpus.PNG(scan))(t)}, 1, false},
		document{corpus.File{Name: "scan.jpg", Data: must(corpus.JPEG(scan))(t)}, 1, false},
		document{corpus.File{Name: "fax.tiff", Data: corpus.TIFF(scan, corpus.Scan(700, 900, 2), image.Image(corpus.Scan(600, 400, 3)))}, 3, false},
	)
	for _, d := range documents {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			id := submit(ctx, t, p, d.File, client.Options{Pages: "1-6"})
			done := await(ctx, t, p, id, schemas.Completed)
			if done.Title != d.Name || done.PagesDone != d.pages || done.PagesSelected != d.pages {
				t.Errorf("title %q, %d pages done of %d; want %q and %d", done.Title, done.PagesDone, done.PagesSelected, d.Name, d.pages)
			}
			crops := checkObjects(ctx, t, p, id, schemas.DefaultPadding)
			boxes := must(p.Boxes(ctx, id))(t)
			if len(boxes) == 0 || crops == 0 || done.Boxes != len(boxes) {
				t.Errorf("%d boxes and %d crops, and the API says %d boxes", len(boxes), crops, done.Boxes)
			}
			var text strings.Builder
			for _, b := range boxes {
				text.WriteString(b.Text)
			}
			if d.text != (text.Len() > 0) {
				t.Errorf("text of boxes: %d bytes; a text layer: %t", text.Len(), d.text)
			}
			t.Logf("%s: %d pages, %d boxes, %d crops", d.Name, done.PagesDone, len(boxes), crops)
		})
	}
}
