package annotator

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"leafcutter/pkg/crop"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/pngdec"
	"leafcutter/schemas"

	"leafcutter/stages/annotator/internal/pagetext"
)

// maxTextFile is the size in bytes of the largest file of text lines that is read.
const maxTextFile = 16 << 20

// annotate makes the objects of a page and the record that names them. When it returns without an error they all exist.
func (a *Annotator) annotate(ctx context.Context, page schemas.PageDetected) (schemas.PageDone, error) {
	var none schemas.PageDone
	if len(page.Boxes) > MaxBoxes {
		return none, fault.Permanentf(CodeTooManyBoxes, "%d boxes, at most %d", len(page.Boxes), MaxBoxes)
	}
	if page.Width > a.cfg.MaxPixels/page.Height { // no overflow: both are 1 or more
		return none, fault.Permanentf(CodePageTooLarge, "%d × %d pixels, at most %d", page.Width, page.Height, a.cfg.MaxPixels)
	}
	pixels := int64(page.Width) * int64(page.Height)
	if err := a.pixels.Acquire(ctx, pixels); err != nil {
		return none, fmt.Errorf("wait for memory: %w", err)
	}
	defer a.pixels.Release(pixels)

	lines, err := a.lines(ctx, page.TextKey)
	if err != nil {
		return none, err
	}
	p := planOf(page, lines, a.cfg.Crops)
	if err := a.fulfil(ctx, page, p); err != nil {
		return none, err
	}
	return schemas.PageDone{
		RenderedPage: page.RenderedPage,
		AnnotatedKey: p.annotatedKey,
		Boxes:        p.boxes,
		QueueMS:      page.QueueMS,
		InferMS:      page.InferMS,
		DetectedAt:   page.DetectedAt,
	}, nil
}

// plan is what is to be made of a page.
type plan struct {
	boxes        []schemas.CutBox // all, in the order of the record
	kept         []schemas.Box    // those at or above the threshold of their class: drawn
	cuts         []cut            // crops to be made now, each once
	annotatedKey string
}

type cut struct {
	key  string
	rect [4]int
}

// planOf decides what is drawn, cut and said. Boxes of which nothing lies on the page keep their number and are neither
// drawn nor cut.
func planOf(page schemas.PageDetected, lines []schemas.TextLine, crops Crops) plan {
	p := plan{
		boxes:        make([]schemas.CutBox, len(page.Boxes)), // never null in JSON
		annotatedKey: schemas.AnnotatedKey(page.DocumentID, page.RunID, page.Page),
	}
	texts := pagetext.Assign(lines, page.Boxes)
	padding := page.Options.CropPadding
	seen := map[[4]int]bool{}
	for i, box := range page.Boxes {
		p.boxes[i] = schemas.CutBox{Box: box, Text: texts[i]}
		rect := crop.Rect(box.Rect, padding, page.Width, page.Height)
		if box.Score < page.Options.Threshold(box.Class) || crop.Empty(rect) {
			continue
		}
		p.kept = append(p.kept, box)
		if crops == Off {
			continue
		}
		p.boxes[i].CropKey = schemas.CropKey(page.DocumentID, page.RunID, page.Page, page.ImageKey, rect, padding)
		if crops == Eager && !seen[rect] {
			seen[rect] = true
			p.cuts = append(p.cuts, cut{p.boxes[i].CropKey, rect})
		}
	}
	return p
}

// keysOf are the objects that annotate may have made of a page.
func keysOf(page schemas.PageDetected, crops Crops) []string {
	p := planOf(page, nil, crops)
	keys := []string{p.annotatedKey}
	for _, c := range p.cuts {
		keys = append(keys, c.key)
	}
	return keys
}

// fulfil fetches the page image and makes and uploads what is planned. Between fetch and upload the page lies open, three
// bytes a pixel: that takes a processor and waits for nobody, so that there are never more pages open than processors,
// however long the store keeps the others waiting. What waits for the store is files.
func (a *Annotator) fulfil(ctx context.Context, page schemas.PageDetected, p plan) error {
	source, err := a.fetch(ctx, page)
	if err != nil {
		return err
	}
	files := a.shelf() // nobody else has its buffer once all is uploaded; after an error the transport may still be reading it
	if err := a.encode(ctx, source, page, p, files); err != nil {
		return err
	}
	if err := a.upload(ctx, files); err != nil {
		return err
	}
	a.files.Put(files.buffer)
	return nil
}

