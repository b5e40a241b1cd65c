package pngdec_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math/rand/v2"
	"testing"

	"leafcutter/pkg/pngdec"
	"leafcutter/pkg/pngenc"
)

// photograph is a picture whose rows image/png encodes with all five filters: flat parts, slopes both ways and noise.
func photograph(width, height int) *image.RGBA {
	random := rand.New(rand.NewPCG(7, 7))
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			c := color.RGBA{R: 255, G: 255, B: 255, A: 255}
			switch y / 8 % 5 {
			case 1:
				c = color.RGBA{R: byte(x), G: byte(2 * x), B: byte(3 * x), A: 255}
			case 2:
				c = color.RGBA{R: byte(5 * y), G: byte(3*y + x*x), B: byte(y), A: 255}
			case 3:
				c = color.RGBA{R: byte(random.Uint32()), G: byte(x + y), B: byte(x * y), A: 255}
			case 4:
				c = color.RGBA{R: byte(x/2 + y*3), G: byte(x/2 + y*2 + int(random.Uint32()%4)), B: byte((x + y) / 2), A: 255}
			}
			m.SetRGBA(x, y, c)
		}
	}
	return m
}

func encoded(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// samePixels compares with what image/png makes of data, laid on white.
func samePixels(t *testing.T, data []byte, got *pngdec.Image) {
	t.Helper()
	want, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	b := want.Bounds()
	if got.Width != b.Dx() || got.Height != b.Dy() {
		t.Fatalf("%d × %d, want %d × %d", got.Width, got.Height, b.Dx(), b.Dy())
	}
	for y := range got.Height {
		row := got.Row(y)
		for x := range got.Width {
			r, g, b, a := want.At(b.Min.X+x, b.Min.Y+y).RGBA()
			white := 0xffff - a
			wanted := [3]byte{byte((r + white) >> 8), byte((g + white) >> 8), byte((b + white) >> 8)}
			if [3]byte(row[3*x:]) != wanted {
				t.Fatalf("pixel %d,%d: % x, want % x", x, y, row[3*x:3*x+3], wanted)
			}
		}
	}
}

func TestDecodeGivesThePixelsOfTheStandardLibrary(t *testing.T) {
	rgb := photograph(101, 83)
	grey, palette := image.NewGray(rgb.Rect), image.NewPaletted(rgb.Rect, color.Palette{color.White, color.Black, color.RGBA{R: 200, A: 255}})
	clear, deep := image.NewNRGBA(rgb.Rect), image.NewRGBA64(rgb.Rect)
	for y := range 83 {
		for x := range 101 {
			grey.Set(x, y, rgb.At(x, y))
			palette.Set(x, y, rgb.At(x, y))
			deep.Set(x, y, rgb.At(x, y))
			r := rgb.RGBAAt(x, y)
			clear.SetNRGBA(x, y, color.NRGBA{R: r.R, G: r.G, B: r.B, A: byte(x) & 0x80 * 255 / 128})
		}
	}
	var ours bytes.Buffer
	if err := pngenc.Encode(&ours, rgb); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"standard library's": encoded(t, rgb),
		"our encoder's":      ours.Bytes(),
		"our encoder's grey": ourGrey(t, grey),
		"one grey pixel":     ourGrey(t, grey.SubImage(image.Rect(3, 9, 4, 10))),
		"one grey column":    ourGrey(t, grey.SubImage(image.Rect(3, 0, 4, 83))),
		"one grey row":       ourGrey(t, grey.SubImage(image.Rect(0, 9, 101, 10))),
		"grey":               encoded(t, grey),
		"palette":            encoded(t, palette),
		"transparent":        encoded(t, clear),
		"16 bits":            encoded(t, deep),
		"one pixel":          encoded(t, photograph(1, 1)),
		"one column":         encoded(t, photograph(1, 90)),
		"one row":            encoded(t, photograph(90, 1)),
		"many chunks":        encoded(t, photograph(400, 300)),
	}
	// One decoder for all, so that each picture meets the memory of another.
	d := pngdec.New(400 * 300)
	for range 2 {
		for name, data := range files {
			m, err := d.Decode(data)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			samePixels(t, data, m)
			w, h, err := pngdec.Size(data)
			if err != nil || w != m.Width || h != m.Height {
				t.Fatalf("%s: size %d × %d, %v", name, w, h, err)
			}
			d.Release(m)
		}
	}
}

