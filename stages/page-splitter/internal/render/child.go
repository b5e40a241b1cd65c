package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"leafcutter/pkg/filetype"
	"leafcutter/pkg/pngenc"
	"leafcutter/schemas"
	"leafcutter/stages/page-splitter/internal/mupdf"
)

// ChildArg as the first argument makes a binary that calls [Child] a render
// child.
const ChildArg = "render-child"

// libraryVersion is the release of the library behind the seam.
const libraryVersion = mupdf.Version

// socketFD is the child's end of the socket pair: the first of cmd.ExtraFiles.
const socketFD = 3

// imageMaxPixels bounds the images that are decoded at all, as a multiple of the
// bound on page images: up to there they are scaled down.
const imageMaxPixels = 4

// IsChild says that the process was started as a render child. A binary that
// uses a [Pool] asks before it does anything else, and calls [Child].
func IsChild(args []string) bool { return len(args) == 2 && args[1] == ChildArg }

// Child serves one parent until it hangs up, and returns the process's exit
// status.
func Child() int {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	conn, err := childConn()
	if err != nil {
		logger.Error("cannot reach the parent", slog.Any("error", err))
		return 2
	}
	debug.SetGCPercent(50) // the Go heap holds one PNG and one page's text
	c := &child{conn: conn}
	if err := c.serve(); err != nil {
		logger.Error("serving the parent ended", slog.Any("error", err))
		return 1
	}
	return 0
}

func childConn() (*net.UnixConn, error) {
	f := os.NewFile(socketFD, "parent")
	if f == nil {
		return nil, errors.New("no socket was passed")
	}
	defer func() { _ = f.Close() }() // net.FileConn has its own copy
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("using the socket: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("using the socket: it is a %T", conn)
	}
	return unixConn, nil
}

type child struct {
	conn   *net.UnixConn
	limits limits
	base   int64 // address space in bytes before the first document

	doc     *mupdf.Document
	file    int // descriptor of the document, 0 without one
	kind    filetype.Type
	sizes   [][2]int // pixels of each page, for images
	encoder pngenc.Encoder
	png     bytes.Buffer
}

