package pageimage

import (
	"bytes"
	"image/png"
	"os"
	"testing"

	"leafcutter/pkg/pngenc"
)

// BenchmarkPNG reads a page as the pipeline writes it, here and by the standard
// library.
func BenchmarkPNG(b *testing.B) {
	for _, name := range []string{"../../report.png", "../../testdata/walden.png"} {
		shipped, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		m, err := png.Decode(bytes.NewReader(shipped))
		if err != nil {
			b.Fatal(err)
		}
		var written bytes.Buffer
		if err := new(pngenc.Encoder).Encode(&written, m); err != nil {
			b.Fatal(err)
		}
		data := written.Bytes()
		size := int64(3 * m.Bounds().Dx() * m.Bounds().Dy())
		b.Run(m.Bounds().Max.String()+"/rows", func(b *testing.B) {
			var p PNG
			b.SetBytes(size)
			for b.Loop() {
				if err := p.Open(data, 1<<24); err != nil {
					b.Fatal(err)
				}
				_, h := p.Size()
				for range h {
					if _, err := p.Next(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		b.Run(m.Bounds().Max.String()+"/standard", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if _, err := png.Decode(bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
