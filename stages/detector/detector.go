// Package detector finds objects on page images: a page goes in as PNG, boxes
// with class and score come out. It is the heavy stage's core, without Kafka
// or S3: cmd/detector wires it to both, tools and tests call it directly.
//
// A model is a folder with a manifest and weights (package internal/manifest).
// Its family (internal/family) turns pages into tensors and tensors into
// boxes; internal/session runs ONNX Runtime in between. When a model is loaded
// for the first time its graph is rewritten to run faster, compared with the
// original on a page, and kept in a cache (load.go, cache.go).
//
// Memory is fixed when a Detector is made: so many pages may be in work at
// once, each with its tensors, and pages are read row by row. It does not grow
// with the number of pages, their size, or those who wait.
package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
	"leafcutter/stages/detector/internal/session"
)

// Why a detector cannot be made. Such a service is not ready, and says so.
var (
	// ErrModelAbsent: there is no manifest or there are no weights.
	ErrModelAbsent = errors.New("model absent")
	// ErrModelInvalid: the manifest has faults, or does not fit the weights.
	ErrModelInvalid = errors.New("model invalid")
	// ErrModelDigest: the weights are not those that the manifest names.
	ErrModelDigest = errors.New("model weights have another digest")
	// ErrLibrary: ONNX Runtime could not be loaded.
	ErrLibrary = session.ErrLibrary
)

// Codes of the errors that Detect gives a page.
const (
	CodePageImage    = "page-image-invalid"
	CodePageTooLarge = "page-image-too-large"
	CodeInference    = "inference-failed"
)

// Config says which model to run, and how.
type Config struct {
	// Library is the path of ONNX Runtime's shared library.
	Library string
	// ModelDir is the model's folder.
	ModelDir string
	// CacheDir keeps rewritten graphs from one start to the next. Where it
	// is empty or cannot be written they are made anew at each start.
	CacheDir string
	// Threads is how many threads one inference uses, Runs how many
	// inferences go on at once, and Pages how many pages are in work at
	// once: while one is inferred, others are fetched and shrunk. Zero
	// means as many threads as the process has processors, one inference,
	// and one page more than that.
	Threads, Runs, Pages int
	// MaxPixels bounds width × height of a page image. Zero means 100
	// million.
	MaxPixels int
	// Logger is told how the model was loaded.
	Logger *slog.Logger
}

