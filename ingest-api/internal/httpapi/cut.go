package httpapi

import (
	"context"
	"errors"
	"io"

	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/query"
	"leafcutter/pkg/crop"
	"leafcutter/pkg/pngdec"
	"leafcutter/schemas"
)

// maxCutPixels bounds the page images that crops are cut from on request: 3 bytes a pixel while it is done.
const maxCutPixels = 64 << 20

// maxCutBytes bounds the same image as it lies in the store.
const maxCutBytes = 64 << 20

// cut makes the crop of box k where the annotator left that to us (LEAFCUTTER_CROPS=lazy), and keeps it. Pages are
// decoded one at a time: they are the largest thing that this process ever holds.
func (a *API) cut(ctx context.Context, page *query.Page, run *query.Run, k int) ([]byte, error) {
	select {
	case a.cutting <- struct{}{}:
		defer func() { <-a.cutting }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	key := page.CropKeys[k-1]
	padding := schemas.DefaultPadding
	if run.Options != nil {
		padding = run.Options.CropPadding
	}
	rect := crop.Rect(page.Boxes[k-1].Rect, padding, page.Width, page.Height)
	if crop.Empty(rect) || schemas.CropKey(run.DocumentID, run.RunID, page.Page.Page, page.ImageKey, rect, padding) != key {
		// A crop has its name from what it shows: this one was cut otherwise, and is gone.
		return nil, problem.New(problem.ObjectNotFound, "There is nothing at %.300s", key)
	}
	body, info, err := a.Objects.Open(ctx, page.ImageKey)
	if err != nil {
		return nil, problem.From(err, "Reading the page image")
	}
	defer func() { _ = body.Close() }() // read to its end, or of no use
	if info.Size > maxCutBytes {
		return nil, problem.New(problem.Internal, "The page image has %d bytes", info.Size)
	}
	file := make([]byte, info.Size)
	if _, err := io.ReadFull(body, file); err != nil {
		return nil, problem.From(err, "Reading the page image")
	}
	image, err := pngdec.New(maxCutPixels).Decode(file)
	if err != nil {
		return nil, problem.From(err, "Decoding the page image")
	}
	cut, err := crop.PNG(image, rect)
	if err != nil {
		return nil, problem.From(err, "Cutting the crop")
	}
	_ = a.Objects.Put(ctx, key, cut, "image/png") // kept for the next time; this time it is in hand
	if err := a.Catalogue.Known(run.DocumentID); err != nil {
		// Deleted while it was cut: what has just been put would outlive it.
		return nil, errors.Join(a.Objects.Delete(ctx, key), err)
	}
	return cut, nil
}
