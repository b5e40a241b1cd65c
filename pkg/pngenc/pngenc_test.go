package pngenc_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"leafcutter/pkg/pngenc"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fill paints w×h opaque pixels with one of several kinds of content, so that
// each row filter is chosen somewhere.
func fill(kind string, w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	rnd := rand.New(rand.NewPCG(1, uint64(w*h)))
	for y := range h {
		for x := range w {
			c := color.RGBA{255, 255, 255, 255}
			switch kind {
			case "text":
				if (x/3+y/5)%7 == 0 {
					c = color.RGBA{byte(x % 2 * 90), 0, 0, 255}
				}
			case "across":
				c = color.RGBA{byte(x), byte(2 * x), byte(3*x + y), 255}
			case "down":
				c = color.RGBA{byte(x*x*31 + y), byte(x*x*17 + y), byte(x*x*7 + y), 255}
			case "noise":
				v := rnd.Uint32()
				c = color.RGBA{byte(v), byte(v >> 8), byte(v >> 16), 255}
			}
			m.SetRGBA(x, y, c)
		}
	}
	return m
}

var kinds = []string{"white", "text", "across", "down", "noise"}

// same fails unless encoded decodes to exactly the colours of want.
func same(t *testing.T, encoded []byte, want *image.RGBA) {
	t.Helper()
	got, err := png.Decode(bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	if got.Bounds() != (image.Rectangle{Max: want.Bounds().Size()}) {
		t.Fatalf("bounds %v, want size %v", got.Bounds(), want.Bounds().Size())
	}
	rgba, ok := got.(*image.RGBA)
	if !ok {
		t.Fatalf("decoded as %T, want *image.RGBA", got)
	}
	origin := want.Bounds().Min
	for y := range got.Bounds().Dy() {
		for x := range got.Bounds().Dx() {
			if a, b := rgba.RGBAAt(x, y), want.RGBAAt(origin.X+x, origin.Y+y); a != b {
				t.Fatalf("pixel %d,%d is %v, want %v", x, y, a, b)
			}
		}
	}
}

func TestEncodeDecodesTheSame(t *testing.T) {
	var e pngenc.Encoder // one for all: nothing may leak from image to image
	for _, kind := range kinds {
		for _, size := range []image.Point{{1, 1}, {2, 3}, {5, 1}, {1, 9}, {257, 64}, {640, 300}} {
			t.Run(fmt.Sprint(kind, size), func(t *testing.T) {
				m := fill(kind, size.X, size.Y)
				var out bytes.Buffer
				if err := e.Encode(&out, m); err != nil {
					t.Fatal(err)
				}
				same(t, out.Bytes(), m)
			})
		}
	}
}

// TestGrey writes pictures without colour with one channel, and all others as without Grey: one pixel decides, wherever
// it is and whichever of its channels it is.
func TestGrey(t *testing.T) {
	grey := pngenc.Encoder{Grey: true}
	var out, plain bytes.Buffer
	for _, kind := range kinds {
		for _, size := range []image.Point{{1, 1}, {2, 3}, {5, 1}, {1, 9}, {37, 2}, {257, 64}} {
			m := fill(kind, size.X, size.Y)
			want := image.NewRGBA(m.Rect)
			for i := 0; i < len(m.Pix); i += 4 {
				v := m.Pix[i]
				copy(want.Pix[i:], []byte{v, v, v, 255})
			}
			packed := make([]byte, 0, 3*size.X*size.Y)
			for i := 0; i < len(want.Pix); i += 4 {
				packed = append(packed, want.Pix[i:i+3]...)
			}
			out.Reset()
			plain.Reset()
			if err := errors.Join(grey.Encode(&out, want), grey.EncodeRGB(&plain, packed, size.X, size.Y, 3*size.X)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), plain.Bytes()) {
				t.Fatalf("%s %v: RGBA and RGB give different files", kind, size)
			}
			got, err := png.Decode(&out)
			if err != nil {
				t.Fatal(err)
			}
			one, ok := got.(*image.Gray)
			if !ok {
				t.Fatalf("%s %v: decoded as %T", kind, size, got)
			}
			for i, v := range one.Pix {
				if v != want.Pix[4*i] {
					t.Fatalf("%s %v: pixel %d is %d, want %d", kind, size, i, v, want.Pix[4*i])
				}
			}
			places := []int{0, size.X * size.Y / 2, size.X*size.Y - 1}
			if size.X < 100 {
				places = places[:0]
				for at := range size.X * size.Y {
					places = append(places, at)
				}
			}
			for _, at := range places {
				for channel := range 3 {
					coloured := image.NewRGBA(want.Rect)
					copy(coloured.Pix, want.Pix)
					coloured.Pix[4*at+channel] ^= 1
					out.Reset()
					plain.Reset()
					if err := errors.Join(grey.Encode(&out, coloured), pngenc.Encode(&plain, coloured)); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(out.Bytes(), plain.Bytes()) {
						t.Fatalf("%s %v: channel %d of pixel %d is lost", kind, size, channel, at)
					}
					out.Reset()
					packed[3*at+channel] ^= 1
					if err := grey.EncodeRGB(&out, packed, size.X, size.Y, 3*size.X); err != nil {
						t.Fatal(err)
					}
					packed[3*at+channel] ^= 1
					if !bytes.Equal(out.Bytes(), plain.Bytes()) {
						t.Fatalf("%s %v: channel %d of pixel %d is lost without alpha", kind, size, channel, at)
					}
				}
			}
		}
	}
}