// withDefaults fills in what was left zero and reports every fault at once.
func (c Config) withDefaults() (Config, error) {
	if c.Threads == 0 {
		c.Threads = runtime.GOMAXPROCS(0)
	}
	if c.Runs == 0 {
		c.Runs = 1
	}
	if c.Pages == 0 {
		c.Pages = c.Runs + 1
	}
	if c.MaxPixels == 0 {
		c.MaxPixels = 100_000_000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var faults []error
	if c.Threads < 1 {
		faults = append(faults, fmt.Errorf("threads: %d, must be 1 or more", c.Threads))
	}
	if c.Runs < 1 {
		faults = append(faults, fmt.Errorf("inferences at once: %d, must be 1 or more", c.Runs))
	}
	if c.Pages < c.Runs {
		faults = append(faults, fmt.Errorf("pages at once: %d, must be at least the inferences at once, %d", c.Pages, c.Runs))
	}
	if c.MaxPixels < 1 {
		faults = append(faults, fmt.Errorf("pixels of a page: %d, must be 1 or more", c.MaxPixels))
	}
	if c.ModelDir == "" {
		faults = append(faults, errors.New("model folder: missing"))
	}
	if c.Library == "" {
		faults = append(faults, errors.New("ONNX Runtime library: missing"))
	}
	return c, errors.Join(faults...)
}

// Detector is a loaded and warm model. It is safe for concurrent use.
type Detector struct {
	manifest  manifest.Manifest
	digest    string
	family    family.Family
	maxPixels int

	library *session.Runtime
	session *session.Session
	pages   chan *page    // idle ones; taking one is the right to work on a page
	made    int           // how many pages there are
	runs    chan struct{} // sending is the right to infer

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
	// Wait, until another page's was done), and making boxes of its outputs.
	Preprocess, Wait, Infer, Decode time.Duration
}

// New loads a model and runs it once, so that it returns a detector that is
// warm.
func New(ctx context.Context, c Config) (*Detector, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := readManifest(c.ModelDir)
	if err != nil {
		return nil, err
	}
	d := &Detector{manifest: m, maxPixels: c.MaxPixels, runs: make(chan struct{}, c.Runs), pages: make(chan *page, c.Pages)}
	if d.digest, err = m.Digest(); err != nil {
		return nil, err
	}
	if d.family, err = family.New(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModelInvalid, err)
	}
	if d.library, err = session.Load(c.Library); err != nil {
		return nil, err
	}
	l := loader{config: c, manifest: m, family: d.family, library: d.library}
	if d.session, err = l.load(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	for range c.Pages {
		p := &page{}
		if p.slot, err = l.slot(d.session); err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.pages <- p
		d.made++
	}
	return d, nil
}

func readManifest(dir string) (manifest.Manifest, error) {
	m, err := manifest.Read(dir)
	switch {
	case errors.Is(err, manifest.ErrAbsent):
		return m, fmt.Errorf("%w: %w", ErrModelAbsent, err)
	case errors.Is(err, manifest.ErrInvalid):
		return m, fmt.Errorf("%w: %w", ErrModelInvalid, err)
	}
	return m, err
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

	start := time.Now()
	if err := p.png.Open(png, d.maxPixels); err != nil {
		return Page{}, classPage(err)
	}
	geometry, err := d.family.Preprocess(&p.png, p.slot.Input, &p.scratch)
	if err != nil {
		return Page{}, classPage(err)
	}
	found := Page{Width: geometry.Width, Height: geometry.Height, Preprocess: time.Since(start)}

	start = time.Now()
	select {
	case d.runs <- struct{}{}:
	case <-ctx.Done():
		return Page{}, ctx.Err()
	}
	found.Wait = time.Since(start)
	start = time.Now()
	err = d.session.Run(ctx, p.slot)
	<-d.runs
	if err != nil {
		if ctx.Err() != nil {
			return Page{}, ctx.Err()
		}
		return Page{}, fault.AsTransient(CodeInference, err)
	}
	found.Infer = time.Since(start)

	start = time.Now()
	if found.Boxes, err = d.family.Decode(tensors(d.family, p.slot), geometry); err != nil {
		return Page{}, fault.AsTransient(CodeInference, err)
	}
	found.Decode = time.Since(start)
	return found, nil
}

func tensors(f family.Family, s *session.Slot) []family.Tensor {
	shapes := f.OutputShapes()
	out := make([]family.Tensor, len(s.Outputs))
	for i := range out {
		out[i] = family.Tensor{Shape: shapes[i], Data: s.Outputs[i]}
	}
	return out
}

func classPage(err error) error {
	if errors.Is(err, pageimage.ErrTooLarge) {
		return fault.AsPermanent(CodePageTooLarge, err)
	}
	return fault.AsPermanent(CodePageImage, err)
}

// Announcement says which model this is, for the topic models.
func (d *Detector) Announcement(now time.Time) schemas.ModelAnnounced {
	return schemas.ModelAnnounced{
		Model: d.manifest.Name, Version: d.manifest.Version, Digest: d.digest, Family: d.manifest.Family,
		Classes: d.manifest.Classes, ScoreFloor: d.manifest.ScoreFloor, Thresholds: d.manifest.Thresholds,
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
		if d.session != nil {
			errs = append(errs, d.session.Close())
		}
		errs = append(errs, d.library.Close())
		d.closeErr = errors.Join(errs...)
	})
	return d.closeErr
}
