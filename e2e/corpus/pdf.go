// Package corpus makes and finds the documents of the end-to-end tests: PDFs written here whose pages are known, real
// ones from the test data of two Go modules, images, and files that are broken in every way a user's may be.
package corpus

import (
	"bytes"
	"fmt"
	"strings"
)

// Page is a page of a written PDF.
type Page struct {
	MediaBox string // "0 0 612 792" where empty
	Lines    []Line
}

// Line is a line of Helvetica: size and the start of its baseline in points, origin bottom left.
type Line struct {
	Text       string
	X, Y, Size float64
}

// Report is a document of n pages that look like a report's: a heading, paragraphs, and a page number. seed makes its
// text another.
func Report(n, seed int) []byte {
	pages := make([]Page, n)
	for i := range pages {
		pages[i] = reportPage(i+1, seed)
	}
	return PDF(pages)
}

const sentence = "The colony carries cut leaves along the trail and lays them in the chamber where they are kept. "

func reportPage(number, seed int) Page {
	lines := []Line{{fmt.Sprintf("%d.%d  What was found on the way", seed, number), 72, 712, 20}}
	y := 676.0
	for paragraph := range 4 {
		words := strings.Repeat(sentence, 3+(seed+number+paragraph)%3)
		for len(words) > 88 && y > 110 {
			cut := strings.LastIndexByte(words[:88], ' ')
			lines = append(lines, Line{words[:cut], 72, y, 11})
			words = words[cut+1:]
			y -= 14
		}
		y -= 16
	}
	return Page{Lines: append(lines, Line{fmt.Sprint(number), 300, 40, 9})}
}

// OneTooLarge is a report of n pages whose page bad has an absurd size.
func OneTooLarge(n, bad int) []byte { return OneOfSize(n, bad, "0 0 900000 900000") }

// OneOfSize is a report of n pages of which one has a size of its own, in points: "0 0 width height".
func OneOfSize(n, one int, mediaBox string) []byte {
	pages := make([]Page, n)
	for i := range pages {
		pages[i] = reportPage(i+1, 9)
	}
	pages[one-1].MediaBox = mediaBox
	return PDF(pages)
}

// NoPages is a well-formed PDF without a page.
func NoPages() []byte { return PDF(nil) }

// PDF writes a document.
func PDF(pages []Page) []byte {
	var b bytes.Buffer
	b.WriteString("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
	var offsets []int
	object := func(body string) {
		offsets = append(offsets, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(offsets), body)
	}
	const first = 4 // number of the first page's object; its content comes next
	var kids strings.Builder
	for i := range pages {
		fmt.Fprintf(&kids, "%d 0 R ", first+2*i)
	}
	object("<< /Type /Catalog /Pages 2 0 R >>")
	object(fmt.Sprintf("<< /Type /Pages /Count %d /Kids [%s] >>", len(pages), kids.String()))
	object("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
	escape := strings.NewReplacer(`\`, `\\`, `(`, `\(`, `)`, `\)`)
	for i, page := range pages {
		box := page.MediaBox
		if box == "" {
			box = "0 0 612 792"
		}
		object(fmt.Sprintf("<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Contents %d 0 R /Resources << /Font << /F 3 0 R >> >> >>", box, first+2*i+1))
		var content strings.Builder
		for _, l := range page.Lines {
			fmt.Fprintf(&content, "BT /F %g Tf %g %g Td (%s) Tj ET\n", l.Size, l.X, l.Y, escape.Replace(l.Text))
		}
		object(fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", content.Len(), content.String()))
	}
	table := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(offsets)+1)
	for _, at := range offsets {
		fmt.Fprintf(&b, "%010d 00000 n \n", at)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(offsets)+1, table)
	return b.Bytes()
}
