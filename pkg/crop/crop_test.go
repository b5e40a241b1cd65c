package crop_test

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"testing"

	"pgregory.net/rapid"

	"leafcutter/pkg/crop"
	"leafcutter/pkg/pngdec"
)

func TestRect(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		name    string
		box     [4]float64
		padding int
		want    [4]int
	}{
		{"whole pixels", [4]float64{10, 20, 30, 40}, 0, [4]int{10, 20, 30, 40}},
		{"padded", [4]float64{10, 20, 30, 40}, 4, [4]int{6, 16, 34, 44}},
		{"outwards to whole pixels", [4]float64{10.99, 20.01, 30.01, 39.5}, 0, [4]int{10, 20, 31, 40}},
		{"padding clipped at the page's edges", [4]float64{1, 1, 99, 199}, 4, [4]int{0, 0, 100, 200}},
		{"part of the box off the page", [4]float64{-50, -3, 10, 10}, 2, [4]int{0, 0, 12, 12}},
		{"box larger than the page", [4]float64{-1e300, -inf, 1e300, inf}, 200, [4]int{0, 0, 100, 200}},
		{"a sliver", [4]float64{50.2, 50.2, 50.3, 50.3}, 0, [4]int{50, 50, 51, 51}},
		{"the last pixel", [4]float64{99.9, 199.9, 100, 200}, 0, [4]int{99, 199, 100, 200}},
		{"no width", [4]float64{50, 50, 50, 60}, 4, [4]int{}},
		{"no height", [4]float64{50, 50, 60, 50}, 4, [4]int{}},
		{"inside out", [4]float64{60, 60, 50, 50}, 4, [4]int{}},
		{"right of the page, padding would reach it", [4]float64{101, 10, 110, 20}, 4, [4]int{}},
		{"touching the page from above", [4]float64{10, -9, 20, 0}, 4, [4]int{}},
		{"not a number", [4]float64{nan, 10, 20, 20}, 4, [4]int{}},
		{"not a number at the end", [4]float64{10, 10, 20, nan}, 4, [4]int{}},
		{"negative padding is none", [4]float64{10, 20, 30, 40}, -5, [4]int{10, 20, 30, 40}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := crop.Rect(c.box, c.padding, 100, 200)
			if got != c.want {
				t.Errorf("Rect(%v, %d) = %v, want %v", c.box, c.padding, got, c.want)
			}
			if crop.Empty(got) != (c.want == [4]int{}) {
				t.Errorf("Empty(%v) = %v", got, crop.Empty(got))
			}
		})
	}
}

func TestRectHoldsTheBoxAndStaysOnThePage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(1, 5000).Draw(t, "width"), rapid.IntRange(1, 5000).Draw(t, "height")
		padding := rapid.IntRange(0, 200).Draw(t, "padding")
		coordinate := rapid.OneOf(rapid.Float64Range(-100, 5100), rapid.Float64())
		box := [4]float64{coordinate.Draw(t, "x0"), coordinate.Draw(t, "y0"), coordinate.Draw(t, "x1"), coordinate.Draw(t, "y1")}
		got := crop.Rect(box, padding, width, height)

		x0, y0 := max(box[0], 0), max(box[1], 0)
		x1, y1 := min(box[2], float64(width)), min(box[3], float64(height))
		if !(x0 < x1 && y0 < y1) {
			if got != [4]int{} {
				t.Fatalf("%v: nothing of the box is on the page", got)
			}
			return
		}
		if got[0] < 0 || got[1] < 0 || got[2] > width || got[3] > height || crop.Empty(got) {
			t.Fatalf("%v is not inside %d × %d", got, width, height)
		}
		if float64(got[0]) > x0 || float64(got[1]) > y0 || float64(got[2]) < x1 || float64(got[3]) < y1 {
			t.Fatalf("%v does not hold %v", got, box)
		}
		// No more than asked for: a pixel of rounding beside the padding.
		if x0-float64(got[0]) > float64(padding)+1 || float64(got[2])-x1 > float64(padding)+1 ||
			y0-float64(got[1]) > float64(padding)+1 || float64(got[3])-y1 > float64(padding)+1 {
			t.Fatalf("%v is more than %d around %v", got, padding, box)
		}
	})
}

