// Package crop cuts boxes out of page images: the rectangle of a crop and its PNG, both functions of their arguments
// alone. The annotator calls it for every kept box, and ingest-api where crops are cut on request; because both take
// the same way, a crop is the same object whoever made it.
package crop

import (
	"bytes"
	"fmt"
	"math"
	"sync"

	"leafcutter/pkg/pngdec"
	"leafcutter/pkg/pngenc"
)

// Rect is what is cut for a box: the smallest rectangle of whole pixels that holds the part of the box that lies on the
// page, grown by padding on each side and clipped to the page of width × height. Box and result are [x0,y0,x1,y1] in
// pixels of the page image, origin top left, x1 and y1 exclusive.
//
// It is all zeros where no part of the box lies on the page: empty, inside out, outside or not a number. Test with
// [Empty].
func Rect(box [4]float64, padding, width, height int) [4]int {
	x0, x1 := cut(box[0], box[2], padding, width)
	y0, y1 := cut(box[1], box[3], padding, height)
	if x0 >= x1 || y0 >= y1 {
		return [4]int{}
	}
	return [4]int{x0, y0, x1, y1}
}

// cut does one axis. Clipping comes before rounding: no coordinate is then too large for an int.
func cut(low, high float64, padding, size int) (int, int) {
	low, high = max(low, 0), min(high, float64(size)) // NaN stays NaN and fails the comparison
	if !(low < high) {
		return 0, 0
	}
	padding = max(padding, 0)
	return max(int(math.Floor(low))-padding, 0), min(int(math.Ceil(high))+padding, size)
}

// Empty reports whether rect has no pixels.
func Empty(rect [4]int) bool { return rect[0] >= rect[2] || rect[1] >= rect[3] }

// encoders keep their buffers from crop to crop. A pool holds no state that could differ: equal pixels give equal bytes.
var encoders = sync.Pool{New: func() any { return new(pngenc.Encoder) }}

// PNG is the pixels of rect, as Rect gave it for a page of this size, as a PNG file: 8 bits, RGB. The same pixels give
// the same bytes. A rectangle that is empty or leaves the page is an error.
func PNG(page *pngdec.Image, rect [4]int) ([]byte, error) {
	var out bytes.Buffer
	if err := Write(&out, page, rect); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Write appends what PNG returns to out.
func Write(out *bytes.Buffer, page *pngdec.Image, rect [4]int) error {
	x0, y0, x1, y1 := rect[0], rect[1], rect[2], rect[3]
	if Empty(rect) || x0 < 0 || y0 < 0 || x1 > page.Width || y1 > page.Height {
		return fmt.Errorf("crop %v is not inside a page of %d × %d", rect, page.Width, page.Height)
	}
	encoder := encoders.Get().(*pngenc.Encoder)
	defer encoders.Put(encoder)
	pix := page.Pix[y0*page.Stride+3*x0 : (y1-1)*page.Stride+3*x1]
	if err := encoder.EncodeRGB(out, pix, x1-x0, y1-y0, page.Stride); err != nil {
		return fmt.Errorf("crop %v: %w", rect, err)
	}
	return nil
}
