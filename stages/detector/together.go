package detector

import (
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
// model takes as many and finds on each of them what it finds on that one alone:
// on the sample page, and on empty ones.
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
		run: d.inferTogether, sizes: l.sizes, coming: map[*page]bool{},
	}
	return nil
}

func (d *Detector) tryTogether(ctx context.Context, pages []*page) error {
	geometry, err := pages[0].preprocess(d.family, samplePage, math.MaxInt32)
	if err != nil {
		return fmt.Errorf("sample page: %w", err)
	}
	for _, p := range pages[1:] {
		if err := p.slot.Resize(d.family.Input(geometry.Width, geometry.Height)); err != nil {
			return err
		}
		clear(p.slot.Input)
	}
	ends := []*page{pages[0], pages[len(pages)-1]}
	var alone [2][]schemas.Box
	for i, p := range ends {
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
	for i, p := range ends {
		boxes, err := d.family.Decode(p.outputs(), geometry)
		if err != nil {
			return err
		}
		if n, all := agreeing(alone[i], boxes), len(alone[i])+len(boxes); float64(2*n) < agreement*float64(all) {
			return fmt.Errorf("of %d boxes on a page and %d on the page alone %d agree", len(boxes), len(alone[i]), n)
		}
	}
	var errs []error
	for _, p := range pages {
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

// bytesOfBatch is what the further pages of a batch take, by estimate: their input
// three times, in the batch, by themselves and of the next batch, what the layers
// make of it, and outputs. Layers are the wider the more weights there are. Measured
// at 640 × 640 pixels, an input of 5 MB: 50 MB a page of YOLOv8n (weights of 13 MB),
// 103 MB of YOLOv8m (104 MB) and 189 MB of YOLOv8x (273 MB).
func bytesOfBatch(m manifest.Manifest, weights int64) int64 {
	input := 4 * 3 * int64(m.Input.Width) * int64(m.Input.Height)
	return int64(max(m.Batching.MaxSize-1, 0)) * (12*input + weights/2)
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
