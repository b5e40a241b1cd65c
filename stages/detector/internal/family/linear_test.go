package family

import (
	"errors"
	"fmt"
	"image"
	"math"
	"testing"

	"leafcutter/stages/detector/internal/pageimage"
)

// between is the definition, by the formula: the four pixels around a point,
// each weighted by how near it is, the outermost pixels going on for ever.
func between(m *image.NRGBA, c int, x, y float64) float64 {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	x, y = min(max(x, 0), float64(w-1)), min(max(y, 0), float64(h-1))
	x0, y0 := int(x), int(y)
	sum := 0.0
	for _, py := range []int{y0, y0 + 1} {
		for _, px := range []int{x0, x0 + 1} {
			weight := (1 - math.Abs(x-float64(px))) * (1 - math.Abs(y-float64(py)))
			if weight > 0 {
				sum += weight * float64(m.Pix[m.PixOffset(px, py)+c])
			}
		}
	}
	return sum
}

func TestLinearIsBetweenTheNearestPixels(t *testing.T) {
	var s Scratch // reused: a page's size must not show in the next
	for _, c := range []struct{ w, h, width, height int }{
		{91, 118, 61, 80}, {61, 80, 61, 80}, {122, 160, 61, 80}, {61, 400, 61, 80},
		{30, 40, 61, 80}, {3, 2, 7, 5}, {1, 1, 4, 3}, {500, 7, 3, 2}, {640, 1, 61, 1}, {9, 300, 2, 299},
	} {
		t.Run(fmt.Sprintf("%dx%d to %dx%d", c.w, c.h, c.width, c.height), func(t *testing.T) {
			m := noise(c.w, c.h)
			dst := make([]float32, 3*c.width*c.height)
			to := planes{dst: dst, width: c.width, height: c.height, scale: [3]float32{1, 1, 1}, linear: true}
			if err := shrink(pageimage.Of(m), to, &s); err != nil {
				t.Fatal(err)
			}
			fx, fy := float64(c.w)/float64(c.width), float64(c.h)/float64(c.height)
			for ch := range 3 {
				for y := range c.height {
					for x := range c.width {
						got := float64(dst[(ch*c.height+y)*c.width+x])
						want := between(m, ch, (float64(x)+0.5)*fx-0.5, (float64(y)+0.5)*fy-0.5)
						if math.Abs(got-want) > 0.01 { // of 255; weights have 16 bits
							t.Fatalf("channel %d, pixel %d,%d: %v, want %v", ch, x, y, got, want)
						}
					}
				}
			}
		})
	}
}

func TestLinearWeightsAddUpAndStayOnTheAxis(t *testing.T) {
	for n := 1; n < 300; n += 3 {
		for m := 1; m < 120; m += 5 {
			before := span{}
			for i, s := range linearSpans(n, m) {
				if s.first < before.first || s.last < before.last || s.first < before.last-1 || s.last > s.first+1 || int(s.last) >= n {
					t.Fatalf("%d to %d: span %d is %+v after %+v", n, m, i, s, before)
				}
				if s.head+s.tail != 1<<weightBits || (s.tail > 0) != (s.last > s.first) {
					t.Fatalf("%d to %d: weights of span %d are %+v", n, m, i, s)
				}
				before = s
			}
		}
	}
}

// A page that is cut off below the last row that is needed is still damaged.
func TestLinearReadsThePageToItsEnd(t *testing.T) {
	page := &cutRows{Rows: pageimage.Of(noise(40, 100)), left: 99}
	to := planes{dst: make([]float32, 3*4*5), width: 4, height: 5, linear: true}
	if err := shrink(page, to, &Scratch{}); !errors.Is(err, pageimage.ErrDamaged) {
		t.Fatalf("got %v", err)
	}
}

type cutRows struct {
	pageimage.Rows
	left int
}

func (r *cutRows) Next() ([]byte, error) {
	if r.left--; r.left < 0 {
		return nil, pageimage.ErrDamaged
	}
	return r.Rows.Next()
}
