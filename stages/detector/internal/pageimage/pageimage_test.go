package pageimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zlib"

	"leafcutter/schemas"
)

// encode writes a PNG in which row y has filter filters[y % len(filters)], by
// the specification's own words and nothing of the decoder's.
func encode(t testing.TB, w, h, bpp int, pixels []byte, filters []byte, idatBytes int) []byte {
	t.Helper()
	var z bytes.Buffer
	zw := zlib.NewWriter(&z)
	stride := w * bpp
	for y := range h {
		f := filters[y%len(filters)]
		row := []byte{f}
		for i := range stride {
			at := func(dx, dy int) int {
				x, yy := i-dx*bpp, y-dy
				if x < 0 || yy < 0 {
					return 0
				}
				return int(pixels[yy*stride+x])
			}
			left, up, upLeft := at(1, 0), at(0, 1), at(1, 1)
			predicted := 0
			switch f {
			case 1:
				predicted = left
			case 2:
				predicted = up
			case 3:
				predicted = (left + up) / 2
			case 4:
				p := left + up - upLeft
				dist := func(v int) int { return max(p-v, v-p) }
				switch {
				case dist(left) <= dist(up) && dist(left) <= dist(upLeft):
					predicted = left
				case dist(up) <= dist(upLeft):
					predicted = up
				default:
					predicted = upLeft
				}
			}
			row = append(row, byte(at(0, 0)-predicted))
		}
		if _, err := zw.Write(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	colour := byte(colorRGB)
	if bpp == 1 {
		colour = colorGrey
	}
	out := []byte(signature)
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(w)), uint32(h))
	out = appendChunk(out, "IHDR", append(head, 8, colour, 0, 0, 0))
	out = appendChunk(out, "tEXt", []byte("Comment\x00between"))
	for b := z.Bytes(); len(b) > 0; {
		n := min(idatBytes, len(b))
		out, b = appendChunk(out, "IDAT", b[:n]), b[n:]
	}
	return appendChunk(out, "IEND", nil)
}

func appendChunk(b []byte, kind string, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	start := len(b)
	b = append(append(b, kind...), body...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
}

func randomPixels(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.UintN(256))
	}
	return p
}

func readAll(p *PNG, data []byte) ([]byte, error) {
	if err := p.Open(data, 1<<20); err != nil {
		return nil, err
	}
	var out []byte
	_, h := p.Size()
	for range h {
		row, err := p.Next()
		if err != nil {
			return nil, err
		}
		out = append(out, row...)
	}
	return out, nil
}

func TestReadsEveryFilter(t *testing.T) {
	var p PNG // reused, as the detector does: nothing of one page may show in the next
	for _, bpp := range []int{3, 1} {
		for _, filters := range [][]byte{{0}, {1}, {2}, {3}, {4}, {4, 3, 2, 1, 0}, {2, 4}} {
			for _, w := range []int{1, 2, 7, 8, 33} {
				t.Run(fmt.Sprintf("bpp%d/%v/w%d", bpp, filters, w), func(t *testing.T) {
					const h = 11
					pixels := randomPixels(w * h * bpp)
					got, err := readAll(&p, encode(t, w, h, bpp, pixels, filters, 50))
					if err != nil {
						t.Fatal(err)
					}
					if p.Channels() != bpp || !bytes.Equal(got, pixels) {
						t.Fatalf("%d channels, or pixels, differ from those that were written", p.Channels())
					}
				})
			}
		}
	}
}