// encode opens the page and puts the files of a plan onto a shelf. The source is given back as soon as it has been read.
func (a *Annotator) encode(ctx context.Context, source *bytes.Buffer, page schemas.PageDetected, p plan, files *shelf) error {
	if err := a.open.Acquire(ctx, 1); err != nil {
		a.files.Put(source)
		return fmt.Errorf("wait for a processor: %w", err)
	}
	defer a.open.Release(1)
	files.buffer.Grow(source.Len() + min(source.Len(), shelfSize)) // the page again, and at most as much in crops as a rule
	img, err := a.decoder.Decode(source.Bytes())
	a.files.Put(source)
	if err != nil {
		return fault.AsPermanent(CodePageImage, fmt.Errorf("page image %s: %w", page.ImageKey, err))
	}
	defer a.decoder.Release(img)

	for _, c := range p.cuts {
		if err := a.add(ctx, files, img, c); err != nil {
			return err
		}
	}
	// Drawn last, over the page itself: a copy of it would be as large again.
	a.painter.Draw(img, p.kept)
	return a.add(ctx, files, img, cut{p.annotatedKey, [4]int{0, 0, img.Width, img.Height}})
}

// add makes one file. A shelf that is full is uploaded first: two thousand crops of a photograph are as many times its
// size, and only there does an open page wait for the store.
func (a *Annotator) add(ctx context.Context, files *shelf, img *pngdec.Image, c cut) error {
	if files.buffer.Len() >= shelfSize {
		if err := a.upload(ctx, files); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err // the stage is stopping
	}
	if err := crop.Write(files.buffer, img, c.rect); err != nil {
		return fault.AsPermanent(CodePageImage, err)
	}
	files.done(c.key)
	return nil
}

// fetch reads the page image as it lies in the store, and looks whether it is of the size that its record says.
func (a *Annotator) fetch(ctx context.Context, page schemas.PageDetected) (*bytes.Buffer, error) {
	// RGB with a filter byte a row; what cannot be compressed grows by a few bytes a block.
	limit := 4*int64(page.Width)*int64(page.Height) + 1<<20
	file, err := a.read(ctx, page.ImageKey, limit)
	if err != nil {
		return nil, err
	}
	width, height, err := pngdec.Size(file.Bytes())
	if err == nil && (width != page.Width || height != page.Height) {
		err = fmt.Errorf("it is %d × %d pixels, its record says %d × %d", width, height, page.Width, page.Height)
	}
	if err != nil {
		a.files.Put(file)
		return nil, fault.AsPermanent(CodePageImage, fmt.Errorf("page image %s: %w", page.ImageKey, err))
	}
	return file, nil
}

// lines fetches the text lines; a page without a text layer has no key and no lines.
func (a *Annotator) lines(ctx context.Context, key string) ([]schemas.TextLine, error) {
	if key == "" {
		return nil, nil
	}
	file, err := a.read(ctx, key, maxTextFile)
	if err != nil {
		return nil, err
	}
	defer a.files.Put(file)
	lines, err := pagetext.Decode(file.Bytes())
	if err != nil {
		return nil, fault.AsPermanent(CodePageText, fmt.Errorf("text lines %s: %w", key, err))
	}
	return lines, nil
}

// read reads a whole object of at most limit bytes into a buffer of the pool. The store classes its own errors.
func (a *Annotator) read(ctx context.Context, key string, limit int64) (*bytes.Buffer, error) {
	body, info, err := a.store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // read to its end, or failed already
	file := a.file()
	if info.Size > 0 && info.Size <= limit {
		file.Grow(int(info.Size) + bytes.MinRead) // ReadFrom wants that much room to see the end
	}
	n, err := file.ReadFrom(io.LimitReader(body, limit+1))
	if err == nil && n > limit {
		err = fault.Permanentf(objectstore.CodeTooLarge, "read %s: more than %d bytes", key, limit)
	}
	if err != nil {
		a.files.Put(file)
		return nil, err
	}
	return file, nil
}

// file is an empty buffer.
func (a *Annotator) file() *bytes.Buffer {
	file, ok := a.files.Get().(*bytes.Buffer)
	if !ok {
		return new(bytes.Buffer)
	}
	file.Reset()
	return file
}
