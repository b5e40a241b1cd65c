// Package render turns documents into page images and lines of text. The
// planner counts pages through it and the splitter renders them; nobody else
// opens a document.
//
// A document is what a stranger wrote, and the library that reads it is written
// in C. So no document is ever opened in the stage's own process: a [Pool] keeps
// child processes, each the same binary started again with [ChildArg], an empty
// environment and hard limits, and speaks to them over a socket pair. A file that
// crashes, hangs or outgrows its child costs that child alone.
package render

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"leafcutter/pkg/config"
	"leafcutter/pkg/fault"
	"leafcutter/schemas"
)

// Codes of what can be wrong with a document or a page. They are stable: users
// match on them in SQL and over HTTP. Their faults are permanent, save for a timeout
// of a child that got no processor time.
const (
	CodeEmpty          = "empty-document"       // no bytes
	CodeUnsupported    = "unsupported-type"     // neither PDF, PNG, JPEG nor TIFF by its first bytes
	CodeEncrypted      = "encrypted"            // needs a password
	CodeUnreadable     = "unreadable-document"  // broken beyond repair
	CodeNoPages        = "no-pages"             // opens, but has no page
	CodeTooManyPages   = "too-many-pages"       // claims more than the configured bound
	CodeUnreadablePage = "unreadable-page"      // one page is broken
	CodePageTooLarge   = "page-too-large"       // more pixels than the configured bound, or a side above schemas.MaxPageSide
	CodeOutOfMemory    = "render-out-of-memory" // needs more than a child may have
	CodeTimeout        = "render-timeout"       // needs longer than a child may take
	CodeCrashed        = "renderer-crashed"     // killed three children
)

// codes are those with which a child may refuse.
var codes = []string{
	CodeUnsupported, CodeEncrypted, CodeUnreadable, CodeNoPages, CodeTooManyPages,
	CodeUnreadablePage, CodePageTooLarge, CodeOutOfMemory, CodeCrashed,
}

// Renderer opens documents. [Pool] is the one implementation.
type Renderer interface {
	// Open opens the document in the local file path, which may be removed as
	// soon as Open has returned. Errors are classed by package fault, with one
	// of the codes above.
	Open(ctx context.Context, path string) (Document, error)
	// Build names the library and the way it is used: equal builds give equal
	// pages. It is a part of object keys and of a run's identity.
	Build() string
}

// Document is an open document. It is not for concurrent use.
type Document interface {
	ContentType() string // by magic bytes
	PageCount() int      // 1 or more
	// Page renders a page, counted from 1. A PDF page is rendered at dpi. A
	// page of an image document is used at the image's own size in pixels,
	// whatever dpi is, never enlarged; above the bound on pixels it is scaled
	// down to it. An error concerns this page alone, others may still be asked
	// for.
	Page(ctx context.Context, number, dpi int) (*Page, error)
	// Close gives up what the document holds. It is legal to close twice.
	Close()
}

// Page is a rendered page.
type Page struct {
	PNG           []byte
	Width, Height int                // pixels
	DPI           int                // of the image; for image documents what the file says, or 96
	Lines         []schemas.TextLine // the text layer in the document's order; empty for images
	Elapsed       time.Duration      // rendering, text and PNG together
}

// build is raised whenever the same page may come out with other pixels or other
// text: rendered pages are then made anew under other keys.
const build = "mupdf" + libraryVersion + "-1"

// permanent is a fault of the document's own.
func permanent(code, format string, args ...any) error {
	return fault.Permanentf(code, format, args...)
}

// Config bounds what documents may cost.
type Config struct {
	PageTimeout  time.Duration `env:"LEAFCUTTER_RENDER_TIMEOUT" envDefault:"30s" desc:"time that opening a document or rendering a page may take before its child is killed"`
	Memory       config.Bytes  `env:"LEAFCUTTER_RENDER_MEMORY" envDefault:"1GiB" desc:"memory that a render child may have besides the document itself"`
	MaxPixels    int           `env:"LEAFCUTTER_MAX_PAGE_PIXELS" envDefault:"40000000" desc:"pixels of a page image above which a page is refused as page-too-large"`
	MaxPages     int           `env:"LEAFCUTTER_MAX_PAGES" envDefault:"20000" desc:"pages of a document above which it is refused as too-many-pages"`
	RecyclePages int           `env:"LEAFCUTTER_RENDER_RECYCLE_PAGES" envDefault:"500" desc:"pages after which a render child is replaced by a new one"`
	RecycleRSS   config.Bytes  `env:"LEAFCUTTER_RENDER_RECYCLE_RSS" envDefault:"256MiB" desc:"resident memory above which a render child is replaced once its document is closed"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	atLeast := func(name string, value, least int64) {
		if value < least {
			faults = append(faults, fmt.Errorf("%s: %d, must be %d or more", name, value, least))
		}
	}
	atLeast("LEAFCUTTER_RENDER_MEMORY", int64(c.Memory), 64<<20)
	if c.MaxPixels < 1<<16 || c.MaxPixels > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_MAX_PAGE_PIXELS: %d is outside %d to %d", c.MaxPixels, 1<<16, math.MaxInt32))
	}
	atLeast("LEAFCUTTER_MAX_PAGES", int64(c.MaxPages), 1)
	atLeast("LEAFCUTTER_RENDER_RECYCLE_PAGES", int64(c.RecyclePages), 1)
	atLeast("LEAFCUTTER_RENDER_RECYCLE_RSS", int64(c.RecycleRSS), 32<<20)
	if c.PageTimeout < 100*time.Millisecond {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_RENDER_TIMEOUT: %s, must be 100ms or more", c.PageTimeout))
	}
	return errors.Join(faults...)
}