// serve answers requests until the parent hangs up.
func (c *child) serve() error {
	for {
		var req request
		if err := readFrame(c.conn, &req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var (
			rep reply
			err error
		)
		c.png.Reset()
		switch req.Op {
		case "hello":
			if req.Limits == nil {
				return errors.New("hello without limits")
			}
			c.limits = *req.Limits
			if c.base, err = memoryBase(); err == nil {
				err = confine(c.limits)
			}
		case "open":
			// Whatever the verdict, the descriptor is under way and must be taken.
			var fd int
			if fd, err = receiveFile(c.conn); err != nil {
				return err
			}
			rep, err = c.open(fd, req)
		case "page":
			rep, err = c.page(req.Page, req.DPI)
		case "close":
			c.close()
		default:
			return fmt.Errorf("unknown request %q", req.Op)
		}
		if err != nil {
			rep = reply{Code: codeOf(err), Error: err.Error()}
			c.png.Reset()
		}
		rep.PNG = c.png.Len()
		rep.RSS, rep.CPU = usage()
		if err := writeFrame(c.conn, rep); err != nil {
			return err
		}
		if _, err := c.conn.Write(c.png.Bytes()); err != nil {
			return fmt.Errorf("writing the image: %w", err)
		}
	}
}

// coded is a refusal with one of the codes of this package.
type coded struct {
	code string
	err  error
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

func refuse(code, format string, args ...any) error {
	return &coded{code: code, err: fmt.Errorf(format, args...)}
}

func codeOf(err error) string {
	if c, ok := errors.AsType[*coded](err); ok {
		return c.code
	}
	return CodeCrashed
}

// library classes an error of MuPDF; code is for anything but lack of memory.
func library(code string, err error) error {
	if errors.Is(err, mupdf.ErrMemory) {
		code = CodeOutOfMemory
	}
	return &coded{code: code, err: err}
}

// open opens the document in the file. The descriptor is all that it needs: no
// path and no open call, which lets a sandbox forbid them.
func (c *child) open(fd int, req request) (reply, error) {
	c.close()
	c.file, c.kind = fd, req.Type
	opened := false
	defer func() {
		if !opened {
			c.close()
		}
	}()
	memory, parser := c.base+c.limits.Memory, mupdf.KindPDF
	if c.kind != filetype.PDF {
		parser = mupdf.KindImage
		memory += req.Size // the library reads the file of an image whole, that of a PDF in pieces
	}
	if err := limitMemory(memory); err != nil {
		return reply{}, err
	}
	// The parent has looked already; what is parsed is what is looked at here.
	head := make([]byte, filetype.HeadSize)
	n, err := syscall.Pread(c.file, head, 0)
	if err != nil {
		return reply{}, fmt.Errorf("reading the file: %w", err)
	}
	if kind, ok := filetype.Detect(head[:n]); !ok || kind != req.Type {
		return reply{}, refuse(CodeUnsupported, "the file is not %s any more", req.Type)
	}
	if c.kind != filetype.PDF {
		if c.sizes, err = c.imageSizes(req.Size); err != nil {
			return reply{}, err
		}
	}
	if c.doc, err = mupdf.Open(c.file, req.Size, parser); err != nil {
		return reply{}, library(CodeUnreadable, err)
	}
	if c.doc.NeedsPassword() {
		return reply{}, refuse(CodeEncrypted, "the document needs a password")
	}
	count, err := c.doc.PageCount()
	switch {
	case err != nil:
		return reply{}, library(CodeUnreadable, err)
	case count < 1:
		return reply{}, refuse(CodeNoPages, "the document has no pages")
	case count > c.limits.MaxPages:
		return reply{}, refuse(CodeTooManyPages, "the document claims %d pages, %d are allowed", count, c.limits.MaxPages)
	}
	opened = true
	return reply{PageCount: count}, nil
}

func (c *child) close() {
	if c.doc != nil {
		c.doc.Close() // before the file that it reads from goes
	}
	if c.file != 0 {
		_ = syscall.Close(c.file) // read only
	}
	c.doc, c.file, c.sizes = nil, 0, nil
}

// imageSizes returns the pixels of each page of the image that is being opened.
// The headers may lie anywhere in the file, so it is mapped meanwhile.
func (c *child) imageSizes(size int64) ([][2]int, error) {
	data, err := syscall.Mmap(c.file, 0, int(size), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return nil, refuse(CodeOutOfMemory, "mapping %d bytes: %w", size, err)
	}
	defer func() { _ = syscall.Munmap(data) }() // fails only for memory that is not mapped
	sizes, err := imageSizes(data, c.kind, c.limits.MaxPages+1)
	if err != nil {
		return nil, refuse(CodeUnreadable, "%w", err)
	}
	return sizes, nil
}

func (c *child) page(number, dpi int) (reply, error) {
	if c.doc == nil {
		return reply{}, refuse(CodeCrashed, "no document is open")
	}
	if err := c.allowImage(number); err != nil {
		return reply{}, err
	}
	width, height, err := c.doc.Load(number - 1)
	if err != nil {
		return reply{}, library(CodeUnreadablePage, err)
	}
	if !(width > 0 && height > 0) || math.IsInf(width, 0) || math.IsInf(height, 0) {
		return reply{}, refuse(CodeUnreadablePage, "the page has a size of %g × %g points", width, height)
	}
	scale := float64(dpi) / 72
	if c.kind != filetype.PDF {
		scale = c.imageScale(number, width, height)
	}
	// Compared before anything is allocated, and as floats: a hostile page box
	// overflows integers.
	w, h := math.Round(width*scale), math.Round(height*scale)
	w, h = max(w, 1), max(h, 1)
	if max(w, h) > schemas.MaxPageSide || w*h > float64(c.limits.MaxPixels) {
		return reply{}, refuse(CodePageTooLarge, "the page would have %.0f × %.0f pixels at %d dpi, %d in all and %d a side are allowed",
			w, h, dpi, c.limits.MaxPixels, schemas.MaxPageSide)
	}
	page, err := c.doc.Render(scale, int(w), int(h), c.kind == filetype.PDF)
	if err != nil {
		return reply{}, library(CodeUnreadablePage, err)
	}
	defer page.Drop()
	// The resolution goes into the file: whoever finds the image there later
	// knows as much of the page as whoever renders it.
	resolution := max(int(math.Round(scale*72)), 1)
	c.encoder.DPI, c.encoder.Grey = resolution, true
	if err := c.encoder.EncodeRGB(&c.png, page.Pixels, page.Width, page.Height, page.Stride); err != nil {
		return reply{}, refuse(CodeUnreadablePage, "%w", err)
	}
	return reply{
		Width:  page.Width,
		Height: page.Height,
		DPI:    resolution,
		Lines:  textLines(page.Lines, page.Width, page.Height),
	}, nil
}

// allowImage refuses a page of an image that is too large to be decoded, before
// it is. PDF pages pass.
func (c *child) allowImage(number int) error {
	if c.kind == filetype.PDF {
		return nil
	}
	if number > len(c.sizes) {
		return refuse(CodeUnreadablePage, "the image has %d pages by its headers", len(c.sizes))
	}
	w, h := c.sizes[number-1][0], c.sizes[number-1][1]
	if max(w, h) > schemas.MaxPageSide || float64(w)*float64(h) > imageMaxPixels*float64(c.limits.MaxPixels) {
		return refuse(CodePageTooLarge, "the image has %d × %d pixels, %d in all and %d a side are allowed",
			w, h, imageMaxPixels*c.limits.MaxPixels, schemas.MaxPageSide)
	}
	return nil
}

// imageScale is the scale in pixels a point at which a page of an image has the
// image's own pixels: the library gives pages of images a size in points by the
// resolution that the file claims, and turns them as the file says. Images above
// the bound are scaled down to it.
func (c *child) imageScale(number int, width, height float64) float64 {
	w, h := float64(c.sizes[number-1][0]), float64(c.sizes[number-1][1])
	// Upright, the sides' quotients are the resolution; turned by a quarter, the
	// crossed ones are. For square pixels the right pair is the smaller one; for
	// oblong pixels (fax) the larger quotient keeps every line.
	scale := min(max(w/width, h/height), max(w/height, h/width))
	if pixels := width * height * scale * scale; pixels > float64(c.limits.MaxPixels) {
		scale *= math.Sqrt(float64(c.limits.MaxPixels)/pixels) * 0.999 // rounding must not step over the bound
	}
	return scale
}

// textLines clips boxes to the page and drops what lies outside of it, and cuts
// the text of the page to its bounds.
func textLines(in []mupdf.Line, width, height int) []schemas.TextLine {
	var (
		out   []schemas.TextLine
		total int
	)
	for _, line := range in {
		x0, y0 := max(line.Box[0], 0), max(line.Box[1], 0)
		x1, y1 := min(line.Box[2], width), min(line.Box[3], height)
		if x0 >= x1 || y0 >= y1 {
			continue
		}
		if total += len(line.Text); total > maxTextBytes || len(out) == maxTextLines {
			break
		}
		out = append(out, schemas.TextLine{
			Text: line.Text,
			Rect: [4]float64{float64(x0), float64(y0), float64(x1), float64(y1)},
		})
	}
	return out
}

// usage returns the most resident memory that the process has had, in bytes, and
// the processor time that it has used, in seconds.
func usage() (rss int64, cpu float64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0
	}
	seconds := time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	return u.Maxrss * maxrssUnit, seconds
}
