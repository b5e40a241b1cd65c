//go:build cgo

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"strings"

	"github.com/gen2brain/go-fitz"
	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
	"golang.org/x/sync/errgroup"

	"leafcutter/pkg/crop"
	"leafcutter/pkg/pngenc"
	"leafcutter/schemas"
)

// threshold is that of every class in the default model's manifest.
const threshold = 0.4

// worker does one page after another. A document is open in one worker at a time: MuPDF's are not for concurrent use, and
// each has its own context.
type worker struct {
	*line
	files   [][]byte
	open    int // which file doc is
	doc     *fitz.Document
	encoder pngenc.Encoder
	uploads errgroup.Group // of this page and the one before it
}

func newWorker(l *line, files [][]byte) *worker {
	w := &worker{line: l, files: files, open: -1}
	w.uploads.SetLimit(16)
	return w
}

func (w *worker) close() {
	_ = w.uploads.Wait() // its error was told, or an earlier one is
	if w.doc != nil {
		_ = w.doc.Close() // read only
	}
}

// document gives the open document of a file.
func (w *worker) document(file int) (*fitz.Document, error) {
	if w.open == file {
		return w.doc, nil
	}
	if w.doc != nil {
		_ = w.doc.Close() // read only
		w.doc, w.open = nil, -1
	}
	doc, err := fitz.NewFromMemory(w.files[file])
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	w.doc, w.open = doc, file
	return doc, nil
}

// page makes all objects of a page.
func (w *worker) page(ctx context.Context, j job) error {
	prefix := fmt.Sprintf("straight/%d/%05d", j.file, j.page)
	doc, err := w.document(j.file)
	if err != nil {
		return err
	}
	picture, err := doc.ImageDPI(j.page-1, float64(w.dpi))
	if err != nil {
		return fmt.Errorf("render: %w", err)
	}
	text, err := doc.Text(j.page - 1)
	if err != nil {
		return fmt.Errorf("read the text: %w", err)
	}
	lines, err := json.Marshal(pageText(text))
	if err != nil {
		return fmt.Errorf("write the text: %w", err)
	}
	w.upload(ctx, prefix+".json", lines, "application/json")
	w.encoder.Grey = true // as the page-splitter does, and for page images alone
	png, err := w.encode(picture)
	w.encoder.Grey = false
	if err != nil {
		return err
	}
	w.upload(ctx, prefix+".png", png, "image/png")

	found, err := w.model.Detect(ctx, png)
	if err != nil {
		return err
	}
	var kept []schemas.Box
	seen := map[[4]int]bool{}
	for _, box := range found.Boxes {
		rect := crop.Rect(box.Rect, schemas.DefaultPadding, found.Width, found.Height)
		if box.Score < threshold || crop.Empty(rect) {
			continue
		}
		kept = append(kept, box)
		if seen[rect] {
			continue
		}
		seen[rect] = true
		cut, err := w.encode(picture.SubImage(image.Rect(rect[0], rect[1], rect[2], rect[3])))
		if err != nil {
			return err
		}
		w.upload(ctx, fmt.Sprintf("%s-%02d.png", prefix, len(kept)), cut, "image/png")
	}
	w.boxes.Add(int64(len(kept)))
	for _, box := range kept {
		outline(picture, box)
	}
	annotated, err := w.encode(picture)
	if err != nil {
		return err
	}
	w.upload(ctx, prefix+"-annotated.png", annotated, "image/png")
	return nil
}

// upload stores an object while the page goes on; an error is told at the end.
func (w *worker) upload(ctx context.Context, key string, body []byte, contentType string) {
	w.uploads.Go(func() error { return w.put(ctx, key, body, contentType) })
}

func (w *worker) encode(m image.Image) ([]byte, error) {
	var file bytes.Buffer
	if err := w.encoder.Encode(&file, m); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return file.Bytes(), nil
}

// pageText is the text layer without boxes: go-fitz gives no more, and takes as long.
func pageText(text string) schemas.PageText {
	var p schemas.PageText
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" {
			p.Lines = append(p.Lines, schemas.TextLine{Text: l})
		}
	}
	return p
}

// outline draws a frame of two pixels around a box, and its class and score above it.
func outline(picture *image.RGBA, box schemas.Box) {
	red := image.NewUniform(color.RGBA{220, 0, 0, 255})
	r := image.Rect(int(box.Rect[0]), int(box.Rect[1]), int(box.Rect[2])+1, int(box.Rect[3])+1)
	for _, side := range []image.Rectangle{
		image.Rect(r.Min.X, r.Min.Y, r.Max.X, r.Min.Y+2), image.Rect(r.Min.X, r.Max.Y-2, r.Max.X, r.Max.Y),
		image.Rect(r.Min.X, r.Min.Y, r.Min.X+2, r.Max.Y), image.Rect(r.Max.X-2, r.Min.Y, r.Max.X, r.Max.Y),
	} {
		draw.Draw(picture, side, red, image.Point{}, draw.Src)
	}
	label := font.Drawer{Dst: picture, Src: red, Face: basicfont.Face7x13, Dot: fixed.P(r.Min.X, r.Min.Y-3)}
	label.DrawString(fmt.Sprintf("%s %.2f", box.Class, box.Score))
}
