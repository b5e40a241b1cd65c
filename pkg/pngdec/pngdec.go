// Package pngdec reads page images: PNG to packed 8-bit RGB, with the buffers of one page reused for the next. The
// annotator calls it for every page, and ingest-api where it cuts a crop on request.
//
// The standard library's decoder allocates 4 bytes a pixel for each picture, megabytes of garbage a page. This one
// inflates straight into the buffer that the pixels stay in. It reads by itself what the pipeline writes (8 bits, RGB or
// grey, not interlaced) and leaves every other kind of PNG to image/png.
//
// The detector has a reader of its own (its package pageimage), because it needs no page whole; Unfilter is the part that
// both use. That reader leaves out the sum over all pixels (zlib's Adler-32), which is compared here: there it would cost 8
// to 32 % more time for a page, here it is 6 to 11 %, and crops are kept for good.
package pngdec

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/draw"
	"image/png"
	"io"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/flate"

	"leafcutter/pkg/internal/adler"
)

// ErrTooLarge is the error of a picture with more pixels than the decoder takes. Test with errors.Is.
var ErrTooLarge = errors.New("picture has too many pixels")

// Image is a picture of 8-bit RGB: 3 bytes a pixel, rows of Stride bytes, the top row first.
type Image struct {
	Pix           []byte
	Stride        int // 3·Width or more: what lies between rows is not part of the picture
	Width, Height int

	buffer []byte
}

// Row is the pixels of row y.
func (m *Image) Row(y int) []byte {
	return m.Pix[y*m.Stride : y*m.Stride+3*m.Width : y*m.Stride+3*m.Width]
}

// Decoder decodes pictures of up to a number of pixels. It is for concurrent use.
type Decoder struct {
	maxPixels int
	images    sync.Pool // *Image
	states    sync.Pool // *state
}

// New makes a decoder that refuses pictures of more than maxPixels, before it allocates anything for them.
func New(maxPixels int) *Decoder { return &Decoder{maxPixels: maxPixels} }

// state is what one decoding needs beside the pixels.
type state struct {
	source   bytes.Reader
	buffered *bufio.Reader // over source; the inflater has a faster loop for it than for any other reader
	inflate  io.ReadCloser // also a flate.Resetter
	joined   []byte        // the IDAT chunks of a file that has several
	zeros    []byte        // the row above the first
}

// Release gives the image's memory back for another picture. The image must not be used afterwards; not calling it is
// legal and leaves the memory to the garbage collector.
func (d *Decoder) Release(m *Image) {
	if m != nil && m.buffer != nil {
		m.Pix = nil
		d.images.Put(m)
	}
}

const signature = "\x89PNG\r\n\x1a\n"

// Size is the width and height that data announces, in pixels. Only the first 33 bytes are looked at.
func Size(data []byte) (width, height int, err error) {
	h, _, err := readHeader(data)
	return h.width, h.height, err
}

// Decode reads one picture. Transparency is laid on white. Errors are ErrTooLarge, or say what is wrong with the file.
func (d *Decoder) Decode(data []byte) (*Image, error) {
	h, rest, err := readHeader(data)
	if err != nil {
		return nil, err
	}
	if h.width > d.maxPixels/h.height { // no overflow: both are 1 or more
		return nil, fmt.Errorf("%w: %d × %d, at most %d", ErrTooLarge, h.width, h.height, d.maxPixels)
	}
	if h.depth != 8 || h.colour != rgb && h.colour != grey || h.interlace != 0 {
		return d.decodeOther(data, h)
	}
	s, _ := d.states.Get().(*state)
	if s == nil {
		s = new(state)
	}
	defer d.states.Put(s)
	compressed, plain, err := s.chunks(rest)
	if err != nil {
		return nil, err
	}
	if !plain { // a colour key makes pixels transparent
		return d.decodeOther(data, h)
	}
	m := d.image(h)
	if h.colour == grey {
		err = s.greyInto(m, compressed)
	} else {
		err = s.unfiltered(m.buffer, compressed, m.Stride, 3)
	}
	if err != nil {
		d.Release(m)
		return nil, err
	}
	return m, nil
}