func TestEncodeSubImageAndOtherTypes(t *testing.T) {
	m := fill("noise", 40, 30)
	part := m.SubImage(image.Rect(3, 5, 20, 29)).(*image.RGBA)
	var out bytes.Buffer
	if err := pngenc.Encode(&out, part); err != nil {
		t.Fatal(err)
	}
	same(t, out.Bytes(), part)

	nrgba := image.NewNRGBA(m.Bounds())
	copy(nrgba.Pix, m.Pix)
	out.Reset()
	if err := pngenc.Encode(&out, nrgba); err != nil {
		t.Fatal(err)
	}
	same(t, out.Bytes(), m)

	grey := image.NewGray(image.Rect(2, 2, 9, 7))
	want := image.NewRGBA(grey.Bounds())
	for i := range grey.Pix {
		grey.Pix[i] = byte(i * 7)
	}
	for y := 2; y < 7; y++ {
		for x := 2; x < 9; x++ {
			want.Set(x, y, grey.At(x, y))
		}
	}
	out.Reset()
	if err := pngenc.Encode(&out, grey); err != nil {
		t.Fatal(err)
	}
	same(t, out.Bytes(), want)
}

func TestEncodeRGB(t *testing.T) {
	const w, h, stride = 31, 17, 3*31 + 5 // rows with padding, as C libraries have them
	m := fill("across", w, h)
	pix := bytes.Repeat([]byte{0xee}, h*stride)
	for y := range h {
		for x := range w {
			copy(pix[y*stride+3*x:], m.Pix[m.PixOffset(x, y):][:3])
		}
	}
	var out bytes.Buffer
	if err := new(pngenc.Encoder).EncodeRGB(&out, pix[:(h-1)*stride+3*w], w, h, stride); err != nil {
		t.Fatal(err)
	}
	same(t, out.Bytes(), m)
}

func TestImpossibleSizes(t *testing.T) {
	var e pngenc.Encoder
	for _, c := range []struct{ pix, w, h, stride int }{
		{0, 0, 1, 0}, {0, 1, 0, 3}, {3, -1, 1, 3}, {2, 1, 1, 3}, {5, 1, 2, 3}, {12, 2, 2, 5},
	} {
		if err := e.EncodeRGB(new(bytes.Buffer), make([]byte, c.pix), c.w, c.h, c.stride); !errors.Is(err, pngenc.ErrSize) {
			t.Errorf("%+v: %v, want ErrSize", c, err)
		}
	}
	if err := e.Encode(new(bytes.Buffer), image.NewRGBA(image.Rectangle{})); !errors.Is(err, pngenc.ErrSize) {
		t.Errorf("empty image: %v, want ErrSize", err)
	}
}

type failAfter struct{ left int }

var errDisk = errors.New("no room left")

func (f *failAfter) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

