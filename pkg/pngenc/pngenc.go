// Package pngenc writes page images and crops as PNG: 8 bits a channel, RGB or
// grey, no alpha. The render child writes pages with it; the annotator writes
// crops and annotated pages.
//
// It exists because encoding is otherwise the dearest step of a page. For an A4
// page at 150 dpi (1240×1754) image/png needs 400 ms at its default level and
// 105 ms at its fastest; this takes about 10 ms and comes out about as small.
package pngenc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/draw"
	"io"
	"math"

	"github.com/klauspost/compress/flate"

	"leafcutter/pkg/internal/adler"
)

// maxSide is the largest width or height that PNG can say.
const maxSide = 1<<31 - 1

// ErrSize refuses an image without pixels, with more than PNG can say, or with a
// buffer that is too short for its size.
var ErrSize = errors.New("pngenc: the image has an impossible size")

// Encoder writes images one after another and keeps its buffers between them.
// The zero value is ready. It is not for concurrent use.
type Encoder struct {
	// DPI is the resolution that images say they have, in dots per inch; 0 says
	// nothing.
	DPI int
	// Grey writes a picture in which no pixel has a colour with one channel instead
	// of three: most pages of text are such, and to write, store and read one then
	// takes less than half the time.
	Grey bool

	deflate *flate.Writer
	idat    idatWriter
	row     []byte // filter byte and filtered row
	rgb     [2][]byte
}

// Encode writes m. Alpha is dropped, not blended: a page image has none.
// *image.RGBA and *image.NRGBA are read directly, anything else is converted
// first.
func (e *Encoder) Encode(w io.Writer, m image.Image) error {
	b := m.Bounds()
	var (
		pix    []byte
		stride int
	)
	switch m := m.(type) {
	case *image.RGBA:
		pix, stride = m.Pix, m.Stride
	case *image.NRGBA:
		pix, stride = m.Pix, m.Stride
	default:
		converted := image.NewNRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
		draw.Draw(converted, converted.Bounds(), m, b.Min, draw.Src)
		pix, stride = converted.Pix, converted.Stride
	}
	width, height := b.Dx(), b.Dy()
	if e.Grey && width > 0 && height > 0 && colourless(pix, 4, width, height, stride) {
		return e.encode(w, width, height, 1, func(y int, grey []byte) []byte { return every(grey, pix[y*stride:], 4) })
	}
	return e.encode(w, width, height, 3, func(y int, rgb []byte) []byte {
		line := pix[y*stride:][:4*width]
		for i, j := 0, 0; i < len(rgb); i, j = i+3, j+4 {
			rgb[i], rgb[i+1], rgb[i+2] = line[j], line[j+1], line[j+2]
		}
		return rgb
	})
}

// EncodeRGB writes width×height pixels of 3 bytes each, in rows of stride bytes,
// top row first.
func (e *Encoder) EncodeRGB(w io.Writer, pix []byte, width, height, stride int) error {
	if width <= 0 || height <= 0 || stride < 3*width || len(pix) < (height-1)*stride+3*width {
		return fmt.Errorf("%w: %d×%d with %d bytes in rows of %d", ErrSize, width, height, len(pix), stride)
	}
	if e.Grey && colourless(pix, 3, width, height, stride) {
		return e.encode(w, width, height, 1, func(y int, grey []byte) []byte { return every(grey, pix[y*stride:], 3) })
	}
	return e.encode(w, width, height, 3, func(y int, _ []byte) []byte { return pix[y*stride:][:3*width] })
}

// every fills out with each n-th byte of line, from the first.
func every(out, line []byte, n int) []byte {
	for x, i := 0, 0; x < len(out); x, i = x+1, i+n {
		out[x] = line[i]
	}
	return out
}

// colourless reports whether the first three bytes of each pixel are the same. A
// pixel has bpp bytes, 3 or 4. It looks at 24 bytes at once, which are whole pixels
// of either size, and compares each with the next.
func colourless(pix []byte, bpp, width, height, stride int) bool {
	// The bytes that must equal the next one: not the last of a colour, and no alpha.
	first, second, third := uint64(0xffff00_ffff00_ffff), uint64(0xff_00ffff_00ffff_00), uint64(0x00ffff_00ffff_00ff)
	if bpp == 4 {
		first = 0x0000ffff_0000ffff
		second, third = first, first
	}
	for y := range height {
		line := pix[y*stride:][:bpp*width]
		var differ uint64
		for ; len(line) > 24; line = line[24:] {
			differ |= first & toNext(line)
			differ |= second & toNext(line[8:])
			differ |= third & toNext(line[16:])
		}
		if differ != 0 {
			return false
		}
		for ; len(line) >= bpp; line = line[bpp:] {
			if line[0] != line[1] || line[1] != line[2] {
				return false
			}
		}
	}
	return true
}