// Colours of a header that are read here.
const (
	grey = 0
	rgb  = 2
)

type header struct {
	width, height            int
	depth, colour, interlace byte
}

func readHeader(data []byte) (header, []byte, error) {
	var h header
	if len(data) < len(signature) || string(data[:len(signature)]) != signature {
		return h, nil, errors.New("not a PNG")
	}
	kind, body, rest, err := nextChunk(data[len(signature):])
	if err != nil {
		return h, nil, err
	}
	if kind != "IHDR" || len(body) != 13 {
		return h, nil, errors.New("broken PNG: it does not begin with its header")
	}
	width, height := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
	if width == 0 || height == 0 || width > 1<<31-1 || height > 1<<31-1 || body[10] != 0 || body[11] != 0 {
		return h, nil, errors.New("broken PNG: its header makes no sense")
	}
	return header{int(width), int(height), body[8], body[9], body[12]}, rest, nil
}

// nextChunk splits the first chunk off data and checks its sum.
func nextChunk(data []byte) (kind string, body, rest []byte, err error) {
	if len(data) < 12 {
		return "", nil, nil, errors.New("broken PNG: cut short")
	}
	n := binary.BigEndian.Uint32(data)
	if uint64(n) > uint64(len(data)-12) {
		return "", nil, nil, errors.New("broken PNG: cut short")
	}
	end := 8 + int(n)
	if crc32.ChecksumIEEE(data[4:end]) != binary.BigEndian.Uint32(data[end:]) {
		return "", nil, nil, errors.New("broken PNG: a checksum differs")
	}
	return string(data[4:8]), data[8:end], data[end+4:], nil
}

// chunks gives the compressed pixels. One IDAT chunk is used where it lies; several are joined. plain is false where a
// chunk changes what the pixels mean.
func (s *state) chunks(data []byte) (compressed []byte, plain bool, err error) {
	plain = true
	s.joined = s.joined[:0]
	parts := 0
	for {
		kind, body, rest, err := nextChunk(data)
		if err != nil {
			return nil, false, err
		}
		data = rest
		switch kind {
		case "IDAT":
			if parts++; parts == 1 {
				compressed = body
				continue
			}
			if parts == 2 {
				s.joined = append(s.joined, compressed...)
			}
			s.joined = append(s.joined, body...)
			compressed = s.joined
		case "tRNS":
			plain = false
		case "IEND":
			if parts == 0 {
				return nil, false, errors.New("broken PNG: it has no pixels")
			}
			return compressed, plain, nil
		}
	}
}

// image is memory for a picture: a byte for the filter ahead of each row, so that inflating leaves the rows in place.
func (d *Decoder) image(h header) *Image {
	stride := 3*h.width + 1
	m, _ := d.images.Get().(*Image)
	if m == nil || cap(m.buffer) < stride*h.height {
		m = &Image{buffer: make([]byte, stride*h.height)}
	}
	m.buffer = m.buffer[:stride*h.height]
	m.Pix, m.Stride, m.Width, m.Height = m.buffer[1:], stride, h.width, h.height
	return m
}

