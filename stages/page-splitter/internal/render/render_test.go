package render

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

func decode(t testing.TB, p *Page) *image.RGBA {
	t.Helper()
	m, err := png.Decode(bytes.NewReader(p.PNG))
	if err != nil {
		t.Fatal(err)
	}
	rgba := image.NewRGBA(m.Bounds()) // a page without colour is a file of grey
	draw.Draw(rgba, rgba.Rect, m, m.Bounds().Min, draw.Src)
	return rgba
}

// ink is the smallest rectangle that holds every pixel darker than mid grey.
func ink(m *image.RGBA) image.Rectangle {
	var r image.Rectangle
	for y := m.Rect.Min.Y; y < m.Rect.Max.Y; y++ {
		for x := m.Rect.Min.X; x < m.Rect.Max.X; x++ {
			if m.RGBAAt(x, y).G < 128 {
				r = r.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return r
}

func TestPageSizeAndText(t *testing.T) {
	doc := open(t, newPool(t), testpdf.Text(3))
	if doc.PageCount() != 3 || doc.ContentType() != "application/pdf" {
		t.Fatalf("%d pages of %s", doc.PageCount(), doc.ContentType())
	}
	for _, dpi := range []int{36, 72, 108, 300} {
		p := page(t, doc, 2, dpi)
		if p.Width != 612*dpi/72 || p.Height != 792*dpi/72 || p.DPI != dpi || p.Elapsed <= 0 {
			t.Errorf("%d dpi: %d × %d at %d in %s", dpi, p.Width, p.Height, p.DPI, p.Elapsed)
		}
		if len(p.Lines) != 2 || p.Lines[0].Text != "Page 2 of 3" {
			t.Fatalf("%d dpi: lines %v", dpi, p.Lines)
		}
		// The box of a line must sit on its ink: the advance width across, and
		// from descender to ascender, of which the tallest letter needs less.
		r := p.Lines[0].Rect
		got := ink(decode(t, p).SubImage(image.Rect(0, 0, p.Width, int(r[3]+1))).(*image.RGBA))
		k := float64(dpi) / 72
		for side, diff := range map[string]float64{"left": math.Abs(r[0] - float64(got.Min.X)), "right": math.Abs(r[2] - float64(got.Max.X))} {
			if diff > 2+2*k {
				t.Errorf("%d dpi: %s side of %v is %.0f pixels from ink %v", dpi, side, r, diff, got)
			}
		}
		if r[1] > float64(got.Min.Y)+1 || r[3] < float64(got.Max.Y)-1 || r[3]-r[1] > 24*k*1.5 {
			t.Errorf("%d dpi: box %v around ink %v", dpi, r, got)
		}
	}
}

// TestPageOrigin renders pages whose box does not begin at 0,0 or which are
// turned: the text must come to the same place of the image as it is shown.
func TestPageOrigin(t *testing.T) {
	line := []testpdf.Line{{Text: "Corner", X: 10, Y: 270, Size: 20}}
	moved := []testpdf.Line{{Text: "Corner", X: -90, Y: 1270, Size: 20}}
	doc := open(t, newPool(t), testpdf.Document([]testpdf.Page{
		{MediaBox: "0 0 200 300", Lines: line},
		{MediaBox: "-100 1000 100 1300", Lines: moved},
		{MediaBox: "0 0 200 300", Lines: line, Rotate: 90},
	}))
	straight, shifted, turned := page(t, doc, 1, 144), page(t, doc, 2, 144), page(t, doc, 3, 144)
	if !bytes.Equal(straight.PNG, shifted.PNG) {
		t.Error("a page with another origin comes out with other pixels")
	}
	if !slices.Equal(straight.Lines, shifted.Lines) {
		t.Errorf("lines %v and %v", straight.Lines, shifted.Lines)
	}
	if turned.Width != 600 || turned.Height != 400 {
		t.Fatalf("turned page has %d × %d pixels", turned.Width, turned.Height)
	}
	// Clockwise by a quarter: x' = height - y, y' = x.
	s, r := straight.Lines[0].Rect, turned.Lines[0].Rect
	want := [4]float64{600 - s[3], s[0], 600 - s[1], s[2]}
	for i := range r {
		if math.Abs(r[i]-want[i]) > 2 {
			t.Fatalf("turned line at %v, want %v", r, want)
		}
	}
	if in := ink(decode(t, turned)); !in.In(image.Rect(int(r[0])-1, int(r[1])-1, int(r[2])+2, int(r[3])+2)) {
		t.Errorf("ink %v outside of its box %v", in, r)
	}
}

// TestAnnotationsAreDrawn: a filled form field's appearance is what its reader
// sees, so it belongs to the page image and its text to the lines.
func TestAnnotationsAreDrawn(t *testing.T) {
	appearance := testpdf.Stream("/Type /XObject /Subtype /Form /BBox [0 0 100 30] /Resources << /Font << /F 3 0 R >> >>",
		[]byte("BT /F 20 Tf 5 8 Td (Filled) Tj ET"))
	content := testpdf.Document([]testpdf.Page{{}},
		appearance,
		"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (Filled) /F 4 /Rect [100 700 200 730] /AP << /N 4 0 R >> >>")
	content = bytes.Replace(content, []byte("/Type /Page /Parent"), []byte("/Annots [5 0 R] /Type /Page /Parent"), 1)
	p := page(t, open(t, newPool(t), content), 1, 72)
	if len(p.Lines) != 1 || p.Lines[0].Text != "Filled" {
		t.Fatalf("lines %v", p.Lines)
	}
	if in := ink(decode(t, p)); !in.In(image.Rect(100, 60, 200, 95)) || in.Empty() {
		t.Errorf("ink %v", in)
	}
}

func TestSamePageSameBytes(t *testing.T) {
	content := testpdf.Text(2)
	a, b := newPool(t), newPool(t)
	if a.Build() != b.Build() || !strings.HasPrefix(a.Build(), "mupdf") || strings.ContainsAny(a.Build(), "/ \\") {
		t.Errorf("builds %q and %q", a.Build(), b.Build())
	}
	first := page(t, open(t, a, content), 2, 108)
	second := page(t, open(t, b, content), 2, 108)
	if !bytes.Equal(first.PNG, second.PNG) || !slices.Equal(first.Lines, second.Lines) {
		t.Error("two children render the same page differently")
	}
}

func TestImages(t *testing.T) {
	pool := newPool(t)
	m := image.NewRGBA(image.Rect(0, 0, 300, 200))
	for i := range m.Pix {
		m.Pix[i] = 255
	}
	for y := range 40 {
		for x := range 60 {
			m.Set(x, y, color.RGBA{200, 0, 0, 255}) // a mark in the top left corner
		}
	}
	var pngFile, jpegFile bytes.Buffer
	if err := png.Encode(&pngFile, m); err != nil {
		t.Fatal(err)
	}
	if err := jpeg.Encode(&jpegFile, m, &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		content     []byte
		contentType string
		sizes       []image.Point
		mark        image.Point // a pixel inside the mark, on the first page
	}{
		{"png", pngFile.Bytes(), "image/png", []image.Point{{300, 200}}, image.Pt(30, 20)},
		{"jpeg", jpegFile.Bytes(), "image/jpeg", []image.Point{{300, 200}}, image.Pt(30, 20)},
		{"jpeg with density", withDensity(jpegFile.Bytes(), 200), "image/jpeg", []image.Point{{300, 200}}, image.Pt(30, 20)},
		{"jpeg turned by its camera", withOrientation(jpegFile.Bytes(), 6), "image/jpeg", []image.Point{{200, 300}}, image.Pt(180, 30)},
		{"tiff of three pages", tiff(binary.LittleEndian, 300, 200, 64, 48, 30, 90), "image/tiff", []image.Point{{300, 200}, {64, 48}, {30, 90}}, image.Pt(30, 20)},
		{"tiff, big endian", tiff(binary.BigEndian, 300, 200), "image/tiff", []image.Point{{300, 200}}, image.Pt(30, 20)},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := open(t, pool, c.content)
			if doc.ContentType() != c.contentType || doc.PageCount() != len(c.sizes) {
				t.Fatalf("%d pages of %s", doc.PageCount(), doc.ContentType())
			}
			for i, size := range c.sizes {
				for _, dpi := range []int{72, 300} { // an image is never resampled
					p := page(t, doc, i+1, dpi)
					if p.Width != size.X || p.Height != size.Y || len(p.Lines) != 0 || p.DPI < 1 {
						t.Errorf("page %d at %d dpi: %d × %d at %d dpi, %d lines", i+1, dpi, p.Width, p.Height, p.DPI, len(p.Lines))
					}
				}
			}
			got := decode(t, page(t, doc, 1, 108)).RGBAAt(c.mark.X, c.mark.Y)
			if got.R < 150 || got.G > 60 {
				t.Errorf("the mark is %v", got)
			}
		})
	}
}

func TestImageAboveTheBoundIsScaledDown(t *testing.T) {
	pool := newPool(t, func(c *Config) { c.MaxPixels = 1 << 16 })
	var content bytes.Buffer
	if err := png.Encode(&content, image.NewGray(image.Rect(0, 0, 600, 400))); err != nil {
		t.Fatal(err)
	}
	doc := open(t, pool, content.Bytes())
	p := page(t, doc, 1, 108)
	doc.Close()
	if pixels := p.Width * p.Height; pixels > 1<<16 || pixels < 60000 || math.Abs(float64(p.Width)/float64(p.Height)-1.5) > 0.02 {
		t.Errorf("%d × %d pixels", p.Width, p.Height)
	}
	content.Reset()
	if err := png.Encode(&content, image.NewGray(image.Rect(0, 0, 600, 600))); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, pool, content.Bytes()).Page(context.Background(), 1, 108)
	if fault.CodeOf(err) != CodePageTooLarge {
		t.Errorf("five times the bound: %v", err)
	}
}

