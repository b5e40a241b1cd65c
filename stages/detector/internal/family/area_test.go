package family

import (
	"errors"
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"testing"

	"leafcutter/stages/detector/internal/pageimage"
)

func noise(w, h int) *image.NRGBA {
	r := rand.New(rand.NewPCG(uint64(w), uint64(h)))
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		m.Pix[i] = byte(r.UintN(256))
		if i%4 == 3 {
			m.Pix[i] = 255
		}
	}
	return m
}

// mean is the definition, by brute force: the integral of the image over a
// rectangle, divided by its area.
func mean(m *image.NRGBA, c int, x0, y0, x1, y1 float64) float64 {
	sum := 0.0
	for y := int(y0); float64(y) < y1 && y < m.Rect.Dy(); y++ {
		for x := int(x0); float64(x) < x1 && x < m.Rect.Dx(); x++ {
			wx := math.Min(x1, float64(x+1)) - math.Max(x0, float64(x))
			wy := math.Min(y1, float64(y+1)) - math.Max(y0, float64(y))
			sum += math.Max(wx, 0) * math.Max(wy, 0) * float64(m.Pix[m.PixOffset(x, y)+c])
		}
	}
	return sum / ((x1 - x0) * (y1 - y0))
}

func TestShrinkIsTheMeanUnderEachPixel(t *testing.T) {
	var s Scratch // reused: a page's size must not show in the next
	for _, c := range []struct{ w, h, width, height int }{
		{91, 118, 61, 80}, {61, 80, 61, 80}, {122, 160, 61, 80}, {61, 160, 61, 80},
		{30, 40, 61, 80}, {3, 2, 7, 5}, {1, 1, 4, 3}, {500, 7, 3, 2}, {640, 1, 61, 1}, {9, 300, 2, 299},
	} {
		t.Run(fmt.Sprintf("%dx%d to %dx%d", c.w, c.h, c.width, c.height), func(t *testing.T) {
			m := noise(c.w, c.h)
			dst := make([]float32, 3*c.width*c.height)
			scale, offset := [3]float32{1, 2, -1}, [3]float32{0, -3, 7}
			if err := shrink(pageimage.Of(m), planes{dst: dst, width: c.width, height: c.height, scale: scale, offset: offset}, &s); err != nil {
				t.Fatal(err)
			}
			fx, fy := float64(c.w)/float64(c.width), float64(c.h)/float64(c.height)
			for ch := range 3 {
				for y := range c.height {
					for x := range c.width {
						got := float64(dst[(ch*c.height+y)*c.width+x])
						want := mean(m, ch, float64(x)*fx, float64(y)*fy, float64(x+1)*fx, float64(y+1)*fy)
						want = want*float64(scale[ch]) + float64(offset[ch])
						if math.Abs(got-want) > 0.15 { // of 255; weights have 16 bits
							t.Fatalf("channel %d, pixel %d,%d: %v, want %v", ch, x, y, got, want)
						}
					}
				}
			}
		})
	}
}

func TestWhiteStaysWhite(t *testing.T) {
	var s Scratch
	for w := 1; w < 200; w += 7 {
		m := image.NewNRGBA(image.Rect(0, 0, w, 2*w))
		for i := range m.Pix {
			m.Pix[i] = 255
		}
		dst := make([]float32, 3*20*30)
		if err := shrink(pageimage.Of(m), planes{dst: dst, width: 20, height: 30, scale: [3]float32{1, 1, 1}}, &s); err != nil {
			t.Fatal(err)
		}
		for i, v := range dst {
			if v != 255 {
				t.Fatalf("width %d: value %d is %v", w, i, v)
			}
		}
	}
}

func TestSpansCoverTheAxisOnce(t *testing.T) {
	for n := 1; n < 300; n += 3 {
		for m := 1; m < 120; m += 5 {
			last := int32(0)
			for i, s := range spans(n, m) {
				if s.first > last+1 || s.first < 0 || s.last < s.first || int(s.last) >= n {
					t.Fatalf("%d to %d: span %d is %+v after pixel %d", n, m, i, s, last)
				}
				sum := s.head
				if s.last > s.first {
					sum += s.whole*uint32(s.last-s.first-1) + s.tail
				}
				if sum != 1<<weightBits || s.tail > 1<<weightBits {
					t.Fatalf("%d to %d: weights of span %d are %+v", n, m, i, s)
				}
				last = s.last
			}
			if int(last) != n-1 {
				t.Fatalf("%d to %d: ends at pixel %d", n, m, last)
			}
		}
	}
}

func TestShrinkReportsADamagedPage(t *testing.T) {
	err := shrink(brokenRows{}, planes{dst: make([]float32, 12), width: 2, height: 2}, &Scratch{})
	if !errors.Is(err, pageimage.ErrDamaged) {
		t.Fatalf("got %v", err)
	}
}

type brokenRows struct{}

func (brokenRows) Size() (int, int)      { return 4, 4 }
func (brokenRows) Channels() int         { return 3 }
func (brokenRows) Next() ([]byte, error) { return nil, pageimage.ErrDamaged }

