// Package testpdf writes small PDF files for the tests of this module: honest
// ones whose text and geometry are known, and hostile ones.
package testpdf

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"strings"
)

// Page is a page of a document. Its origin is at the bottom left, as in PDF.
type Page struct {
	MediaBox  string // "0 0 612 792" where empty
	Rotate    int    // degrees, clockwise
	Lines     []Line
	Content   string // content stream operators that follow the lines
	Resources string // entries of the resource dictionary besides fonts
}

// Line is a line of Helvetica.
type Line struct {
	Text string
	X, Y float64 // of the baseline's start, in points
	Size float64 // in points
}

// Document writes a document with the given pages and objects. Extra objects are
// numbered from [FirstExtra] on.
func Document(pages []Page, extra ...string) []byte {
	w := &writer{}
	w.object(1, "<< /Type /Catalog /Pages 2 0 R >>")
	kids := &strings.Builder{}
	first := FirstExtra + len(extra)
	for i := range pages {
		fmt.Fprintf(kids, "%d 0 R ", first+2*i)
	}
	w.object(2, fmt.Sprintf("<< /Type /Pages /Count %d /Kids [%s] >>", len(pages), kids))
	w.object(3, "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
	for i, body := range extra {
		w.object(FirstExtra+i, body)
	}
	for i, p := range pages {
		box := p.MediaBox
		if box == "" {
			box = "0 0 612 792"
		}
		w.object(first+2*i, fmt.Sprintf("<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Rotate %d /Contents %d 0 R /Resources << /Font << /F 3 0 R >> %s >> >>",
			box, p.Rotate, first+2*i+1, p.Resources))
		content := &strings.Builder{}
		for _, l := range p.Lines {
			text := strings.NewReplacer(`\`, `\\`, `(`, `\(`, `)`, `\)`).Replace(l.Text)
			fmt.Fprintf(content, "BT /F %g Tf %g %g Td (%s) Tj ET\n", l.Size, l.X, l.Y, text)
		}
		content.WriteString(p.Content)
		w.object(first+2*i+1, Stream("", []byte(content.String())))
	}
	return w.finish()
}

// FirstExtra is the number of the first of Document's extra objects.
const FirstExtra = 4

// Stream is the body of a stream object with the given dictionary entries.
func Stream(entries string, data []byte) string {
	return fmt.Sprintf("<< %s /Length %d >>\nstream\n%s\nendstream", entries, len(data), data)
}

// Text is a document of n pages, each with a heading that says its number.
func Text(n int) []byte {
	pages := make([]Page, n)
	for i := range pages {
		pages[i].Lines = []Line{
			{Text: fmt.Sprintf("Page %d of %d", i+1, n), X: 72, Y: 700, Size: 24},
			{Text: "The quick brown fox jumps over the lazy dog.", X: 72, Y: 660, Size: 11},
		}
	}
	return Document(pages)
}

// Tree is a document of n pages each with its number as its only
// text, in a tree of nodes of ten kids as a producer of books makes it: the size of
// the pages is that of the root.
func Tree(n int) []byte {
	w := &writer{}
	w.object(1, "<< /Type /Catalog /Pages 2 0 R >>")
	nodes := (n + 9) / 10
	w.object(2, fmt.Sprintf("<< /Type /Pages /MediaBox [0 0 300 200] /Resources << /Font << /F 3 0 R >> >> /Count %d /Kids [%s] >>", n, references(FirstExtra, nodes, 1)))
	w.object(3, "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
	first := FirstExtra + nodes
	for i := range nodes {
		kids := min(10, n-10*i)
		w.object(FirstExtra+i, fmt.Sprintf("<< /Type /Pages /Parent 2 0 R /Count %d /Kids [%s] >>", kids, references(first+20*i, kids, 2)))
	}
	for i := range n {
		w.object(first+2*i, fmt.Sprintf("<< /Type /Page /Parent %d 0 R /Contents %d 0 R >>", FirstExtra+i/10, first+2*i+1))
		w.object(first+2*i+1, Stream("", fmt.Appendf(nil, "BT /F 20 Tf 50 100 Td (%d) Tj ET", i+1)))
	}
	return w.finish()
}

func references(first, n, step int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d 0 R ", first+step*i)
	}
	return b.String()
}

// NoPages is a well-formed document without a page.
func NoPages() []byte { return Document(nil) }

// LyingCount is a document of one page that claims count pages.
func LyingCount(count int) []byte {
	return bytes.Replace(Text(1), []byte("/Count 1 "), fmt.Appendf(nil, "/Count %d ", count), 1)
}

// Endless is a document whose first page draws a form that draws a form …, ten
// times each, some 10^depth fills in all, and whose second page is harmless.
func Endless(depth int) []byte {
	forms := make([]string, depth)
	for i := range forms {
		content, resources := "0 0 500 500 re f\n", ""
		if i+1 < depth {
			content = strings.Repeat("/X Do\n", 10)
			resources = fmt.Sprintf("/Resources << /XObject << /X %d 0 R >> >>", FirstExtra+i+1)
		}
		forms[i] = Stream("/Type /XObject /Subtype /Form /BBox [0 0 600 600] "+resources, []byte(content))
	}
	return Document([]Page{
		{Content: "/X Do", Resources: fmt.Sprintf("/XObject << /X %d 0 R >>", FirstExtra)},
		{Lines: []Line{{Text: "harmless", X: 72, Y: 700, Size: 24}}},
	}, forms...)
}

// ImageBomb is a document whose first page shows an image of side × side pixels,
// all of them black, of one bit each and compressed twice over, and whose second
// page is harmless.
func ImageBomb(side int) []byte {
	row := make([]byte, (side+7)/8)
	var once bytes.Buffer
	z := zlib.NewWriter(&once)
	for range side {
		_, _ = z.Write(row) // a bytes.Buffer takes everything
	}
	_ = z.Close()
	var twice bytes.Buffer
	z = zlib.NewWriter(&twice)
	_, _ = z.Write(once.Bytes())
	_ = z.Close()
	return Document([]Page{
		{Content: "600 0 0 600 0 0 cm /X Do", Resources: fmt.Sprintf("/XObject << /X %d 0 R >>", FirstExtra)},
		{Lines: []Line{{Text: "harmless", X: 72, Y: 700, Size: 24}}},
	}, Stream(fmt.Sprintf("/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray /BitsPerComponent 1 /Filter [/FlateDecode /FlateDecode]",
		side, side), twice.Bytes()))
}

// DeepNesting is a document whose page content nests arrays and dictionaries
// depth deep.
func DeepNesting(depth int) []byte {
	return Document([]Page{{
		Content:   strings.Repeat("[", depth) + strings.Repeat("q ", depth) + strings.Repeat("<<", depth),
		Resources: "/ExtGState " + strings.Repeat("<< /A ", depth) + "1" + strings.Repeat(" >>", depth),
	}})
}

type writer struct {
	b       bytes.Buffer
	offsets map[int]int
}

func (w *writer) object(number int, body string) {
	if w.offsets == nil {
		w.offsets = map[int]int{}
		w.b.WriteString("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
	}
	w.offsets[number] = w.b.Len()
	fmt.Fprintf(&w.b, "%d 0 obj\n%s\nendobj\n", number, body)
}

func (w *writer) finish() []byte {
	start := w.b.Len()
	size := len(w.offsets) + 1
	fmt.Fprintf(&w.b, "xref\n0 %d\n0000000000 65535 f \n", size)
	for i := 1; i < size; i++ {
		fmt.Fprintf(&w.b, "%010d 00000 n \n", w.offsets[i])
	}
	fmt.Fprintf(&w.b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", size, start)
	return w.b.Bytes()
}
