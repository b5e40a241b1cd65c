// Package detector finds objects on page images: a page goes in as PNG, boxes
// with class and score come out. It is the heavy stage's core, without Kafka
// or S3: cmd/detector wires it to both, tools and tests call it directly.
//
// A model is a folder with a manifest and weights (package internal/manifest).
// Its family (internal/family) turns pages into tensors and tensors into
// boxes; internal/session runs ONNX Runtime in between. When a model is loaded
// for the first time it is prepared: its graph is rewritten and optimised for
// the processor, compared with the original on a page, and kept in a cache
// (load.go, prepare.go, cache.go).
//
// Pages are inferred one by one, or some at once where the manifest asks for it
// (batch.go, together.go).
//
// Memory is bounded when a Detector is made: so many pages may be in work at
// once, each with its tensors, and pages are read row by row. It does not grow
// with the number of pages, their size, or those who wait; where a model's
// input is as large as the page, a tensor is as large as the largest page so
// far, which the manifest bounds.
package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
	"leafcutter/stages/detector/internal/repository"
	"leafcutter/stages/detector/internal/session"
)

// Why a detector cannot be made. Such a service is not ready, and says so.
var (
	// ErrModelAbsent: there is no manifest or there are no weights.
	ErrModelAbsent = repository.ErrAbsent
	// ErrModelInvalid: the manifest has faults, or does not fit the weights.
	ErrModelInvalid = repository.ErrInvalid
	// ErrModelDigest: the weights are not those that the manifest names.
	ErrModelDigest = repository.ErrDigest
	// ErrLibrary: ONNX Runtime could not be loaded.
	ErrLibrary = session.ErrLibrary
	// ErrProvider: it cannot run the model by the execution provider asked
	// for. Its code is CodeProvider.
	ErrProvider = session.ErrProvider
)

// CodeProvider begins the text of an ErrProvider, for which a service is not
// ready.
const CodeProvider = "provider-missing"

// Codes of the errors that Detect gives a page.
const (
	CodePageImage    = "page-image-invalid"
	CodePageTooLarge = "page-image-too-large"
	CodeInference    = "inference-failed"
)

// Detector is a loaded and warm model. It is safe for concurrent use.
type Detector struct {
	config   Config
	manifest manifest.Manifest
	family   family.Family

	library *session.Runtime
	session *session.Session
	pages   chan *page         // idle ones; taking one is the right to work on a page
	made    int                // how many pages there are
	runs    chan struct{}      // sending is the right to infer
	batches *batches           // nil where pages are inferred one by one
	wholes  chan *session.Slot // idle tensors of whole batches, one for each run
	log     *slog.Logger

	close    sync.Once
	closeErr error
}

// page is the memory of one page in work.
type page struct {
	png     pageimage.PNG
	scratch family.Scratch
	slot    *session.Slot
}

// Page is what was found on a page.
type Page struct {
	// Width and Height are those of the page image, in pixels.
	Width, Height int
	// Boxes are in the order of schemas.CompareBoxes; never nil.
	Boxes []schemas.Box
	// Where the time went: reading and shrinking the page, the model (in
	// Wait, for other pages), and making boxes of its outputs.
	Preprocess, Wait, Infer, Decode time.Duration
	// Together is how many pages were inferred at once, itself included. Infer
	// is its share of the time, and Wait has that of the others.
	Together int
}

// Option changes how a detector is made.
type Option func(*loader)

// New loads a model from a folder of models and runs it once, so that it
// returns a detector that is warm. log is told how the model was loaded.
func New(ctx context.Context, c Config, log *slog.Logger, options ...Option) (*Detector, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	models, err := repository.Open(ctx, c.ModelsDir, objectstore.Config{}, c.CacheDir)
	if err != nil {
		return nil, err
	}
	defer models.Close()
	f, err := models.Fetch(ctx, c.Model)
	if err != nil {
		return nil, err
	}
	return load(ctx, c, f, make(chan struct{}, c.Runs), log, options)
}

