package pageimage

import (
	"bytes"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"os"
	"testing"

	"leafcutter/pkg/pngenc"
)

// BenchmarkPNG reads a page as the pipeline writes it, in colour and in grey,
// here and by the standard library.
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
		grey := image.NewGray(m.Bounds())
		draw.Draw(grey, grey.Rect, m, grey.Rect.Min, draw.Src)
		for _, m := range []image.Image{m, grey} {
			var written bytes.Buffer
			encoder := pngenc.Encoder{Grey: m == grey}
			if err := encoder.Encode(&written, m); err != nil {
				b.Fatal(err)
			}
			benchmarkPNG(b, fmt.Sprintf("%v/grey=%t", m.Bounds().Max, encoder.Grey), written.Bytes())
		}
	}
}

func benchmarkPNG(b *testing.B, name string, data []byte) {
	b.Run(name+"/rows", func(b *testing.B) {
		var p PNG
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
	b.Run(name+"/standard", func(b *testing.B) {
		for b.Loop() {
			if _, err := png.Decode(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
