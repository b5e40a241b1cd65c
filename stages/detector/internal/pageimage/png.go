package pageimage

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"

	"leafcutter/pkg/pngdec"
	"leafcutter/schemas"
)

const (
	signature = "\x89PNG\r\n\x1a\n"

	colorGrey = 0
	colorRGB  = 2
)

// PNG reads page images one after another and keeps its buffers between them.
// The zero value is ready. It is not for concurrent use: keep one per page in
// flight.
type PNG struct {
	width, height int
	bpp           int // bytes a pixel: 1 grey, 3 RGB

	in       idat
	buffered *bufio.Reader // over in; the inflater has a faster loop for it than for any reader
	inflate  io.ReadCloser
	// cur and prev hold a filter byte and then a row, after seven bytes so
	// that the pixels lie at a multiple of eight.
	cur, prev []byte
	y         int
}

// Open starts reading a page image. data must stay unchanged until the last
// row was read. maxPixels bounds width × height and schemas.MaxPageSide each of
// them, before anything is allocated for them.
func (p *PNG) Open(data []byte, maxPixels int) error {
	if !bytes.HasPrefix(data, []byte(signature)) {
		return fmt.Errorf("%w: not a PNG", ErrFormat)
	}
	p.in = idat{rest: data[len(signature):]}
	kind, head, err := p.in.chunk()
	if err != nil {
		return err
	}
	if kind != "IHDR" || len(head) != 13 {
		return fmt.Errorf("%w: no image header", ErrDamaged)
	}
	width, height := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	if width == 0 || height == 0 || width > 1<<30 || height > 1<<30 {
		return fmt.Errorf("%w: %d × %d pixels", ErrDamaged, width, height)
	}
	if max(width, height) > schemas.MaxPageSide || uint64(width)*uint64(height) > uint64(maxPixels) {
		return fmt.Errorf("%w: %d × %d pixels, at most %d in all and %d a side", ErrTooLarge, width, height, maxPixels, schemas.MaxPageSide)
	}
	switch depth, colour, interlace := head[8], head[9], head[12]; {
	case depth == 8 && colour == colorRGB && interlace == 0:
		p.bpp = 3
	case depth == 8 && colour == colorGrey && interlace == 0:
		p.bpp = 1
	default:
		return fmt.Errorf("%w: PNG of bit depth %d, colour type %d, interlace %d; want 8 bits grey or RGB, not interlaced",
			ErrFormat, depth, colour, interlace)
	}
	p.width, p.height, p.y = int(width), int(height), 0

	if err := p.startInflating(); err != nil {
		return damaged("start of pixels", err)
	}
	stride := p.width * p.bpp
	p.cur, p.prev = sized(p.cur, 8+stride), sized(p.prev, 8+stride)
	clear(p.cur) // Next swaps first: this is the row above the first
	return nil
}

// startInflating reads the two bytes that zlib puts before its deflate stream
// (RFC 1950, section 2.2). The sum that follows the stream is not looked at: see
// the package comment.
func (p *PNG) startInflating() error {
	if p.inflate == nil {
		p.buffered = bufio.NewReaderSize(&p.in, 16<<10)
		p.inflate = flate.NewReader(p.buffered)
	} else {
		p.buffered.Reset(&p.in)
		if err := p.inflate.(flate.Resetter).Reset(p.buffered, nil); err != nil {
			return err
		}
	}
	var head [2]byte
	if _, err := io.ReadFull(p.buffered, head[:]); err != nil {
		return err
	}
	const deflate, dictionary = 8, 0x20
	if head[0]&0x0f != deflate || head[1]&dictionary != 0 || binary.BigEndian.Uint16(head[:])%31 != 0 {
		return errors.New("not a zlib stream")
	}
	return nil
}

// Size is the width and height in pixels.
func (p *PNG) Size() (width, height int) { return p.width, p.height }

// Channels is 1 or 3, as the file has.
func (p *PNG) Channels() int { return p.bpp }

// Next is the next row.
func (p *PNG) Next() ([]byte, error) {
	if p.y >= p.height {
		return nil, fmt.Errorf("%w: row %d of %d asked for", ErrDamaged, p.y, p.height)
	}
	p.y++
	p.cur, p.prev = p.prev, p.cur
	if _, err := io.ReadFull(p.inflate, p.cur[7:]); err != nil {
		return nil, damaged("pixels", err)
	}
	row := p.cur[8:]
	if !pngdec.Unfilter(p.cur[7], row, p.prev[8:], p.bpp) {
		return nil, fmt.Errorf("%w: row %d has filter %d", ErrDamaged, p.y-1, p.cur[7])
	}
	if p.y == p.height {
		// There must be an end, and no more before it.
		var more [1]byte
		if n, err := p.inflate.Read(more[:]); n != 0 || !errors.Is(err, io.EOF) {
			if n != 0 {
				err = errors.New("more pixels than the header says")
			}
			return nil, damaged("end of pixels", err)
		}
	}
	return row, nil
}

func damaged(what string, err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, what, err)
}

func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// idat is the concatenation of a file's IDAT chunks as a byte stream.
type idat struct {
	rest []byte // of the file, after the current chunk
	cur  []byte // of the current IDAT
	done bool
}

// chunk takes the next chunk off the file and checks its sum.
func (d *idat) chunk() (kind string, body []byte, err error) {
	if len(d.rest) < 12 {
		return "", nil, fmt.Errorf("%w: ends within a chunk", ErrDamaged)
	}
	n := binary.BigEndian.Uint32(d.rest)
	if uint64(n)+12 > uint64(len(d.rest)) {
		return "", nil, fmt.Errorf("%w: ends within a chunk", ErrDamaged)
	}
	body = d.rest[8 : 8+n]
	if crc32.ChecksumIEEE(d.rest[4:8+n]) != binary.BigEndian.Uint32(d.rest[8+n:]) {
		return "", nil, fmt.Errorf("%w: chunk with a wrong sum", ErrDamaged)
	}
	kind = string(d.rest[4:8])
	d.rest = d.rest[12+n:]
	return kind, body, nil
}

// fill makes cur non-empty, or says io.EOF after the last IDAT.
func (d *idat) fill() error {
	for len(d.cur) == 0 {
		if d.done {
			return io.EOF
		}
		kind, body, err := d.chunk()
		if err != nil {
			return err
		}
		switch kind {
		case "IDAT":
			d.cur = body
		case "IEND":
			d.done = true
		}
	}
	return nil
}

func (d *idat) Read(p []byte) (int, error) {
	if err := d.fill(); err != nil {
		return 0, err
	}
	n := copy(p, d.cur)
	d.cur = d.cur[n:]
	return n, nil
}