// TestRealDocument renders every page of the PDF that comes with the library.
func TestRealDocument(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gen2brain/go-fitz").Output()
	if err != nil {
		t.Fatalf("asking for the module's folder: %v", err)
	}
	content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "testdata", "test.pdf"))
	if err != nil {
		t.Fatal(err)
	}
	doc := open(t, newPool(t), content)
	if doc.PageCount() != 84 {
		t.Fatalf("%d pages", doc.PageCount())
	}
	lines := 0
	for number := 1; number <= doc.PageCount(); number++ {
		p := page(t, doc, number, 72)
		lines += len(p.Lines)
		for _, l := range p.Lines {
			if r := l.Rect; r[0] < 0 || r[1] < 0 || r[2] > float64(p.Width) || r[3] > float64(p.Height) || r[0] >= r[2] || r[1] >= r[3] || strings.TrimSpace(l.Text) != l.Text {
				t.Errorf("page %d: line %q at %v", number, l.Text, r)
			}
		}
	}
	if lines < 1000 {
		t.Errorf("%d lines of text in a book of 84 pages", lines)
	}
}

// withDensity writes a resolution into the JFIF header or adds one.
func withDensity(jpg []byte, dpi uint16) []byte {
	app0 := append([]byte{0xff, 0xe0, 0, 16}, "JFIF\x00\x01\x02\x01"...)
	app0 = binary.BigEndian.AppendUint16(app0, dpi)
	app0 = binary.BigEndian.AppendUint16(app0, dpi)
	return slices.Concat(jpg[:2], append(app0, 0, 0), jpg[2:])
}

