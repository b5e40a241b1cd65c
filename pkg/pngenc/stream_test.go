package pngenc_test

import (
	"bytes"
	"encoding/binary"
	"image"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zlib"

	"leafcutter/pkg/pngenc"
)

// What is in a file's IDAT chunks: rows with their filters, as zlib has them.

// TestStreamIsZlibs compresses the rows again with zlib's writer: nothing may tell the two apart, neither
// the start nor the sum at the end, which this package writes itself.
func TestStreamIsZlibs(t *testing.T) {
	var e pngenc.Encoder
	for _, kind := range kinds {
		for _, size := range []image.Point{{1, 1}, {10, 3}, {11, 3}, {640, 300}, {9000, 50}} {
			var out bytes.Buffer
			if err := e.Encode(&out, fill(kind, size.X, size.Y)); err != nil {
				t.Fatal(err)
			}
			stream := pixels(t, out.Bytes())
			r, err := zlib.NewReader(bytes.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			rows, err := io.ReadAll(r)
			if err != nil {
				t.Fatalf("%s %v: %v", kind, size, err)
			}
			var want bytes.Buffer
			w, err := zlib.NewWriterLevel(&want, zlib.BestSpeed)
			if err != nil {
				t.Fatal(err)
			}
			for row := range slices.Chunk(rows, 1+3*size.X) {
				if _, err := w.Write(row); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(stream, want.Bytes()) {
				t.Errorf("%s %v: %d bytes differ from zlib's %d", kind, size, len(stream), want.Len())
			}
		}
	}
}

// TestRowsThatRepeatAreNotFiltered has the bound between text and photographs: 30 % of the bytes looked at.
func TestRowsThatRepeatAreNotFiltered(t *testing.T) {
	for _, c := range []struct {
		width, equal int
		filtered     bool
	}{
		{1, 0, false}, {2, 0, true}, {2, 1, false}, // one byte is looked at
		{18, 1, true}, {18, 2, false}, // four
		{50, 2, true}, {50, 3, false}, // ten
	} {
		pix := make([]byte, 3*c.width)
		for i := range pix {
			pix[i] = byte(7 * i)
		}
		for i := range c.equal {
			at := 3*c.width - 1 - (3*c.width-4)%16 - 16*i // from the right
			pix[at] = pix[at-3]
		}
		var out bytes.Buffer
		if err := new(pngenc.Encoder).EncodeRGB(&out, pix, c.width, 1, 3*c.width); err != nil {
			t.Fatal(err)
		}
		r, err := zlib.NewReader(bytes.NewReader(pixels(t, out.Bytes())))
		if err != nil {
			t.Fatal(err)
		}
		row, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if filtered := row[0] != 0; filtered != c.filtered {
			t.Errorf("%d pixels, %d equal to the one before: filter %d", c.width, c.equal, row[0])
		}
	}
}

// pixels is the content of a file's IDAT chunks.
func pixels(t *testing.T, file []byte) []byte {
	t.Helper()
	var stream []byte
	for rest := file[8:]; len(rest) >= 12; {
		n := binary.BigEndian.Uint32(rest)
		if string(rest[4:8]) == "IDAT" {
			stream = append(stream, rest[8:8+n]...)
		}
		rest = rest[12+n:]
	}
	return stream
}