// A row that is like the one above is copied; what is copied must be that row,
// in every plane, also after rows that differ.
func TestShrinkOfRowsThatRepeat(t *testing.T) {
	m := bands(40, 60)
	var s Scratch
	for _, height := range []int{30, 60, 41, 23, 7, 3, 1, 100, 240} {
		for _, linear := range []bool{false, true} {
			to := planes{dst: make([]float32, 3*20*height), width: 20, height: height, scale: [3]float32{1, 1, 1}, linear: linear}
			if err := shrink(pageimage.Of(m), to, &s); err != nil {
				t.Fatal(err)
			}
			f := 60 / float64(height)
			for c := range 3 {
				for y := range height {
					for x := range 20 {
						want := mean(m, c, float64(2*x), float64(y)*f, float64(2*x+2), float64(y+1)*f)
						if linear {
							want = between(m, c, float64(2*x)+0.5, (float64(y)+0.5)*f-0.5)
						}
						if got := float64(to.row(c, y)[x]); math.Abs(got-want) > 0.15 {
							t.Fatalf("height %d, linear %t, channel %d, pixel %d,%d: %v, want %v", height, linear, c, x, y, got, want)
						}
					}
				}
			}
		}
	}
}

// bands is noise with bands of one to fourteen equal rows.
func bands(w, h int) *image.NRGBA {
	m := noise(w, h)
	for y, left := 1, 0; y < h; y++ {
		if left--; left > 0 {
			copy(m.Pix[y*m.Stride:(y+1)*m.Stride], m.Pix[(y-1)*m.Stride:])
		} else {
			left = 1 + y%14
		}
	}
	return m
}

// A grey page is summed in one channel. Which of the two a page was written as
// must not show in a bit of the result.
func TestShrinkOfAGreyPageIsThatOfTheSameInRGB(t *testing.T) {
	var s Scratch // reused: the channels of a page must not show in the next
	for _, c := range []struct{ w, h, width, height int }{
		{91, 118, 61, 80}, {61, 80, 61, 80}, {918, 1188, 608, 800}, {30, 40, 61, 80}, {33, 57, 32, 56}, {1, 1, 4, 3},
		{1, 1, 1, 1}, {1, 9, 3, 2}, {3, 2, 7, 5}, {500, 7, 3, 2}, {641, 1, 61, 1}, {9, 300, 2, 299},
	} {
		for _, m := range []*image.NRGBA{noise(c.w, c.h), bands(c.w, c.h)} {
			grey := held(t, pageimage.Of(m)).grey()
			for _, linear := range []bool{false, true} {
				for _, reversed := range []bool{false, true} {
					var got [2]planes
					for i := range got {
						grey.y = 0
						page := pageimage.Rows(grey)
						if i == 1 {
							page = pageimage.RGB(page)
						}
						got[i] = planes{
							dst: make([]float32, 3*c.width*c.height), width: c.width, height: c.height,
							scale: [3]float32{1 / 57.375, 1 / 57.12, 1 / 58.395}, offset: [3]float32{-2.1, -2, -1.8},
							linear: linear, reversed: reversed,
						}
						if err := shrink(page, got[i], &s); err != nil || grey.y != c.h {
							t.Fatalf("%d of %d rows were read: %v", grey.y, c.h, err)
						}
					}
					for i, v := range got[0].dst {
						if math.Float32bits(v) != math.Float32bits(got[1].dst[i]) {
							t.Fatalf("%+v, linear %t, reversed %t: value %d is %v, in RGB %v", c, linear, reversed, i, v, got[1].dst[i])
						}
					}
				}
			}
		}
	}
}

// heldRows is a page whose rows cost nothing to read.
type heldRows struct {
	w, h, channels int
	pix            []byte
	y              int
}

func (r *heldRows) Size() (int, int) { return r.w, r.h }
func (r *heldRows) Channels() int    { return r.channels }

func (r *heldRows) Next() ([]byte, error) {
	r.y++
	stride := r.channels * r.w
	return r.pix[(r.y-1)*stride : r.y*stride], nil
}

// held reads a page to its end.
func held(t testing.TB, page pageimage.Rows) *heldRows {
	t.Helper()
	w, h := page.Size()
	r := &heldRows{w: w, h: h, channels: page.Channels()}
	for range h {
		row, err := page.Next()
		if err != nil {
			t.Fatal(err)
		}
		r.pix = append(r.pix, row...)
	}
	return r
}

// grey is the page of an RGB page's green.
func (r *heldRows) grey() *heldRows {
	g := &heldRows{w: r.w, h: r.h, channels: 1}
	for i := 1; i < len(r.pix); i += r.channels {
		g.pix = append(g.pix, r.pix[i])
	}
	return g
}

// BenchmarkShrink takes pages as the splitter renders them to the default
// model's input, in colour and in grey.
func BenchmarkShrink(b *testing.B) {
	for _, name := range []string{"../../report.png", "../../testdata/walden.png"} {
		var png pageimage.PNG
		if err := png.Open(readFile(b, name), 1<<24); err != nil {
			b.Fatal(err)
		}
		page := held(b, pageimage.RGB(&png))
		for _, page := range []*heldRows{page, page.grey()} {
			for _, linear := range []bool{false, true} {
				b.Run(fmt.Sprintf("%dx%d/channels=%d/linear=%t", page.w, page.h, page.channels, linear), func(b *testing.B) {
					to := planes{dst: make([]float32, 3*608*800), width: 608, height: 800, scale: [3]float32{1, 1, 1}, linear: linear}
					var s Scratch
					for b.Loop() {
						page.y = 0
						if err := shrink(page, to, &s); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
