// Package annotator is the stage that makes a page's boxes into what users look at: a crop of each kept box, the page
// with its boxes drawn, and the text that lies in them. It takes PageDetected from the topic detections and gives
// PageDone to results, once every object that the record names exists.
//
// cmd/annotator wires it to the stage runtime. What it makes is a function of the record and of the page image alone:
// the same record gives the same objects under the same keys, so a redelivery writes what is there already. Whether it
// is there is not asked: that would cost every first delivery a request for each object, to save the rare second one an
// upload.
package annotator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/pngdec"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"

	"leafcutter/stages/annotator/internal/paint"
)

// Name and Group of the stage.
const (
	Name  = "annotator"
	Group = "annotator"
)

// Codes of what can be wrong with a page for ever.
const (
	CodeRecord       = "record-invalid"       // the value is no PageDetected
	CodePageImage    = "page-image-invalid"   // the page image is broken, or not of the size that the record says
	CodePageTooLarge = "page-image-too-large" // it has more pixels than LEAFCUTTER_MAX_PAGE_PIXELS
	CodePageText     = "page-text-invalid"    // the text lines are broken
	CodeTooManyBoxes = "too-many-boxes"       // more than MaxBoxes
)

// MaxBoxes is the number of boxes of a page that fit into one record with their keys and texts. Detectors give some
// hundreds at most.
const MaxBoxes = 2000

// Store is what the stage needs of the object store; *objectstore.Store is one.
type Store interface {
	// Open starts to read an object.
	Open(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error)
	// Put stores an object and replaces what is there. Once it has returned nil, body is the caller's again.
	Put(ctx context.Context, key string, body []byte, contentType string) error
	controls.Store
}

// Crops says when crops are made.
type Crops string

// The ways.
const (
	Eager Crops = "eager" // with the page
	Lazy  Crops = "lazy"  // when asked for: the key is in the record, and the API cuts the object
	Off   Crops = "off"   // never: there is no key
)

// Config is the stage's own knobs.
type Config struct {
	Crops     Crops `env:"LEAFCUTTER_CROPS" envDefault:"eager" desc:"crops of kept boxes: eager (made with the page), lazy (made by ingest-api when asked for) or off"`
	MaxPixels int   `env:"LEAFCUTTER_MAX_PAGE_PIXELS" envDefault:"40000000" desc:"pixels of a page image above which it is refused, and of all page images in work at once"`
	Uploads   int   `env:"LEAFCUTTER_UPLOADS" envDefault:"8" desc:"objects of one page that are uploaded at once"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	if c.Crops != Eager && c.Crops != Lazy && c.Crops != Off {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_CROPS: %q is none of eager, lazy, off", c.Crops))
	}
	if c.MaxPixels < 1<<16 || c.MaxPixels > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_MAX_PAGE_PIXELS: %d is outside %d to %d", c.MaxPixels, 1<<16, math.MaxInt32))
	}
	if c.Uploads < 1 || c.Uploads > 256 {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_UPLOADS: %d is outside 1 to 256", c.Uploads))
	}
	return errors.Join(faults...)
}

// Annotator is the stage's handler, to be run by stage.Each(a.Handle). It is for concurrent use.
type Annotator struct {
	cfg     Config
	store   Store
	asked   *controls.Set
	painter *paint.Painter
	decoder *pngdec.Decoder

	// pixels bounds the pages in work by their size and not by their number: a few posters weigh as much as a hundred
	// letters.
	pixels *semaphore.Weighted
	// open bounds the pages whose pixels are in memory. It is taken after pixels.
	open *semaphore.Weighted
	// files are buffers for whole files that were read, and for the shelves of those that are to be uploaded.
	files sync.Pool // *bytes.Buffer
}

// New makes a handler that keeps its objects in store and heeds what is asked of documents.
func New(cfg Config, store Store, asked *controls.Set) (*Annotator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	painter, err := paint.New()
	if err != nil {
		return nil, err
	}
	return &Annotator{
		cfg:     cfg,
		store:   store,
		asked:   asked,
		painter: painter,
		decoder: pngdec.New(cfg.MaxPixels),
		pixels:  semaphore.NewWeighted(int64(cfg.MaxPixels)),
		open:    semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
	}, nil
}

// Stage is the stage around a handler, to be run by package stage. Limits, telemetry and probes are the caller's.
func (a *Annotator) Stage() stage.Config {
	c := stage.Config{
		Name:      Name,
		Group:     Group,
		Topics:    []string{schemas.TopicDetections},
		Handler:   stage.Each(a.Handle),
		Condemned: condemned,
		About:     stage.AboutPage,
	}
	a.asked.Heed(&c)
	return c
}

// Handle does one page. Its result is a PageDone keyed by document.
func (a *Annotator) Handle(ctx context.Context, in stage.In) stage.Result {
	started := time.Now()
	page, err := schemas.Unmarshal[schemas.PageDetected](in.Value)
	if err != nil {
		return stage.Fail(fault.AsPermanent(CodeRecord, err))
	}
	done, err := a.annotate(ctx, page)
	// Deleted while its objects were being stored: these may have come after all else of the document was deleted.
	if _, deleted := a.asked.Deleted(page.DocumentID); deleted {
		return controls.Withdraw(ctx, a.store, keysOf(page, a.cfg.Crops)...)
	}
	if err != nil {
		return stage.Fail(fmt.Errorf("annotate page %d: %w", page.Page, err))
	}
	done.AnnotateMS = milliseconds(time.Since(started))
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		done.TraceID = span.TraceID().String()
	}
	out, err := stage.Emit(schemas.TopicResults, page.DocumentID, done)
	if err != nil {
		return stage.Fail(fault.AsPermanent(CodeRecord, err))
	}
	return stage.Result{Out: []stage.Out{out}}
}

// milliseconds is d to a hundredth of a millisecond.
func milliseconds(d time.Duration) float64 {
	return math.Round(d.Seconds()*1e5) / 1e2
}
