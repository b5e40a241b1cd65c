//go:build cgo

package mupdf

/*
#cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -Werror=implicit-function-declaration
#include "mupdf.h"
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unsafe"

	_ "github.com/gen2brain/go-fitz" // brings the compiled library to the link
)

// Version is the MuPDF release in use.
const Version = "1.24.9"

// The errors of this package; test with errors.Is. What MuPDF said follows in
// the message.
var (
	ErrBroken  = errors.New("mupdf: cannot read the document")
	ErrMemory  = errors.New("mupdf: out of memory")
	ErrVersion = errors.New("mupdf: the linked library is not release " + Version)
)

// Kind chooses the one parser that a document may reach.
type Kind int

// The parsers.
const (
	KindPDF   Kind = C.LC_PDF
	KindImage Kind = C.LC_IMAGE // PNG, JPEG, TIFF
)

// storeBytes bounds MuPDF's cache of decoded images and fonts of one document.
const storeBytes = 64 << 20

// Document is an open document. It is not for concurrent use.
type Document struct{ doc *C.lc_doc }

// Open opens the document in the size bytes of the file that fd describes, which
// must stay open and unchanged before Close. A file that cannot be read any more
// ends the process.
func Open(fd int, size int64, kind Kind) (*Document, error) {
	if size == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrBroken)
	}
	var (
		doc     *C.lc_doc
		message errorBuffer
	)
	code := C.lc_open(C.int(fd), C.int64_t(size), C.int(kind), storeBytes, &doc, message.ptr(), message.len())
	if err := message.err(code); err != nil {
		return nil, err
	}
	return &Document{doc: doc}, nil
}

// Close releases the document. The document must not be used afterwards.
func (d *Document) Close() { C.lc_close(d.doc) }

// NeedsPassword says that the document is encrypted and does not open without
// a password.
func (d *Document) NeedsPassword() bool { return C.lc_needs_password(d.doc) != 0 }

// PageCount returns the number of pages that the document claims to have, which
// a broken or hostile file may put at anything, negative numbers included.
func (d *Document) PageCount() (int, error) {
	var (
		count   C.int
		message errorBuffer
	)
	code := C.lc_count_pages(d.doc, &count, message.ptr(), message.len())
	return int(count), message.err(code)
}

// Load makes a page, counted from 0, the one that Render renders. It returns
// the size of the page as it is shown, in points of 1/72 inch.
func (d *Document) Load(number int) (width, height float64, err error) {
	var (
		w, h    C.float
		message errorBuffer
	)
	code := C.lc_load(d.doc, C.int(number), &w, &h, message.ptr(), message.len())
	return float64(w), float64(h), message.err(code)
}

// Page is a rendered page. Pixels lie outside the Go heap and end with Drop.
type Page struct {
	Pixels        []byte // RGB, 3 bytes a pixel, rows of Stride bytes, top row first
	Width, Height int
	Stride        int
	Lines         []Line // in reading order as MuPDF sees it

	page C.lc_page
	doc  *C.lc_doc
}

// Line is a line of the text layer.
type Line struct {
	Text string
	Box  [4]int // x0, y0, x1, y1 in pixels of the page image, origin top left
}

// Render renders the loaded page on white: scale is in pixels a point, width and
// height are those of the image. Text is left out unless withText is set.
func (d *Document) Render(scale float64, width, height int, withText bool) (*Page, error) {
	var (
		p       = &Page{doc: d.doc}
		text    C.int
		message errorBuffer
	)
	if withText {
		text = 1
	}
	code := C.lc_render(d.doc, C.float(scale), C.int(width), C.int(height), text, &p.page, message.ptr(), message.len())
	if err := message.err(code); err != nil {
		return nil, err
	}
	p.Width, p.Height, p.Stride = int(p.page.width), int(p.page.height), int(p.page.stride)
	p.Pixels = unsafe.Slice((*byte)(unsafe.Pointer(p.page.pixels)), p.Height*p.Stride)
	if withText {
		lines, err := parseText(unsafe.Slice((*byte)(unsafe.Pointer(p.page.text)), int(p.page.text_len)))
		if err != nil {
			p.Drop()
			return nil, err
		}
		p.Lines = lines
	}
	return p, nil
}

// Drop releases the pixels.
func (p *Page) Drop() {
	p.Pixels = nil
	C.lc_drop_page(p.doc, &p.page)
}

// parseText reads the lines of MuPDF's structured text in its JSON form. A box
// there is the union of the line's glyph boxes, each as wide as its advance and
// from the font's descender to its ascender.
func parseText(in []byte) ([]Line, error) {
	var page struct {
		Blocks []struct {
			Lines []struct {
				BBox struct{ X, Y, W, H int }
				Text string
			}
		}
	}
	if err := json.Unmarshal(in, &page); err != nil {
		return nil, fmt.Errorf("%w: its text: %w", ErrBroken, err)
	}
	var lines []Line
	for _, block := range page.Blocks {
		for _, line := range block.Lines {
			// White space at the ends and line breaks inside belong to the
			// producer's typesetting, not to the text; what is left of control
			// characters has no business in a table.
			text := strings.Join(strings.Fields(line.Text), " ")
			text = strings.TrimSpace(strings.Map(withoutControls, text))
			if text == "" {
				continue
			}
			b := line.BBox
			lines = append(lines, Line{Text: text, Box: [4]int{b.X, b.Y, b.X + b.W, b.Y + b.H}})
		}
	}
	return lines, nil
}

func withoutControls(r rune) rune {
	if unicode.IsControl(r) {
		return -1
	}
	return r
}

// errorBuffer receives MuPDF's message.
type errorBuffer [256]C.char

func (b *errorBuffer) ptr() *C.char  { return &b[0] }
func (b *errorBuffer) len() C.size_t { return C.size_t(len(b)) }

func (b *errorBuffer) err(code C.int) error {
	switch code {
	case C.LC_OK:
		return nil
	case C.LC_MEMORY:
		return fmt.Errorf("%w: %s", ErrMemory, C.GoString(b.ptr()))
	case C.LC_VERSION:
		return ErrVersion
	default:
		return fmt.Errorf("%w: %s", ErrBroken, C.GoString(b.ptr()))
	}
}