func TestRGBOfAGreyPageIsThreeEqualChannels(t *testing.T) {
	var p PNG
	if err := p.Open(encode(t, 3, 2, 1, []byte{1, 2, 3, 250, 0, 7}, []byte{4}, 50), 6); err != nil {
		t.Fatal(err)
	}
	page := RGB(&p)
	if w, h := page.Size(); w != 3 || h != 2 || page.Channels() != 3 {
		t.Fatalf("%d × %d pixels of %d channels", w, h, page.Channels())
	}
	for _, want := range [][]byte{{1, 1, 1, 2, 2, 2, 3, 3, 3}, {250, 250, 250, 0, 0, 0, 7, 7, 7}} {
		if got, err := page.Next(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	if _, err := page.Next(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a row after the last: %v", err)
	}
}

func TestReadsWhatTheStandardLibraryWrites(t *testing.T) {
	m := image.NewRGBA(image.Rect(0, 0, 120, 90))
	for y := range 90 {
		for x := range 120 {
			m.SetRGBA(x, y, color.RGBA{byte(x * 2), byte(y * 2), byte(x ^ y), 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	var p PNG
	got, err := readAll(&p, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	rows := Of(m)
	for range 90 {
		row, err := rows.Next()
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, row...)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("pixels differ")
	}
	if _, err := rows.Next(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a row after the last: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	good := encode(t, 20, 20, 3, randomPixels(20*20*3), []byte{0}, 1<<20)
	header := func(change func(head []byte)) []byte {
		head := bytes.Clone(good[16:29])
		change(head)
		return append(appendChunk([]byte(signature), "IHDR", head), good[33:]...)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":            {nil, ErrFormat},
		"a JPEG":           {[]byte("\xff\xd8\xff\xe0 and so on"), ErrFormat},
		"sixteen bits":     {header(func(h []byte) { h[8] = 16 }), ErrFormat},
		"palette":          {header(func(h []byte) { h[9] = 3 }), ErrFormat},
		"interlaced":       {header(func(h []byte) { h[12] = 1 }), ErrFormat},
		"no width":         {header(func(h []byte) { clear(h[:4]) }), ErrDamaged},
		"a bomb":           {header(func(h []byte) { h[1], h[5] = 1, 1 }), ErrTooLarge},
		"too few rows":     {header(func(h []byte) { h[7] = 21 }), ErrDamaged},
		"too many rows":    {header(func(h []byte) { h[7] = 19 }), ErrDamaged},
		"cut":              {good[:len(good)/2], ErrDamaged},
		"only a signature": {[]byte(signature), ErrDamaged},
		"a flipped bit":    {flipped, ErrDamaged},
		"unknown filter":   {encode(t, 4, 4, 3, randomPixels(48), []byte{5}, 1<<20), ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			var p PNG
			if _, err := readAll(&p, c.data); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			// What was refused leaves the reader fit for the next page.
			if _, err := readAll(&p, good); err != nil {
				t.Fatalf("page after a refused one: %v", err)
			}
		})
	}
}

// Few pixels may be one long row, or as many rows of one pixel.
func TestRefusesALongSideBeforeItAllocates(t *testing.T) {
	const maxPixels = 40_000_000
	header := func(width, height uint32) []byte {
		head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, width), height)
		return appendChunk([]byte(signature), "IHDR", append(head, 8, colorRGB, 0, 0, 0))
	}
	for _, size := range [][2]uint32{{maxPixels, 1}, {1, maxPixels}, {schemas.MaxPageSide + 1, 1}, {1, schemas.MaxPageSide + 1}} {
		var p PNG
		if err := p.Open(header(size[0], size[1]), maxPixels); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d × %d: got %v, want %v", size[0], size[1], err, ErrTooLarge)
		}
		if p.inflate != nil || p.cur != nil || p.prev != nil {
			t.Errorf("%d × %d: memory was taken for it", size[0], size[1])
		}
	}
	for _, size := range [][2]int{{schemas.MaxPageSide, 1}, {1, schemas.MaxPageSide}} {
		var p PNG
		pixels := make([]byte, schemas.MaxPageSide)
		if _, err := readAll(&p, encode(t, size[0], size[1], 1, pixels, []byte{0}, 1<<20)); err != nil {
			t.Errorf("%d × %d: %v", size[0], size[1], err)
		}
	}
}

func FuzzPNG(f *testing.F) {
	f.Add(encode(f, 5, 4, 3, randomPixels(60), []byte{0, 1, 2, 3, 4}, 20))
	f.Add(encode(f, 9, 3, 1, randomPixels(27), []byte{4}, 1000))
	f.Add([]byte(signature))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p PNG
		if _, err := readAll(&p, data); err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		// What is accepted must be what the standard library reads.
		m, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			return // stricter about chunks that don't concern pixels
		}
		want := Of(m)
		_, h := want.Size()
		if err := p.Open(data, 1<<20); err != nil {
			t.Fatal(err)
		}
		rows := RGB(&p)
		for y := range h {
			row, err := want.Next()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := rows.Next(); err != nil || !bytes.Equal(row, got) {
				t.Fatalf("row %d differs from the standard library's: %v", y, err)
			}
		}
	})
}