// ourGrey is m as the pipeline writes pages without colour.
func ourGrey(t *testing.T, m image.Image) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := (&pngenc.Encoder{Grey: true}).Encode(&file, m); err != nil {
		t.Fatal(err)
	}
	if decoded, err := png.Decode(bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	} else if _, is := decoded.(*image.Gray); !is {
		t.Fatalf("a page without colour is written as %T", decoded)
	}
	return file.Bytes()
}

func TestDecodeRefusesTooManyPixelsBeforeItAllocates(t *testing.T) {
	data := encoded(t, photograph(3, 3))
	binary.BigEndian.PutUint32(data[16:], 1<<30) // a width that would take gigabytes
	binary.BigEndian.PutUint32(data[20:], 1<<30)
	binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
	if _, err := pngdec.New(1 << 26).Decode(data); !errors.Is(err, pngdec.ErrTooLarge) {
		t.Fatalf("error %v, want ErrTooLarge", err)
	}
	if _, err := pngdec.New(9).Decode(encoded(t, photograph(3, 3))); err != nil {
		t.Fatalf("a picture of exactly the limit: %v", err)
	}
}

func TestDecodeRefusesEveryCutAndEveryFlippedByte(t *testing.T) {
	colours := photograph(9, 60)
	greys := image.NewGray(colours.Rect)
	draw.Draw(greys, greys.Rect, colours, image.Point{}, draw.Src)
	var b bytes.Buffer
	if err := pngenc.Encode(&b, colours); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"RGB": b.Bytes(), "grey": ourGrey(t, greys)} {
		t.Run(name, func(t *testing.T) { refusesWhatIsBroken(t, data) })
	}
}

func refusesWhatIsBroken(t *testing.T, data []byte) {
	d := pngdec.New(1 << 20)
	for n := range data {
		if _, err := d.Decode(data[:n]); err == nil {
			t.Fatalf("cut after %d of %d bytes: accepted", n, len(data))
		}
		bad := bytes.Clone(data)
		bad[n] ^= 0x20
		if m, err := d.Decode(bad); err == nil {
			t.Fatalf("byte %d of %d flipped: accepted as %d × %d", n, len(data), m.Width, m.Height)
		}
	}
	if m, err := d.Decode(data); err != nil {
		t.Fatalf("the file itself, after all that: %v", err)
	} else {
		samePixels(t, data, m)
	}
}

// TestDecodeRefusesWhatItsChunksDoNotTell has files whose chunks all have the sum that they should have.
func TestDecodeRefusesWhatItsChunksDoNotTell(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	// Noise is stored in blocks of 65535 bytes, each in a chunk of its own: 771 whole rows of this width.
	m := image.NewRGBA(image.Rect(0, 0, 28, 4*771))
	for i := range m.Pix {
		m.Pix[i] = byte(random.Uint32()) | byte(i%4/3*255)
	}
	var ours bytes.Buffer
	if err := pngenc.Encode(&ours, m); err != nil {
		t.Fatal(err)
	}
	parts := idat(ours.Bytes())
	if len(parts) < 4 || len(parts[1]) != len(parts[2]) {
		t.Fatalf("%d chunks: none to change places", len(parts))
	}
	stream := bytes.Join(parts, nil)
	end := len(stream) - 4
	sum := bytes.Clone(stream)
	sum[end] ^= 1
	files := map[string][][]byte{
		"another sum":      {sum},
		"no sum":           {stream[:end]},
		"half a sum":       {stream[:end+2]},
		"no start":         {stream[2:]},
		"one byte":         {stream[:1]},
		"another method":   {[]byte{0x79, 0x18}, stream[2:]},
		"a large window":   {[]byte{0x88, 0x1c}, stream[2:]},
		"a dictionary":     {[]byte{0x78, 0x20}, stream[2:]},
		"chunks exchanged": {parts[0], parts[2], parts[1], bytes.Join(parts[3:], nil)},
		"a chunk lost":     {parts[0], parts[1], bytes.Join(parts[3:], nil)},
	}
	d := pngdec.New(1 << 20)
	for name, parts := range files {
		if _, err := d.Decode(withPixels(ours.Bytes(), parts)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		same, err := d.Decode(withPixels(ours.Bytes(), [][]byte{stream}))
		if err != nil {
			t.Fatalf("the pixels themselves, after %s: %v", name, err)
		}
		samePixels(t, ours.Bytes(), same)
	}
}

// idat is what a file's IDAT chunks hold.
func idat(file []byte) (parts [][]byte) {
	for rest := file[8:]; len(rest) > 0; {
		n := binary.BigEndian.Uint32(rest)
		if string(rest[4:8]) == "IDAT" {
			parts = append(parts, rest[8:8+n])
		}
		rest = rest[12+n:]
	}
	return parts
}

// withPixels is a file of our encoder's with other IDAT chunks.
func withPixels(file []byte, parts [][]byte) []byte {
	out := bytes.Clone(file[:bytes.Index(file, []byte("IDAT"))-4])
	for _, part := range append(parts, nil) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		start := len(out)
		out = append(append(out, "IDAT"...), part...)
		out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[start:]))
	}
	return append(out, file[len(file)-12:]...)
}

