package render

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"leafcutter/pkg/config"
	"leafcutter/pkg/fault"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// refusal says with which code a document is refused: when it is opened, or when
// its first page is rendered.
func refusal(t *testing.T, pool *Pool, content []byte) error {
	t.Helper()
	doc, err := pool.Open(context.Background(), write(t, content))
	if err != nil {
		return err
	}
	defer doc.Close()
	_, err = doc.Page(context.Background(), 1, 108)
	return err
}

// alive fails unless the pool renders an honest document.
func alive(t *testing.T, pool *Pool) {
	t.Helper()
	doc := open(t, pool, testpdf.Text(1))
	page(t, doc, 1, 72)
	doc.Close()
}

// TestHostileDocuments feeds one pool what must not be rendered. Each gets its
// typed refusal, and the pool renders an honest document right after it.
func TestHostileDocuments(t *testing.T) {
	pool := newPool(t, func(c *Config) { c.PageTimeout = 2 * time.Second; c.Memory = 300 << 20 })
	text := testpdf.Text(2)
	for _, c := range []struct {
		name    string
		content []byte
		code    string
	}{
		{"empty", nil, CodeEmpty},
		{"text", []byte("Dear Sir or Madam"), CodeUnsupported},
		{"zip as pdf", append([]byte("PK\x03\x04"), make([]byte, 2000)...), CodeUnsupported},
		{"svg as pdf", []byte(`<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>`), CodeUnsupported},
		{"svg behind a pdf header", []byte("%PDF-1.7\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"/>"), CodeUnreadable},
		{"zip behind a pdf header", append([]byte("%PDF-1.7\nPK\x03\x04"), make([]byte, 2000)...), CodeUnreadable},
		{"header alone", []byte("%PDF-1.7\n"), CodeUnreadable},
		{"garbage", append([]byte("%PDF-1.7\n"), bytes.Repeat([]byte{0xa5, 0x5a, 0x00, 0xff}, 5000)...), CodeUnreadable},
		{"encrypted", testdata(t, "encrypted.pdf"), CodeEncrypted},
		{"no pages", testpdf.NoPages(), CodeNoPages},
		{"too many pages", testpdf.LyingCount(1001), CodeTooManyPages},
		{"two thousand million pages", testpdf.LyingCount(2_000_000_000), CodeTooManyPages},
		{"a page of a kilometre", testpdf.Document([]testpdf.Page{{MediaBox: "0 0 2800000 2800000"}}), CodePageTooLarge},
		{"a page of one long row", testpdf.Document([]testpdf.Page{{MediaBox: "0 0 100000 3"}}), CodePageTooLarge},
		{"a page beyond numbers", testpdf.Document([]testpdf.Page{{MediaBox: "0 0 1e30 1e30"}}), ""},
		{"endless forms", testpdf.Endless(10), CodeTimeout},
		{"image bomb", testpdf.ImageBomb(12000), ""},
		{"png cut short", []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), CodeUnreadable},
		{"png of no size", pngOf(0, 0), CodeUnreadable},
		{"png of a billion pixels", pngOf(100_000, 10_000), CodePageTooLarge},
		{"png of one long row", pngOf(100_000, 1), CodePageTooLarge},
		{"png of one long column", pngOf(1, 100_000), CodePageTooLarge},
		{"jpeg without a frame", []byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"), CodeUnreadable},
		{"tiff without a directory", []byte("II*\x00\x00\x00\x00\x00"), CodeUnreadable},
		{"tiff that goes in circles", circularTIFF(), CodeUnreadable},
		{"tiff of a billion pixels", tiffOf(100_000, 10_000), CodePageTooLarge},
		{"tiff of one long row", tiffOf(100_000, 1), CodePageTooLarge},
		{"nested a thousand deep", testpdf.DeepNesting(1000), ""},
		{"nested a million deep", testpdf.DeepNesting(300_000), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := refusal(t, pool, c.content)
			switch {
			case c.code == "": // it may be rendered in time, refused, or the death of a child
				if err != nil && fault.ClassOf(err) != fault.Permanent {
					t.Errorf("got %v", err)
				}
			case fault.CodeOf(err) != c.code || fault.ClassOf(err) != fault.Permanent:
				t.Errorf("got %v, want code %s", err, c.code)
			}
			alive(t, pool)
		})
	}
	// Bytes missing at the end are everyday damage: what is still there is shown.
	for cut := range 12 {
		if err := refusal(t, pool, text[:len(text)*cut/12]); err != nil && fault.ClassOf(err) != fault.Permanent {
			t.Errorf("cut to %d twelfths: %v", cut, err)
		}
	}
	alive(t, pool)
}

func TestOwnerPasswordAloneIsNoObstacle(t *testing.T) {
	if p := page(t, open(t, newPool(t), testdata(t, "owner-only.pdf")), 2, 72); len(p.Lines) == 0 || p.Lines[0].Text != "Page 2 of 2" {
		t.Errorf("lines %v", p.Lines)
	}
}

// TestOnePageAtFault: what a hostile page does to its child is not felt by the
// other pages of the same document.
func TestOnePageAtFault(t *testing.T) {
	for name, tc := range map[string]struct {
		content []byte
		memory  config.Bytes
		code    string
	}{
		"endless": {testpdf.Endless(10), 1 << 30, CodeTimeout},
		"hungry": {testpdf.Document([]testpdf.Page{
			{MediaBox: "0 0 6000 6000"}, // 108 MB of pixels
			{Lines: []testpdf.Line{{Text: "harmless", X: 72, Y: 700, Size: 24}}},
		}), 64 << 20, CodeOutOfMemory},
	} {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t, func(c *Config) { c.PageTimeout = time.Second; c.Memory = tc.memory; c.MaxPixels = 100e6 })
			doc := open(t, pool, tc.content)
			began := time.Now()
			if _, err := doc.Page(context.Background(), 1, 72); fault.CodeOf(err) != tc.code {
				t.Fatalf("got %v, want %s", err, tc.code)
			}
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("the refusal took %s", took)
			}
			if p := page(t, doc, 2, 72); len(p.Lines) != 1 || p.Lines[0].Text != "harmless" {
				t.Errorf("second page: %v", p.Lines)
			}
		})
	}
}

