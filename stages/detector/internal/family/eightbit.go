package family

import (
	"fmt"

	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
)

// Models are trained on pages that a library shrank to 8 bits a channel, and
// the libraries differ: by a few grey levels at the edges of letters, which
// moves boxes by some pixels. So the families of such models shrink a page as
// that library does, bit for bit, and normalise afterwards. area.go has what
// is faster and not held to anybody's bits.

// kernel is a library's way to weigh the pixels of one axis, and to round.
type kernel struct {
	// taps are the weights for n pixels that become m, along a row or down a
	// column. A tap down may begin above the page or end below it: such rows
	// are like the page's first or last.
	taps func(n, m int, down bool) []taps
	// across makes a row of the result's width from a row of the page, down
	// a row of the result from rows that are across already.
	across func(dst []int32, row []byte, t []taps)
	down   func(dst []byte, rows [][]int32, k []int32)
}

// taps are the weights of the pixels from first on.
type taps struct {
	first int32
	k     []int32
}

// tapAxis keeps the taps of one axis for as long as pages have the same size.
type tapAxis struct {
	n, m   int
	method string
	taps   []taps
}

func (a *tapAxis) of(n, m int, method string, down bool) []taps {
	if a.n != n || a.m != m || a.method != method {
		*a = tapAxis{n: n, m: m, method: method, taps: kernels()[method].taps(n, m, down)}
	}
	return a.taps
}

// eightBitScratch is what shrinking to 8 bits reuses from page to page.
type eightBitScratch struct {
	x, y   tapAxis
	ring   [][]int32 // page row i, shrunken across, at i mod len(ring)
	window [][]int32
	row    []byte
}

// shrink8 reads page to its last row and gives put each row of the page
// shrunken (or enlarged) to width × height, packed RGB. put must not keep the
// row.
func shrink8(page pageimage.Rows, method string, width, height int, s *eightBitScratch, put func(y int, row []byte)) error {
	kern, ok := kernels()[method]
	if !ok {
		return fmt.Errorf("no such resize: %q", method)
	}
	page = pageimage.RGB(page)
	w, h := page.Size()
	across, down := s.x.of(w, width, method, false), s.y.of(h, height, method, true)
	deepest := 0
	for _, t := range down {
		deepest = max(deepest, len(t.k))
	}
	for len(s.ring) < deepest {
		s.ring = append(s.ring, nil)
	}
	for i := range s.ring {
		s.ring[i] = sizedTo(s.ring[i], 3*width)
	}
	s.row = sizedTo(s.row, 3*width)
	read := 0 // rows of the page
	reach := func(end int) error {
		for ; read < end; read++ {
			row, err := page.Next()
			if err != nil {
				return err
			}
			kern.across(s.ring[read%len(s.ring)], row, across)
		}
		return nil
	}
	for y, t := range down {
		if err := reach(min(int(t.first)+len(t.k), h)); err != nil {
			return err
		}
		s.window = s.window[:0]
		for i := range t.k {
			s.window = append(s.window, s.ring[min(max(int(t.first)+i, 0), h-1)%len(s.ring)])
		}
		kern.down(s.row, s.window, t.k)
		put(y, s.row)
	}
	return reach(h) // a page that is damaged in rows that nobody needs is damaged
}

func kernels() map[string]kernel {
	return map[string]kernel{
		manifest.Pillow: {taps: pillowTaps, across: pillowAcross, down: pillowDown},
		manifest.OpenCV: {taps: openCVTaps, across: openCVAcross, down: openCVDown},
	}
}

// levels are the values that the 256 levels of each plane become.
type levels [3][256]float32

// normalised are levels v as (v/255 - mean) / std. Where the manifest gives no
// std they are v/255, rounded once.
func normalised(in manifest.Input) *levels {
	var l levels
	for c := range l {
		for v := range l[c] {
			x := float64(v) / 255
			if in.Normalises() {
				x = (x - in.Mean[c]) / in.Std[c]
			}
			l[c][v] = float32(x)
		}
	}
	return &l
}

// canvas is a tensor of three planes of width × height that a shrunken page is
// put into: its pixel (0, 0) at (left, top).
type canvas struct {
	dst           []float32
	width, height int
	left, top     int
	levels        *levels
	reversed      bool // blue first
}

// fill sets every value to that of a level.
func (c canvas) fill(level byte) {
	plane := c.width * c.height
	for p := range 3 {
		v := c.levels[p][level]
		values := c.dst[p*plane : (p+1)*plane]
		for i := range values {
			values[i] = v
		}
	}
}

func (c canvas) put(y int, row []byte) {
	plane, at := c.width*c.height, (c.top+y)*c.width+c.left
	n := len(row) / 3
	for p := range 3 {
		source := p
		if c.reversed {
			source = 2 - p
		}
		values, table := c.dst[p*plane+at:p*plane+at+n], &c.levels[p]
		for x := range values {
			values[x] = table[row[3*x+source]]
		}
	}
}
