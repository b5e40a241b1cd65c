package paint

import (
	"bytes"
	"image"
	"math"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"leafcutter/pkg/pngdec"
	"leafcutter/schemas"
)

// paper is a white page. Rows have a byte between them, as those of decoded pages have.
func paper(width, height int) *pngdec.Image {
	return &pngdec.Image{Pix: bytes.Repeat([]byte{255}, (3*width+1)*height), Stride: 3*width + 1, Width: width, Height: height}
}

func at(m *pngdec.Image, x, y int) colour { return colour(m.Row(y)[3*x : 3*x+3]) }

func newPainter(t testing.TB) *Painter {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func box(class string, score, x0, y0, x1, y1 float64) schemas.Box {
	return schemas.Box{Class: class, Score: score, Rect: [4]float64{x0, y0, x1, y1}}
}

func TestTheOutlineLiesAroundTheBox(t *testing.T) {
	p, m := newPainter(t), paper(900, 1200)
	p.Draw(m, []schemas.Box{box("title", 0.93, 100, 200, 400, 260)})
	red := colourOf("title")
	for _, c := range []struct {
		x, y int
		want colour
	}{
		{98, 230, red}, {99, 230, red}, {400, 230, red}, {401, 230, red}, // left and right: two pixels
		{250, 198, red}, {250, 199, red}, {250, 260, red}, {250, 261, red}, // top and bottom
	} {
		if got := at(m, c.x, c.y); got != c.want {
			t.Errorf("pixel %d,%d is %v, want %v", c.x, c.y, got, c.want)
		}
	}
	for y := 200; y < 260; y++ {
		for x := 100; x < 400; x++ {
			if at(m, x, y) != (colour{255, 255, 255}) {
				t.Fatalf("pixel %d,%d of the box is painted over", x, y)
			}
		}
	}
	// The tag stands on the left end of the outline, and nothing else is painted.
	tagged := 0
	for y := range m.Height {
		for x := range m.Width {
			if at(m, x, y) == (colour{255, 255, 255}) || image.Pt(x, y).In(image.Rect(98, 198, 402, 262)) {
				continue
			}
			tagged++
			if !image.Pt(x, y).In(image.Rect(98, 170, 200, 198)) {
				t.Fatalf("pixel %d,%d is painted, far from the box", x, y)
			}
		}
	}
	if tagged < 500 {
		t.Errorf("%d pixels of a tag", tagged)
	}
}

func TestTheLineFollowsThePage(t *testing.T) {
	for _, c := range []struct{ width, height, line, text int }{
		{298, 421, 1, 11},    // A4 at 36 dpi
		{893, 1263, 2, 13},   // at 108
		{2480, 3508, 6, 36},  // at 300
		{4960, 7016, 11, 72}, // at 600
		{400, 9000, 1, 11},   // a receipt
		{1, 1, 1, 11},
	} {
		if s := scaleOf(c.width, c.height); s.line != c.line || s.text != c.text {
			t.Errorf("%d × %d: line %d, text %d, want %d and %d", c.width, c.height, s.line, s.text, c.line, c.text)
		}
	}
}

func TestTagsAvoidTextAndEachOther(t *testing.T) {
	p, m := newPainter(t), paper(900, 1200)
	// Lines of text right above the box, from the page's left edge to its middle.
	for y := 150; y < 198; y++ {
		for x := range 450 {
			if (x/2+y/3)%2 == 0 {
				copy(m.Row(y)[3*x:], []byte{0, 0, 0})
			}
		}
	}
	before := bytes.Clone(m.Pix[150*m.Stride : 190*m.Stride])
	p.Draw(m, []schemas.Box{box("text", 0.9, 100, 200, 800, 300), box("text", 0.8, 100, 200, 800, 301)})
	for y := 150; y < 190; y++ {
		was := before[(y-150)*m.Stride:]
		if !bytes.Equal(m.Row(y)[:3*440], was[:3*440]) {
			t.Fatalf("row %d of the text is painted over", y)
		}
	}
	var others []tag
	for range 5 {
		area, ok := place(m, image.Rect(98, 198, 802, 302), image.Pt(80, 18), others)
		if !ok {
			t.Fatal("no place for a tag")
		}
		for _, other := range others {
			if area.Overlaps(other.area) {
				t.Fatalf("%v overlaps %v", area, other.area)
			}
		}
		others = append(others, tag{area: area})
	}
}

func TestTagsStayOnThePage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := paper(rapid.IntRange(1, 120).Draw(t, "width"), rapid.IntRange(1, 60).Draw(t, "height"))
		page := image.Rect(0, 0, m.Width, m.Height)
		x, y := rapid.IntRange(0, m.Width-1).Draw(t, "x"), rapid.IntRange(0, m.Height-1).Draw(t, "y")
		r := image.Rect(x, y, rapid.IntRange(x+1, m.Width).Draw(t, "x1"), rapid.IntRange(y+1, m.Height).Draw(t, "y1"))
		size := image.Pt(rapid.IntRange(1, 100).Draw(t, "w"), rapid.IntRange(1, 30).Draw(t, "h"))
		area, ok := place(m, r, size, nil)
		if fits := size.X <= m.Width && size.Y <= m.Height; ok != fits {
			t.Fatalf("placed %v, fits %v", ok, fits)
		}
		if ok && (!area.In(page) || area.Size() != size) {
			t.Fatalf("%v on a page of %v", area, page)
		}
	})
}

