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
func (brokenRows) Next() ([]byte, error) { return nil, pageimage.ErrDamaged }

// A row that is like the one above is copied; what is copied must be that row,
// in every plane, also after rows that differ.
func TestShrinkOfRowsThatRepeat(t *testing.T) {
	m := noise(40, 60)
	for y := range 60 {
		if y%20 < 14 { // bands of equal rows between noise
			copy(m.Pix[y*m.Stride:(y+1)*m.Stride], m.Pix[(y/20*20)*m.Stride:])
		}
	}
	dst := make([]float32, 3*20*30)
	if err := shrink(pageimage.Of(m), planes{dst: dst, width: 20, height: 30, scale: [3]float32{1, 1, 1}}, &Scratch{}); err != nil {
		t.Fatal(err)
	}
	for c := range 3 {
		for y := range 30 {
			for x := range 20 {
				want := mean(m, c, float64(2*x), float64(2*y), float64(2*x+2), float64(2*y+2))
				if got := float64(dst[(c*30+y)*20+x]); math.Abs(got-want) > 0.15 {
					t.Fatalf("channel %d, pixel %d,%d: %v, want %v", c, x, y, got, want)
				}
			}
		}
	}
}

// heldRows is a page whose rows cost nothing to read.
type heldRows struct {
	w, h int
	pix  []byte
	y    int
}

func (r *heldRows) Size() (int, int) { return r.w, r.h }

func (r *heldRows) Next() ([]byte, error) {
	r.y++
	return r.pix[(r.y-1)*3*r.w : r.y*3*r.w], nil
}

func BenchmarkShrink(b *testing.B) {
	for _, name := range []string{"../../report.png", "../../testdata/walden.png"} {
		var png pageimage.PNG
		if err := png.Open(readFile(b, name), 1<<24); err != nil {
			b.Fatal(err)
		}
		w, h := png.Size()
		page := heldRows{w: w, h: h}
		for range h {
			row, err := png.Next()
			if err != nil {
				b.Fatal(err)
			}
			page.pix = append(page.pix, row...)
		}
		for _, linear := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dx%d/linear=%t", w, h, linear), func(b *testing.B) {
				to := planes{dst: make([]float32, 3*608*800), width: 608, height: 800, scale: [3]float32{1, 1, 1}, linear: linear}
				var s Scratch
				b.SetBytes(int64(3 * w * h))
				for b.Loop() {
					page.y = 0
					if err := shrink(&page, to, &s); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