// inflateAll fills out, which must be all that there is. The stream is zlib's (RFC 1950, section 2.2): two bytes, what
// deflate made, and the sum over all pixels. The chunks' own sums do not make that one needless: chunks in the wrong
// order keep theirs.
func (s *state) inflateAll(out, compressed []byte) error {
	const deflate, window, dictionary = 8, 7, 0x20
	if len(compressed) < 2 || compressed[0]&0x0f != deflate || compressed[0]>>4 > window || compressed[1]&dictionary != 0 ||
		binary.BigEndian.Uint16(compressed)%31 != 0 {
		return errors.New("broken PNG: its pixels are not a zlib stream")
	}
	s.source.Reset(compressed[2:])
	if s.inflate == nil {
		s.buffered = bufio.NewReaderSize(&s.source, 16<<10)
		s.inflate = flate.NewReader(s.buffered)
	} else {
		s.buffered.Reset(&s.source)
		if err := s.inflate.(flate.Resetter).Reset(s.buffered, nil); err != nil {
			return fmt.Errorf("broken PNG: %w", err)
		}
	}
	if _, err := io.ReadFull(s.inflate, out); err != nil {
		return fmt.Errorf("broken PNG: %w", err)
	}
	var sum [4]byte
	if n, err := s.inflate.Read(sum[:1]); n != 0 {
		return errors.New("broken PNG: more pixels than its header says")
	} else if err != io.EOF {
		return fmt.Errorf("broken PNG: %w", err)
	}
	if _, err := io.ReadFull(s.buffered, sum[:]); err != nil {
		return fmt.Errorf("broken PNG: %w", err)
	}
	if adler.Update(1, out) != binary.BigEndian.Uint32(sum[:]) {
		return errors.New("broken PNG: the sum over its pixels differs")
	}
	return nil
}

// greyInto reads a grey picture. Its rows are inflated into the end of the image's buffer and spread from there, from the
// top: a row of RGB ends before the next row of grey begins, and is written more slowly than its own is read.
func (s *state) greyInto(m *Image, compressed []byte) error {
	size := m.Width + 1
	rows := m.buffer[len(m.buffer)-size*m.Height:]
	if err := s.unfiltered(rows, compressed, size, 1); err != nil {
		return err
	}
	for y := range m.Height {
		spread(m.Row(y), rows[y*size+1:(y+1)*size])
	}
	return nil
}

// spread writes each byte of row three times. Most of a page is paper, where eight pixels of one shade are one word three
// times. out may lie in the same memory if it ends no later than row: nothing is then written over before it was read.
func spread(out, row []byte) {
	for len(row) >= 8 {
		if word := binary.LittleEndian.Uint64(row); word == bits.RotateLeft64(word, 8) {
			binary.LittleEndian.PutUint64(out, word)
			binary.LittleEndian.PutUint64(out[8:], word)
			binary.LittleEndian.PutUint64(out[16:], word)
		} else {
			triple(out, row[:8])
		}
		out, row = out[24:], row[8:]
	}
	triple(out, row)
}

func triple(out, row []byte) {
	for x, v := range row {
		p := out[3*x : 3*x+3 : 3*x+3]
		p[0], p[1], p[2] = v, v, v
	}
}

// unfiltered fills rows, each of size bytes, a filter and then pixels of bpp bytes.
func (s *state) unfiltered(rows, compressed []byte, size, bpp int) error {
	if err := s.inflateAll(rows, compressed); err != nil {
		return err
	}
	if len(s.zeros) < size-1 {
		s.zeros = make([]byte, size-1)
	}
	above := s.zeros[:size-1]
	for ; len(rows) > 0; rows = rows[size:] {
		row := rows[1:size:size]
		if !Unfilter(rows[0], row, above, bpp) {
			return errors.New("broken PNG: unknown filter")
		}
		above = row
	}
	return nil
}

// decodeOther reads the kinds of PNG that the pipeline does not write itself.
func (d *Decoder) decodeOther(data []byte, h header) (*Image, error) {
	picture, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("broken PNG: %w", err)
	}
	m := d.image(h)
	row := image.NewRGBA(image.Rect(0, 0, h.width, 1))
	for y := range h.height {
		draw.Draw(row, row.Rect, image.White, image.Point{}, draw.Src)
		draw.Draw(row, row.Rect, picture, picture.Bounds().Min.Add(image.Pt(0, y)), draw.Over)
		out := m.Row(y)
		for x := range h.width {
			copy(out[3*x:3*x+3], row.Pix[4*x:])
		}
	}
	return m, nil
}