func TestAnyBoxesOnAnyPage(t *testing.T) {
	p := newPainter(t)
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(1, 200).Draw(t, "width"), rapid.IntRange(1, 200).Draw(t, "height")
		coordinate := rapid.OneOf(rapid.Float64Range(-20, 220), rapid.Float64(), rapid.SampledFrom([]float64{0, math.NaN(), math.Inf(1), math.Inf(-1)}))
		boxes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) schemas.Box {
			return box(rapid.String().Draw(t, "class"), rapid.Float64Range(0, 1).Draw(t, "score"),
				coordinate.Draw(t, "x0"), coordinate.Draw(t, "y0"), coordinate.Draw(t, "x1"), coordinate.Draw(t, "y1"))
		}), 0, 8).Draw(t, "boxes")
		first, second := paper(width, height), paper(width, height)
		p.Draw(first, boxes)
		p.Draw(second, boxes)
		if !bytes.Equal(first.Pix, second.Pix) {
			t.Fatal("the same boxes give other pixels")
		}
		for y := range height - 1 {
			if between := first.Pix[y*first.Stride+3*width]; between != 255 {
				t.Fatalf("the byte after row %d was painted", y)
			}
		}
	})
}

func TestBoxesOffThePageAreLeftOut(t *testing.T) {
	p, m := newPainter(t), paper(300, 300)
	p.Draw(m, []schemas.Box{box("a", 1, 50, 50, 50, 80), box("b", 1, 80, 80, 50, 50), box("c", 1, 300, 0, 400, 50), box("d", 1, 0, -50, 50, 0)})
	if !bytes.Equal(m.Pix, paper(300, 300).Pix) {
		t.Error("something was painted")
	}
}

func TestLabels(t *testing.T) {
	for _, c := range []struct {
		class string
		score float64
		want  string
	}{
		{"figure_caption", 0.926, "figure_caption 0.93"},
		{"", 1, " 1.00"},
		{strings.Repeat("é", 40), 0.5, strings.Repeat("é", 40) + " 0.50"},
		{strings.Repeat("é", 41), 0.5, strings.Repeat("é", 39) + "… 0.50"},
	} {
		if got := labelOf(box(c.class, c.score, 0, 0, 1, 1)); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestLettersThatTheFontLacksAreKeptOnce(t *testing.T) {
	l, err := newLetters()
	if err != nil {
		t.Fatal(err)
	}
	f := l.face(13)
	for r := rune(0x4E00); r < 0x5E00; r++ { // Chinese
		f.width(string(r))
	}
	if len(f.glyphs) != 1 {
		t.Errorf("%d glyphs kept", len(f.glyphs))
	}
	if f.width("title") <= f.width("titl") {
		t.Error("letters have no width")
	}
}

func TestOnePainterForManyPages(t *testing.T) {
	p := newPainter(t)
	boxes := []schemas.Box{box("title", 0.93, 100, 200, 400, 260), box("équation", 0.5, 100, 300, 400, 360)}
	want := paper(893, 1263)
	p.Draw(want, boxes)
	shared := newPainter(t) // whose letters all are yet to be drawn
	var pages sync.WaitGroup
	for range 8 {
		pages.Go(func() {
			m := paper(893, 1263)
			shared.Draw(m, boxes)
			if !bytes.Equal(m.Pix, want.Pix) {
				t.Error("other pixels than alone")
			}
		})
	}
	pages.Wait()
}

// BenchmarkDraw: an A4 page at 108 dpi with as many boxes as pages have, and with as many as none has.
func BenchmarkDraw(b *testing.B) {
	for _, c := range []struct {
		name         string
		across, down int
	}{{"20boxes", 2, 10}, {"1000boxes", 20, 50}} {
		b.Run(c.name, func(b *testing.B) {
			var boxes []schemas.Box
			w, h := 893/float64(c.across), 1263/float64(c.down)
			for i := range c.across * c.down {
				x, y := float64(i%c.across)*w, float64(i/c.across)*h
				boxes = append(boxes, box(palette[i%len(palette)].class, 0.9, x+w/8, y+h/8, x+w*7/8, y+h*7/8))
			}
			p, m := newPainter(b), paper(893, 1263)
			b.ReportAllocs()
			for b.Loop() {
				p.Draw(m, boxes)
			}
		})
	}
}