// TestWriteErrors cuts the output off at every length: each must be reported,
// and the encoder must be good for another image afterwards.
func TestWriteErrors(t *testing.T) {
	m := fill("noise", 200, 130) // more than one IDAT chunk
	var e pngenc.Encoder
	var whole bytes.Buffer
	if err := e.Encode(&whole, m); err != nil {
		t.Fatal(err)
	}
	for _, left := range []int{0, 20, 33, 1000, 66000, whole.Len() - 13, whole.Len() - 1} {
		if err := e.Encode(&failAfter{left}, m); !errors.Is(err, errDisk) {
			t.Errorf("cut at %d of %d: %v", left, whole.Len(), err)
		}
	}
	var again bytes.Buffer
	if err := e.Encode(&again, m); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), whole.Bytes()) {
		t.Error("output differs after failed writes")
	}
}

// TestGolden holds the bytes still: object names come from content, and equal
// pages must stay equal objects between builds.
func TestGolden(t *testing.T) {
	for _, kind := range kinds {
		var out bytes.Buffer
		if err := pngenc.Encode(&out, fill(kind, 64, 48)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", kind+".png")
		if *update {
			if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s: %d bytes differ from the %d golden ones; -update if that is meant", kind, out.Len(), len(want))
		}
	}
}

func TestHeader(t *testing.T) {
	m := fill("text", 40, 30)
	for _, dpi := range []int{0, 1, 36, 72, 96, 108, 150, 203, 299, 600} {
		var out bytes.Buffer
		if err := (&pngenc.Encoder{DPI: dpi}).Encode(&out, m); err != nil {
			t.Fatal(err)
		}
		same(t, out.Bytes(), m)
		got, err := pngenc.ReadHeader(&out)
		if want := (pngenc.Header{Width: 40, Height: 30, DPI: dpi}); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	var other bytes.Buffer // a writer that knows nothing of resolutions
	if err := png.Encode(&other, m); err != nil {
		t.Fatal(err)
	}
	if got, err := pngenc.ReadHeader(&other); err != nil || got != (pngenc.Header{Width: 40, Height: 30}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzReadHeader(f *testing.F) {
	var out bytes.Buffer
	if err := (&pngenc.Encoder{DPI: 108}).Encode(&out, fill("text", 4, 3)); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Add(out.Bytes()[:30])
	f.Add([]byte("GIF89a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := pngenc.ReadHeader(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, pngenc.ErrHeader) {
				t.Fatal(err)
			}
			return
		}
		cfg, err := png.DecodeConfig(bytes.NewReader(data))
		if err == nil && (cfg.Width != h.Width || cfg.Height != h.Height) {
			t.Fatalf("%+v, image/png says %d × %d", h, cfg.Width, cfg.Height)
		}
	})
}

func FuzzEncodeRGB(f *testing.F) {
	f.Add([]byte("abcdefghijklmnopqrstuvwxyz0123"), uint16(2))
	f.Add(bytes.Repeat([]byte{255}, 300), uint16(10))
	f.Fuzz(func(t *testing.T, pix []byte, width uint16) {
		w := max(int(width), 1)
		h := len(pix) / (3 * w)
		var out bytes.Buffer
		err := new(pngenc.Encoder).EncodeRGB(&out, pix, w, h, 3*w)
		if h == 0 {
			if !errors.Is(err, pngenc.ErrSize) {
				t.Fatalf("no rows: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		want := image.NewRGBA(image.Rect(0, 0, w, h))
		for i := range w * h {
			copy(want.Pix[4*i:], pix[3*i:][:3])
			want.Pix[4*i+3] = 255
		}
		same(t, out.Bytes(), want)
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, kind := range kinds {
		m := fill(kind, 1240, 1754)
		b.Run(kind, func(b *testing.B) { encode(b, new(pngenc.Encoder), m) })
	}
	grey := fill("text", 1240, 1754)
	for i := 0; i < len(grey.Pix); i += 4 {
		grey.Pix[i+1], grey.Pix[i+2] = grey.Pix[i], grey.Pix[i]
	}
	b.Run("grey", func(b *testing.B) { encode(b, &pngenc.Encoder{Grey: true}, grey) })
}

func encode(b *testing.B, e *pngenc.Encoder, m *image.RGBA) {
	var out bytes.Buffer
	b.SetBytes(int64(len(m.Pix)))
	for b.Loop() {
		out.Reset()
		if err := e.Encode(&out, m); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(out.Len())/1024, "KiB")
}