func TestReleasedMemoryIsUsedAgain(t *testing.T) {
	data := encoded(t, photograph(300, 400))
	d := pngdec.New(1 << 20)
	decode := func() {
		m, err := d.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		d.Release(m)
	}
	decode()
	result := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			decode()
		}
	})
	// A picture is 360,400 bytes, and that much is allocated for each where none is used again. The race detector has the
	// pool drop one in four, and a busy machine collects more often between two of them: that is no fault.
	if got := result.AllocedBytesPerOp(); got > 330_000 {
		t.Errorf("%d bytes allocated for each picture", got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x89PNG\r\n\x1a\n"))
	f.Add(encoded(f, photograph(5, 41)))
	f.Add(encoded(f, image.NewGray(image.Rect(0, 0, 4, 4))))
	f.Add(encoded(f, image.NewNRGBA(image.Rect(0, 0, 4, 4))))
	d := pngdec.New(1 << 16)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := d.Decode(data)
		if err != nil {
			return
		}
		if m.Width*m.Height > 1<<16 {
			t.Fatalf("%d × %d decoded", m.Width, m.Height)
		}
		// Ancillary chunks that only image/png reads may offend it; where both accept the file, the pixels agree.
		if _, err := png.Decode(bytes.NewReader(data)); err == nil {
			samePixels(t, data, m)
		}
		d.Release(m)
	})
}

// BenchmarkDecode: an A4 page at 108 dpi, as the annotator meets it, beside the standard library's decoder.
func BenchmarkDecode(b *testing.B) {
	for _, m := range []struct {
		name string
		img  *image.RGBA
		grey bool
	}{{"page", page(893, 1263), false}, {"grey", page(893, 1263), true}, {"photograph", photograph(893, 1263), false}} {
		var file bytes.Buffer
		if err := (&pngenc.Encoder{Grey: m.grey}).Encode(&file, m.img); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%s/ours", m.name), func(b *testing.B) {
			d := pngdec.New(1 << 22)
			b.ReportAllocs()
			for b.Loop() {
				img, err := d.Decode(file.Bytes())
				if err != nil {
					b.Fatal(err)
				}
				d.Release(img)
			}
		})
		b.Run(fmt.Sprintf("%s/standard", m.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := png.Decode(bytes.NewReader(file.Bytes())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// page is white with lines of something like letters.
func page(width, height int) *image.RGBA {
	random := rand.New(rand.NewPCG(3, 4))
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range m.Pix {
		m.Pix[i] = 255
	}
	for y := 80; y < height-80; y += 18 {
		for x := 80; x < width-80; x += 7 {
			glyph := random.IntN(60)
			for j := range 10 {
				for i := range 5 {
					if (glyph*7+i*j*glyph)%5 < 2 {
						v := byte(glyph * (i + j))
						m.SetRGBA(x+i, y+j, color.RGBA{R: v, G: v, B: v, A: 255})
					}
				}
			}
		}
	}
	return m
}
