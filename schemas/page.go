package schemas

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxPageSide is the largest width or height of a page image, in pixels. Who reads a page by rows keeps memory for the
// longest row that ever came, so a bound on width × height alone would let one page of a single row take hundreds of
// megabytes for good. It is the largest side that a JPEG can have.
const MaxPageSide = 65_535

// RenderedPage is a page of a run that has an image: where it is and how large.
type RenderedPage struct {
	Run
	Page       int       `json:"page" jsonschema:"page number from 1"`
	Position   int       `json:"position" jsonschema:"how many selected pages of the run come before this one"`
	ImageKey   string    `json:"image_key" jsonschema:"object key of the page image: PNG, 8 bits a channel, RGB, or grey where the page has no colour"`
	TextKey    string    `json:"text_key,omitempty" jsonschema:"object key of the text lines (PageText); absent where the page has no text layer"`
	Width      int       `json:"width" jsonschema:"pixels"`
	Height     int       `json:"height" jsonschema:"pixels"`
	DPI        int       `json:"dpi" jsonschema:"dots per inch of the image"`
	RenderMS   float64   `json:"render_ms" jsonschema:"milliseconds that rendering took; 0 where the image was there already"`
	RenderedAt time.Time `json:"rendered_at"`
}

// Key is the record's key: run/page.
func (p RenderedPage) Key() string { return pageKey(p.RunID, p.Page) }

// Bulk reports whether the page goes by the bulk topic; as PageRange.Bulk.
func (p RenderedPage) Bulk() bool { return p.Position >= FirstPages || p.Options.Shadow }

// Validate reports what makes the page unusable.
func (p RenderedPage) Validate() error {
	faults := []error{p.Run.Validate()}
	if p.Page < 1 {
		faults = append(faults, fmt.Errorf("page: %d, must be 1 or more", p.Page))
	}
	if p.ImageKey == "" {
		faults = append(faults, errors.New("image_key: missing"))
	}
	if p.Width < 1 || p.Height < 1 {
		faults = append(faults, fmt.Errorf("width, height: %d × %d, must be 1 or more", p.Width, p.Height))
	}
	return errors.Join(faults...)
}

// PageRendered is a value of pages.<model>.
type PageRendered struct {
	RenderedPage
}

// Schema names the type and version of the record.
func (PageRendered) Schema() string { return "PageRendered.v1" }

// Identity is the run and the page.
func (p PageRendered) Identity() string { return p.Key() }

// Box is one detection: class, score, and [x0,y0,x1,y1] in pixels of the page image, origin top left, x1 and y1
// exclusive, to a hundredth of a pixel.
type Box struct {
	Class string     `json:"class"`
	Score float64    `json:"score" jsonschema:"0 to 1"`
	Rect  [4]float64 `json:"box" jsonschema:"x0, y0, x1, y1 in pixels of the page image, origin top left"`
}

// CompareBoxes is the total order of the boxes of a page: by falling score, then class, then coordinates. Box number k,
// from 1, is the place in this order.
func CompareBoxes(a, b Box) int {
	return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Class, b.Class), slices.Compare(a.Rect[:], b.Rect[:]))
}

// PageDetected is a value of detections: the boxes of a page from the model's score floor on, in the order of
// CompareBoxes.
type PageDetected struct {
	RenderedPage
	Boxes      []Box     `json:"boxes"`
	QueueMS    float64   `json:"queue_ms" jsonschema:"milliseconds the page waited for the detector"`
	InferMS    float64   `json:"infer_ms" jsonschema:"milliseconds from image to boxes"`
	DetectedAt time.Time `json:"detected_at"`
}

// Schema names the type and version of the record.
func (PageDetected) Schema() string { return "PageDetected.v1" }

// Identity is the run and the page.
func (p PageDetected) Identity() string { return p.Key() }

// PageText is the object at text_key: the lines of the page's own text layer, in reading order of the document.
type PageText struct {
	Lines []TextLine `json:"lines"`
}

// TextLine is one line of text and its box in pixels of the page image, origin top left.
type TextLine struct {
	Text string     `json:"text"`
	Rect [4]float64 `json:"box"`
}
