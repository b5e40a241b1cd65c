package detector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/session"
)

// What a detector needs for batches: to know that its model takes them, what they
// take, and how pages are inferred together.

// Metered counts what detectors do, with instruments of this provider.
func Metered(p metric.MeterProvider) (Option, error) {
	sizes, err := p.Meter("leafcutter/stages/detector").Int64Histogram("leafcutter.detector.batch", metric.WithUnit("{page}"),
		metric.WithDescription("pages in one inference of a model that is to have batches"), metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64))
	if err != nil {
		return nil, fmt.Errorf("make meters: %w", err)
	}
	return func(l *loader) { l.sizes = sizes }, nil
}

// startBatches has pages inferred together from now on, once it is known that the
// model takes as many and finds on each of them what it finds on that one alone.
func (d *Detector) startBatches(ctx context.Context, l *loader) error {
	size := min(d.manifest.Batching.MaxSize, d.made)
	if size < 2 {
		return nil
	}
	for range d.config.Runs {
		whole, err := d.library.NewSlot(nil, nil)
		if err != nil {
			return fmt.Errorf("tensors of model %s: %w", d.manifest.Name, err)
		}
		d.wholes <- whole
	}
	pages := []*page{l.page}
	for range size - 1 {
		pages = append(pages, <-d.pages)
	}
	defer func() {
		for _, p := range pages[1:] {
			d.pages <- p
		}
	}()
	if err := d.tryTogether(ctx, pages); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: dynamic_batching: %d pages in one inference: %w: export the model with a dynamic first axis, or leave dynamic_batching out", ErrModelInvalid, size, err)
	}
	d.batches = &batches{
		size: size, delay: time.Duration(d.manifest.Batching.MaxDelayMS) * time.Millisecond, runs: d.runs,
		run: d.inferTogether, sizes: l.sizes, log: d.log, coming: map[*page]bool{},
	}
	return nil
}

// tryTogether has the sample page and its mirror image in a batch by turns: each
// place has boxes to lose then, and others than the one before.
func (d *Detector) tryTogether(ctx context.Context, pages []*page) error {
	geometry, err := pages[0].preprocess(d.family, samplePage, math.MaxInt32)
	if err != nil {
		return fmt.Errorf("sample page: %w", err)
	}
	shape := d.family.Input(geometry.Width, geometry.Height)
	for i, p := range pages[1:] {
		if err := p.slot.Resize(shape); err != nil {
			return err
		}
		copy(p.slot.Input, pages[0].slot.Input)
		if i%2 == 0 {
			for row := range slices.Chunk(p.slot.Input, int(shape[len(shape)-1])) {
				slices.Reverse(row)
			}
		}
	}
	var alone [2][]schemas.Box
	for i, p := range pages[:2] {
		if err := d.session.Run(ctx, p.slot); err != nil {
			return err
		}
		if alone[i], err = d.family.Decode(p.outputs(), geometry); err != nil {
			return err
		}
	}
	if err := d.runTogether(ctx, pages); err != nil {
		return err
	}
	var errs []error
	for i, p := range pages {
		boxes, err := d.family.Decode(p.outputs(), geometry)
		if err != nil {
			return err
		}
		want := alone[i%2]
		if n, all := agreeing(want, boxes), len(want)+len(boxes); float64(2*n) < agreement*float64(all) {
			return fmt.Errorf("of %d boxes on page %d and %d on the page alone %d agree", len(boxes), i+1, len(want), n)
		}
		errs = append(errs, p.slot.Forget())
	}
	return errors.Join(errs...)
}

// agreement is what part of the boxes on two pages must agree, so that the pages
// are taken for the same. All do of a model that works out each page by itself; of
// one that chooses among what it half believes, a last bit may decide which.
const agreement = 0.8

// agreeing counts the boxes that two lists have in common, to a pixel and to a
// hundredth of a score.
func agreeing(a, b []schemas.Box) (n int) {
	left := slices.Clone(b)
	for _, box := range a {
		i := slices.IndexFunc(left, func(other schemas.Box) bool {
			far := math.Abs(box.Score-other.Score) > 0.01
			for k := range box.Rect {
				far = far || math.Abs(box.Rect[k]-other.Rect[k]) > 1
			}
			return box.Class == other.Class && !far
		})
		if i >= 0 {
			left = slices.Delete(left, i, i+1)
			n++
		}
	}
	return n
}

// bytesOfMore is what a model takes for more than one page inferred at once, by
// estimate: inputs, one of each page in work and one of each further page in a batch that
// may be inferred at once, and what the layers make of each further page, and outputs.
// Layers are the wider the more weights there are. Measured at 640 × 640 pixels, an input
// of 5 MB, one batch at once: 50 MB a page of YOLOv8n (weights of 13 MB), 103 MB of
// YOLOv8m (104 MB) and 189 MB of YOLOv8x (273 MB); and 50 MB for a second inference of
// the model that comes with the project (7 MB, 800 × 608). c is resolved.
func bytesOfMore(c Config, m manifest.Manifest, weights int64) int64 {
	pages := c.pages(m)
	size := max(1, min(m.Batching.MaxSize, pages))
	input := 4 * 3 * int64(cmp.Or(m.Input.Width, m.Input.LongestEdge)) * int64(cmp.Or(m.Input.Height, m.Input.ShortestEdge))
	more := int64(c.Runs*size - 1)
	waiting := int64(max(pages-c.Runs-1, 0))
	return (waiting+more)*input + more*(9*input+weights/2)
}

// inferTogether infers pages at once and, where that fails, one by one: what is
// wrong with one is no fault of the others.
func (d *Detector) inferTogether(ctx context.Context, pages []*page) []error {
	errs := make([]error, len(pages))
	if len(pages) > 1 {
		err := d.runTogether(ctx, pages)
		if err == nil {
			return errs
		}
		if ctx.Err() == nil {
			d.log.Warn("pages could not be inferred together and are one by one", slog.Int("pages", len(pages)), slog.Any("error", err))
		}
	}
	for i, p := range pages {
		errs[i] = d.session.Run(ctx, p.slot)
	}
	return errs
}

// runTogether is one run for several pages.
func (d *Detector) runTogether(ctx context.Context, pages []*page) error {
	slots := make([]*session.Slot, len(pages))
	for i, p := range pages {
		slots[i] = p.slot
	}
	whole := <-d.wholes // there is one for each run that may go on
	defer func() { d.wholes <- whole }()
	return d.session.RunTogether(ctx, whole, slots)
}