// TestMissingPages: a page tree that claims more pages than it has fails page by
// page, not as a whole.
func TestMissingPages(t *testing.T) {
	doc := open(t, newPool(t), testpdf.LyingCount(3))
	for number := 1; number <= doc.PageCount(); number++ {
		_, err := doc.Page(context.Background(), number, 72)
		if number == 1 && err != nil {
			t.Errorf("page 1: %v", err)
		}
		if number > 1 && fault.CodeOf(err) != CodeUnreadablePage {
			t.Errorf("page %d: %v", number, err)
		}
	}
	for _, number := range []int{0, -1, doc.PageCount() + 1} {
		if _, err := doc.Page(context.Background(), number, 72); fault.CodeOf(err) != CodeUnreadablePage {
			t.Errorf("page %d: %v", number, err)
		}
	}
}

// TestCutDocuments cuts a document at many lengths and flips bytes in it: each
// must be rendered or refused for good, and the pool must outlive them all.
func TestCutDocuments(t *testing.T) {
	pool := newPool(t, func(c *Config) { c.PageTimeout = 3 * time.Second })
	text := testpdf.Text(1)
	for at := 0; at < len(text); at += 23 {
		for _, content := range [][]byte{text[:at], append(append(bytes.Clone(text[:at]), text[at]^0x55), text[at+1:]...)} {
			if err := refusal(t, pool, content); err != nil && fault.ClassOf(err) != fault.Permanent {
				t.Fatalf("at %d: %v", at, err)
			}
		}
	}
	alive(t, pool)
}

// pngOf is a PNG that claims a size and holds next to nothing.
func pngOf(width, height uint32) []byte {
	chunk := func(kind string, data []byte) []byte {
		out := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
		out = append(append(out, kind...), data...)
		return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[4:]))
	}
	ihdr := binary.BigEndian.AppendUint32(nil, width)
	ihdr = append(binary.BigEndian.AppendUint32(ihdr, height), 8, 2, 0, 0, 0)
	var idat bytes.Buffer
	z := zlib.NewWriter(&idat)
	_, _ = z.Write(make([]byte, 100))
	_ = z.Close()
	return []byte("\x89PNG\r\n\x1a\n" + string(chunk("IHDR", ihdr)) + string(chunk("IDAT", idat.Bytes())) + string(chunk("IEND", nil)))
}

// circularTIFF has a directory that names itself as the next one.
func circularTIFF() []byte {
	file := tiff(binary.LittleEndian, 8, 8)
	copy(file[len(file)-4:], file[4:8])
	return file
}

// tiffOf claims a size and has 4 × 4 pixels.
func tiffOf(width, height uint32) []byte {
	file := tiff(binary.LittleEndian, 4, 4)
	directory := binary.LittleEndian.Uint32(file[4:])
	binary.LittleEndian.PutUint32(file[directory+2+8:], width)
	binary.LittleEndian.PutUint32(file[directory+2+12+8:], height)
	return file
}

func FuzzImageSizes(f *testing.F) {
	f.Add(tiff(binary.LittleEndian, 5, 4, 3, 2))
	f.Add(tiff(binary.BigEndian, 5, 4))
	f.Add(circularTIFF())
	f.Add(pngOf(7, 8))
	f.Add([]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xc0\x00\x0b\x08\x00\x04\x00\x05\x01\x01\x11\x00"))
	f.Add([]byte(strings.Repeat("\xff", 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range imageKinds {
			sizes, err := imageSizes(data, kind, 100)
			if err != nil {
				continue
			}
			if len(sizes) == 0 || len(sizes) > 100 {
				t.Fatalf("%s: %d pages", kind, len(sizes))
			}
			for _, s := range sizes {
				if s[0] <= 0 || s[1] <= 0 {
					t.Fatalf("%s: %v", kind, s)
				}
			}
		}
	})
}
