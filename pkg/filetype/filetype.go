// Package filetype tells what a document is from its first bytes: the
// allow-list of everything that Leafcutter accepts. A file name or a declared
// content type is a wish of the sender and plays no part.
//
// ingest-api asks before it accepts an upload, the planner before it stores raw
// bytes taken from a topic, and the render child once more before it parses.
// The list must stay this short: the PDF library behind it also reads XPS, SVG,
// EPUB and zip containers, none of which may reach it.
package filetype

import "bytes"

// Type is the content type of an accepted document.
type Type string

// The accepted types.
const (
	PDF  Type = "application/pdf"
	PNG  Type = "image/png"
	JPEG Type = "image/jpeg"
	TIFF Type = "image/tiff" // single or multi-page
)

// HeadSize is how many of a file's first bytes [Detect] looks at. More is
// legal and changes nothing; fewer may miss a PDF header that comes late.
const HeadSize = 1024 + len(pdfMark)

// pdfMark may stand anywhere in the first 1024 bytes of a PDF: readers accept
// leading junk (mail headers, byte order marks), and such files are in use.
const pdfMark = "%PDF-"

// Detect returns the type of the file that begins with head, and false when it
// is none that is accepted. Images are asked for first, and only at offset 0: an
// image whose metadata mentions a PDF header is still an image.
func Detect(head []byte) (Type, bool) {
	switch {
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		return PNG, true
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		return JPEG, true
	case bytes.HasPrefix(head, []byte("II*\x00")), bytes.HasPrefix(head, []byte("MM\x00*")):
		return TIFF, true
	}
	if bytes.Contains(head[:min(len(head), HeadSize)], []byte(pdfMark)) {
		return PDF, true
	}
	return "", false
}

// Parse returns the accepted type that a content-type header names, and false
// when it names none. Parameters after a semicolon are ignored.
func Parse(contentType string) (Type, bool) {
	value, _, _ := bytes.Cut([]byte(contentType), []byte(";"))
	t := Type(bytes.ToLower(bytes.TrimSpace(value)))
	return t, t.Extension() != ""
}

// Extension returns the usual file name ending of t with its dot, or "" when t
// is not an accepted type.
func (t Type) Extension() string {
	switch t {
	case PDF:
		return ".pdf"
	case PNG:
		return ".png"
	case JPEG:
		return ".jpg"
	case TIFF:
		return ".tif"
	}
	return ""
}
