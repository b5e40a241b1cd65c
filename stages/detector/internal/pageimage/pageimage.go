// Package pageimage reads page images row by row. The detector's models look
// at a page once, from top to bottom, while they shrink it, so the page is
// never held whole: memory per page is two rows, whatever the page's size.
//
// Package pngdec, with which the annotator reads the same pages, gives them
// whole. It also compares the sum over all pixels (zlib's Adler-32), which is
// not looked at here: reading would take 8 to 32 % longer, each chunk has a sum
// that is compared, and what the one over all alone finds, whole chunks lost or
// exchanged, is nothing that a network or a disk does to a file.
//
// The page image between the stages is a PNG with 8 bits a channel, grey or
// RGB, not interlaced. Package family consumes Rows; package detector opens
// them.
package pageimage

import (
	"errors"
	"fmt"
	"image"
	"image/color"
)

// What can be wrong with a page image. ErrDamaged means that the bytes are not
// what was written; the other two that they never were a page image.
var (
	ErrFormat   = errors.New("page image of another format")
	ErrTooLarge = errors.New("page image too large")
	ErrDamaged  = errors.New("page image damaged")
)

// Rows is a page image read from the top.
type Rows interface {
	// Size is the width and height in pixels.
	Size() (width, height int)
	// Channels is how many bytes a pixel of every row has: 3 are red, green
	// and blue, and 1 is a grey, which stands for three equal ones.
	Channels() int
	// Next is the next row, Channels()·width bytes, pixels side by side. It is
	// overwritten by the call after. Only height rows may be asked for.
	Next() ([]byte, error)
}

// RGB gives the same page in three channels, for a reader that knows only those.
// It takes page over.
func RGB(page Rows) Rows {
	if page.Channels() == 3 {
		return page
	}
	width, _ := page.Size()
	return &wideRows{Rows: page, row: make([]byte, 3*width)}
}

type wideRows struct {
	Rows // grey
	row  []byte
}

func (r *wideRows) Channels() int { return 3 }

func (r *wideRows) Next() ([]byte, error) {
	grey, err := r.Rows.Next()
	if err != nil {
		return nil, err
	}
	for x, v := range grey {
		r.row[3*x], r.row[3*x+1], r.row[3*x+2] = v, v, v
	}
	return r.row, nil
}

// Of gives the rows of a decoded image, always RGB, for tests and tools.
func Of(m image.Image) Rows {
	b := m.Bounds()
	return &imageRows{m: m, y: b.Min.Y, row: make([]byte, 3*b.Dx())}
}

type imageRows struct {
	m   image.Image
	y   int
	row []byte
}

func (r *imageRows) Size() (int, int) { return r.m.Bounds().Dx(), r.m.Bounds().Dy() }

func (r *imageRows) Channels() int { return 3 }

func (r *imageRows) Next() ([]byte, error) {
	b := r.m.Bounds()
	if r.y >= b.Max.Y {
		return nil, fmt.Errorf("%w: row %d of %d asked for", ErrDamaged, r.y-b.Min.Y, b.Dy())
	}
	for x := range b.Dx() {
		c := color.NRGBAModel.Convert(r.m.At(b.Min.X+x, r.y)).(color.NRGBA)
		r.row[3*x], r.row[3*x+1], r.row[3*x+2] = c.R, c.G, c.B
	}
	r.y++
	return r.row, nil
}