// page has a colour of its own at each pixel.
func page(t testing.TB, width, height int) *pngdec.Image {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			m.SetRGBA(x, y, color.RGBA{R: byte(x), G: byte(y), B: byte(x>>8 | y>>8<<4), A: 255})
		}
	}
	var file bytes.Buffer
	if err := png.Encode(&file, m); err != nil {
		t.Fatal(err)
	}
	p, err := pngdec.New(width * height).Decode(file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPNGHasThePixelsOfTheRectangle(t *testing.T) {
	p := page(t, 120, 300)
	for _, rect := range [][4]int{{0, 0, 120, 300}, {0, 0, 1, 1}, {119, 299, 120, 300}, {10, 20, 30, 280}, {0, 150, 120, 151}} {
		file, err := crop.PNG(p, rect)
		if err != nil {
			t.Fatal(err)
		}
		m, err := png.Decode(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if m.Bounds() != image.Rect(0, 0, rect[2]-rect[0], rect[3]-rect[1]) {
			t.Fatalf("%v: bounds %v", rect, m.Bounds())
		}
		for y := range m.Bounds().Dy() {
			for x := range m.Bounds().Dx() {
				px, py := x+rect[0], y+rect[1]
				want := color.RGBA{R: byte(px), G: byte(py), B: byte(px>>8 | py>>8<<4), A: 255}
				if got := color.RGBAModel.Convert(m.At(x, y)); got != want {
					t.Fatalf("%v: pixel %d,%d is %v, want %v", rect, x, y, got, want)
				}
			}
		}
	}
}

func TestPNGRefusesWhatIsNotOnThePage(t *testing.T) {
	p := page(t, 20, 10)
	for _, rect := range [][4]int{{}, {5, 5, 5, 8}, {8, 8, 5, 9}, {-1, 0, 5, 5}, {0, -1, 5, 5}, {0, 0, 21, 10}, {0, 0, 20, 11}} {
		if file, err := crop.PNG(p, rect); err == nil {
			t.Errorf("%v: %d bytes and no error", rect, len(file))
		}
	}
}

// Crops are named after their content's coordinates and written again by a redelivery: whatever an encoder did before
// may not show in the bytes.
func TestPNGDependsOnThePixelsAlone(t *testing.T) {
	p := page(t, 400, 300)
	first := map[[4]int][]byte{}
	rapid.Check(t, func(t *rapid.T) {
		x0, y0 := rapid.IntRange(0, 399).Draw(t, "x0"), rapid.IntRange(0, 299).Draw(t, "y0")
		rect := [4]int{x0 / 40 * 40, y0 / 40 * 40, x0/40*40 + rapid.IntRange(1, 4).Draw(t, "w")*10, y0/40*40 + 20}
		file, err := crop.PNG(p, rect)
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := first[rect]; ok && !bytes.Equal(before, file) {
			t.Fatalf("%v: other bytes than the first time", rect)
		}
		first[rect] = file
	})
	again := page(t, 400, 300)
	for rect, before := range first {
		if file, err := crop.PNG(again, rect); err != nil || !bytes.Equal(before, file) {
			t.Fatalf("%v: other bytes from an equal page (%v)", rect, err)
		}
	}
}

func BenchmarkPNG(b *testing.B) {
	p := page(b, 893, 1263)
	for _, c := range []struct {
		name string
		rect [4]int
	}{{"heading", [4]int{80, 100, 620, 130}}, {"figure", [4]int{80, 200, 820, 700}}, {"page", [4]int{0, 0, 893, 1263}}} {
		b.Run(c.name, func(b *testing.B) {
			var out bytes.Buffer
			b.ReportAllocs()
			for b.Loop() {
				out.Reset()
				if err := crop.Write(&out, p, c.rect); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