// load is New of a model that was fetched. Detectors that share runs infer, all
// together, as often at once as it has room. c is resolved.
func load(ctx context.Context, c Config, f repository.Fetched, runs chan struct{}, log *slog.Logger, options []Option) (*Detector, error) {
	c.Pages = c.pages(f.Manifest)
	l, err := newLoader(c, f)
	if err != nil {
		return nil, err
	}
	l.log = log.With(slog.String("model", f.Manifest.Name))
	for _, option := range options {
		option(l)
	}
	d := &Detector{
		config: c, manifest: f.Manifest, family: l.family, library: l.library,
		runs: runs, pages: make(chan *page, c.Pages), wholes: make(chan *session.Slot, c.Runs), log: l.log,
	}
	if err = d.warm(ctx, l); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// warm makes the pages and loads the session, with the first page's memory to
// try it on.
func (d *Detector) warm(ctx context.Context, l *loader) (err error) {
	for range d.config.Pages {
		p, err := newPage(d.library, d.family)
		if err != nil {
			return fmt.Errorf("tensors of model %s: %w", d.manifest.Name, err)
		}
		d.pages <- p
		d.made++
	}
	l.page = <-d.pages
	defer func() { d.pages <- l.page }()
	d.session, err = l.load(ctx)
	if err == nil && d.manifest.Batching.MaxSize > 1 {
		err = d.startBatches(ctx, l)
	}
	// What loading left over is given back now: from here on memory hardly
	// changes, so nothing else would do it.
	debug.FreeOSMemory()
	session.FreeMemory()
	session.Forgo()
	return err
}

// newPage makes the memory of one page, but for its input, which is as large as
// the page needs it.
func newPage(r *session.Runtime, f family.Family) (*page, error) {
	var extra []session.Tensor
	for _, e := range f.Extra() {
		extra = append(extra, session.Tensor(e.Tensor))
	}
	slot, err := r.NewSlot(extra, f.OutputShapes())
	if err != nil {
		return nil, err
	}
	return &page{slot: slot}, nil
}

// preprocess reads a page image into the input.
func (p *page) preprocess(f family.Family, png []byte, maxPixels int) (family.Geometry, error) {
	if err := p.png.Open(png, maxPixels); err != nil {
		return family.Geometry{}, classPage(err)
	}
	if err := p.slot.Resize(f.Input(p.png.Size())); err != nil {
		return family.Geometry{}, fault.AsTransient(CodeInference, err)
	}
	g, err := f.Preprocess(&p.png, p.slot.Input, &p.scratch)
	if err != nil {
		return g, classPage(err)
	}
	return g, nil
}

// Detect finds the objects on a page image. It waits while Config.Pages pages
// are in work. Errors are classed (package fault): a page that cannot be read
// is at fault itself; a run that ctx ended is not.
func (d *Detector) Detect(ctx context.Context, png []byte) (Page, error) {
	var p *page
	select {
	case p = <-d.pages:
	case <-ctx.Done():
		return Page{}, ctx.Err()
	}
	defer func() { d.pages <- p }()

	if d.batches != nil {
		d.batches.expect(p)
		defer d.batches.excuse(p)
	}
	start := time.Now()
	geometry, err := p.preprocess(d.family, png, d.config.MaxPixels)
	if err != nil {
		return Page{}, err
	}
	found := Page{Width: geometry.Width, Height: geometry.Height, Preprocess: time.Since(start)}

	infer := d.infer
	if d.batches != nil {
		infer = d.batches.infer
	}
	if err := infer(ctx, p, &found); err != nil {
		if ctx.Err() != nil {
			return Page{}, ctx.Err()
		}
		return Page{}, fault.AsTransient(CodeInference, err)
	}

	start = time.Now()
	found.Boxes, err = d.family.Decode(p.outputs(), geometry)
	if err = errors.Join(err, p.slot.Forget()); err != nil {
		return Page{}, fault.AsTransient(CodeInference, err)
	}
	found.Decode = time.Since(start)
	return found, nil
}

// infer runs the model for one page, and says in found how long that took.
func (d *Detector) infer(ctx context.Context, p *page, found *Page) error {
	start := time.Now()
	select {
	case d.runs <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.runs }()
	found.Wait = time.Since(start)
	start = time.Now()
	err := d.session.Run(ctx, p.slot)
	found.Infer, found.Together = time.Since(start), 1
	return err
}

// outputs are those of the run before, as families take them.
func (p *page) outputs() []family.Tensor {
	out := make([]family.Tensor, len(p.slot.Outputs))
	for i, o := range p.slot.Outputs {
		out[i] = family.Tensor(o)
	}
	return out
}

func classPage(err error) error {
	if errors.Is(err, pageimage.ErrTooLarge) {
		return fault.AsPermanent(CodePageTooLarge, err)
	}
	return fault.AsPermanent(CodePageImage, err)
}

// announcement says which model this is, for the topic models.
func announcement(m manifest.Manifest, digest string, now time.Time) schemas.ModelAnnounced {
	return schemas.ModelAnnounced{
		Model: m.Name, Version: m.Version, Digest: digest, Family: m.Family,
		Classes: m.Classes, ScoreFloor: m.ScoreFloor, Thresholds: m.Thresholds,
		AnnouncedAt: now.UTC(),
	}
}

// Close waits for the pages in work and unloads the model. Detect must not be
// called afterwards. Closing twice is legal.
func (d *Detector) Close() error {
	d.close.Do(func() {
		var errs []error
		for range d.made { // each comes back when its work is done
			p := <-d.pages
			errs = append(errs, p.slot.Close())
		}
		close(d.wholes)
		for whole := range d.wholes {
			errs = append(errs, whole.Close())
		}
		if d.session != nil {
			errs = append(errs, d.session.Close())
		}
		errs = append(errs, d.library.Close())
		d.closeErr = errors.Join(errs...)
	})
	return d.closeErr
}