// toNext is how each of eight bytes differs from the next, zero where it does not.
func toNext(p []byte) uint64 {
	return binary.LittleEndian.Uint64(p) ^ binary.LittleEndian.Uint64(p[1:])
}

// Encode writes m with a new [Encoder].
func Encode(w io.Writer, m image.Image) error { return new(Encoder).Encode(w, m) }

// encode asks for each row once, from the top. A row may be returned in the
// buffer given, which stays untouched until the row after the next. channels is
// 1 or 3.
func (e *Encoder) encode(w io.Writer, width, height, channels int, rowAt func(y int, buffer []byte) []byte) error {
	if width <= 0 || height <= 0 || width > maxSide || height > maxSide {
		return fmt.Errorf("%w: %d×%d", ErrSize, width, height)
	}
	header := []byte("\x89PNG\r\n\x1a\n")
	ihdr := binary.BigEndian.AppendUint32(nil, uint32(width))
	ihdr = binary.BigEndian.AppendUint32(ihdr, uint32(height))
	colour := byte(2) // RGB
	if channels == 1 {
		colour = 0
	}
	ihdr = append(ihdr, 8, colour, 0, 0, 0) // bit depth, colour, deflate, filtered, not interlaced
	header = appendChunk(header, "IHDR", ihdr)
	if e.DPI > 0 {
		header = appendChunk(header, "pHYs", resolution(e.DPI))
	}
	if _, err := w.Write(header); err != nil {
		return fmt.Errorf("writing PNG header: %w", err)
	}

	e.idat.reset(w)
	// What zlib puts around the deflate stream (RFC 1950, section 2.2) is written
	// here: the zlib package's writer spends a sixth of an image's time on the sum.
	e.idat.buf.WriteString("\x78\x01") // deflate with a window of 32 KiB, at its fastest
	if e.deflate == nil {
		deflate, err := flate.NewWriter(&e.idat, flate.BestSpeed)
		if err != nil {
			return fmt.Errorf("starting PNG compression: %w", err)
		}
		e.deflate = deflate
	} else {
		e.deflate.Reset(&e.idat)
	}
	size := channels * width
	e.row = resize(e.row, 1+size)
	e.rgb[0], e.rgb[1] = resize(e.rgb[0], size), resize(e.rgb[1], size)
	above := make([]byte, size)
	sum := uint32(1)
	for y := range height {
		current := rowAt(y, e.rgb[y%2])
		filterRow(e.row, current, above, channels)
		if _, err := e.deflate.Write(e.row); err != nil {
			return fmt.Errorf("writing PNG row %d: %w", y, err)
		}
		sum = adler.Update(sum, e.row)
		above = current
	}
	if err := e.deflate.Close(); err != nil {
		return fmt.Errorf("writing PNG data: %w", err)
	}
	e.idat.buf.Write(binary.BigEndian.AppendUint32(nil, sum))
	if err := e.idat.flush(); err != nil {
		return fmt.Errorf("writing PNG data: %w", err)
	}
	if _, err := w.Write(appendChunk(nil, "IEND", nil)); err != nil {
		return fmt.Errorf("writing PNG end: %w", err)
	}
	return nil
}

// resolution is the body of a pHYs chunk: pixels a metre across and down, to the
// nearest whole one, which is near enough for whole dots an inch to come back.
func resolution(dpi int) []byte {
	perMetre := uint32(math.Round(float64(dpi) / metresPerInch))
	body := binary.BigEndian.AppendUint32(nil, perMetre)
	return append(binary.BigEndian.AppendUint32(body, perMetre), 1)
}

const metresPerInch = 0.0254

func resize(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// idatWriter cuts the compressed stream into IDAT chunks.
type idatWriter struct {
	w   io.Writer
	buf bytes.Buffer
	out []byte
}

const idatSize = 64 << 10

func (c *idatWriter) reset(w io.Writer) {
	c.w = w
	c.buf.Reset()
}

func (c *idatWriter) Write(p []byte) (int, error) {
	c.buf.Write(p)
	if c.buf.Len() < idatSize {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *idatWriter) flush() error {
	if c.buf.Len() == 0 {
		return nil
	}
	c.out = appendChunk(c.out[:0], "IDAT", c.buf.Bytes())
	c.buf.Reset()
	_, err := c.w.Write(c.out)
	return err
}

func appendChunk(dst []byte, kind string, data []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)))
	start := len(dst)
	dst = append(dst, kind...)
	dst = append(dst, data...)
	return binary.BigEndian.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:]))
}
