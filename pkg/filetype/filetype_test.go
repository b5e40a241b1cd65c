package filetype_test

import (
	"bytes"
	"image"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"leafcutter/pkg/filetype"
)

func encoded(t testing.TB, encode func(*bytes.Buffer, image.Image) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b, image.NewRGBA(image.Rect(0, 0, 2, 2))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDetect(t *testing.T) {
	realPNG := encoded(t, func(b *bytes.Buffer, m image.Image) error { return png.Encode(b, m) })
	realJPEG := encoded(t, func(b *bytes.Buffer, m image.Image) error { return jpeg.Encode(b, m, nil) })
	for _, c := range []struct {
		name string
		head []byte
		want filetype.Type
	}{
		{"png", realPNG, filetype.PNG},
		{"jpeg", realJPEG, filetype.JPEG},
		{"tiff little endian", []byte("II*\x00\x08\x00\x00\x00"), filetype.TIFF},
		{"tiff big endian", []byte("MM\x00*\x00\x00\x00\x08"), filetype.TIFF},
		{"bigtiff", []byte("II+\x00\x08\x00\x00\x00"), ""},
		{"pdf", []byte("%PDF-1.7\n"), filetype.PDF},
		{"pdf after junk", []byte(strings.Repeat("\x00", 1024) + "%PDF-1.4"), filetype.PDF},
		{"pdf too late", []byte(strings.Repeat("\x00", 1025) + "%PDF-1.4"), ""},
		{"png that mentions pdf", append(bytes.Clone(realPNG), "%PDF-1.4"...), filetype.PNG},
		{"empty", nil, ""},
		{"png cut short", realPNG[:7], ""},
		{"pdf cut short", []byte("%PDF"), ""},
		{"zip, office, epub, xps", []byte("PK\x03\x04"), ""},
		{"svg", []byte(`<svg xmlns="http://www.w3.org/2000/svg">`), ""},
		{"gif", []byte("GIF89a"), ""},
		{"webp", []byte("RIFF\x00\x00\x00\x00WEBP"), ""},
		{"postscript", []byte("%!PS-Adobe-3.0"), ""},
		{"jpeg 2000", []byte("\x00\x00\x00\x0cjP  \r\n\x87\n"), ""},
		{"text", []byte("hello"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := filetype.Detect(c.head)
			if got != c.want || ok != (c.want != "") {
				t.Errorf("Detect = %q, %v; want %q", got, ok, c.want)
			}
			if ok && got.Extension() == "" {
				t.Errorf("%q has no extension", got)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]filetype.Type{
		"application/pdf":            filetype.PDF,
		" Image/PNG ":                filetype.PNG,
		"image/jpeg; charset=binary": filetype.JPEG,
		"image/tiff":                 filetype.TIFF,
		"image/svg+xml":              "",
		"application/octet-stream":   "",
		"":                           "",
	} {
		got, ok := filetype.Parse(in)
		if ok != (want != "") || ok && got != want {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
}

func FuzzDetect(f *testing.F) {
	f.Add([]byte("%PDF-1.7"))
	f.Add([]byte("\x89PNG\r\n\x1a\n"))
	f.Add([]byte("II*\x00"))
	f.Fuzz(func(t *testing.T, head []byte) {
		got, ok := filetype.Detect(head)
		if ok != (got.Extension() != "") {
			t.Fatalf("Detect = %q, %v", got, ok)
		}
		// The verdict depends on the first HeadSize bytes alone, whatever a
		// caller read beyond them.
		if len(head) > filetype.HeadSize {
			if short, _ := filetype.Detect(head[:filetype.HeadSize]); short != got {
				t.Fatalf("Detect = %q on all bytes, %q on the first %d", got, short, filetype.HeadSize)
			}
		}
	})
}