// withOrientation adds an Exif header with an orientation alone.
func withOrientation(jpg []byte, orientation byte) []byte {
	tiffHeader := []byte("MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00")
	tiffHeader = append(tiffHeader, orientation, 0, 0, 0, 0, 0, 0)
	app1 := append([]byte{0xff, 0xe1, 0, byte(8 + len(tiffHeader))}, "Exif\x00\x00"...)
	return slices.Concat(jpg[:2], app1, tiffHeader, jpg[2:])
}

// tiff is an uncompressed RGB TIFF with a page for each pair of sides, white with
// a red mark in the top left corner.
func tiff(order binary.AppendByteOrder, sides ...int) []byte {
	out := []byte("II*\x00")
	if order.String() == binary.BigEndian.String() {
		out = []byte("MM\x00*")
	}
	link := len(out) // where the offset of the next directory goes
	out = append(out, 0, 0, 0, 0)
	put := order.(binary.ByteOrder)
	for ; len(sides) > 0; sides = sides[2:] {
		w, h := sides[0], sides[1]
		strip := len(out)
		for y := range h {
			for x := range w {
				if x < w/5 && y < h/5 {
					out = append(out, 200, 0, 0)
				} else {
					out = append(out, 255, 255, 255)
				}
			}
		}
		if len(out)%2 == 1 {
			out = append(out, 0)
		}
		bits := len(out)
		for range 3 {
			out = order.AppendUint16(out, 8)
		}
		put.PutUint32(out[link:], uint32(len(out)))
		entries := [][3]int{{256, 4, w}, {257, 4, h}, {258, 3, bits}, {259, 3, 1}, {262, 3, 2}, {273, 4, strip}, {277, 3, 3}, {278, 4, h}, {279, 4, 3 * w * h}}
		out = order.AppendUint16(out, uint16(len(entries)))
		for _, e := range entries {
			count := 1
			if e[0] == 258 {
				count = 3
			}
			out = order.AppendUint16(out, uint16(e[0]))
			out = order.AppendUint16(out, uint16(e[1]))
			out = order.AppendUint32(out, uint32(count))
			if e[1] == 3 && count == 1 {
				out = order.AppendUint16(out, uint16(e[2]))
				out = append(out, 0, 0)
			} else {
				out = order.AppendUint32(out, uint32(e[2]))
			}
		}
		link = len(out)
		out = append(out, 0, 0, 0, 0)
	}
	return out
}
