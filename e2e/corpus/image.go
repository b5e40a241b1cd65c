package corpus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
)

// Scan is a picture of a page: a heading and columns of text as bars on paper of the given size in pixels.
func Scan(width, height, seed int) *image.RGBA {
	page := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(page, page.Bounds(), image.White, image.Point{}, draw.Src)
	bar := func(x, y, w, h int) {
		ink := color.Gray{uint8(20 + (x+y+seed)%40)}
		for left := x; left < x+w; left += 7 * h / 2 { // words
			draw.Draw(page, image.Rect(left, y, min(left+3*h, x+w), y+h), image.NewUniform(ink), image.Point{}, draw.Src)
		}
	}
	margin := width / 10
	bar(margin, height/16, width/2, height/48)
	for y, line := height/8, 0; y < height*7/8; y, line = y+height/64, line+1 {
		if (line+seed)%9 != 8 { // else the gap between paragraphs
			bar(margin, y, width-2*margin, height/110)
		}
	}
	return page
}

// PNG is a picture as a PNG file.
func PNG(page image.Image) ([]byte, error) {
	var b bytes.Buffer
	if err := png.Encode(&b, page); err != nil {
		return nil, fmt.Errorf("encode a PNG: %w", err)
	}
	return b.Bytes(), nil
}

// JPEG is a picture as a JPEG file.
func JPEG(page image.Image) ([]byte, error) {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, page, &jpeg.Options{Quality: 90}); err != nil {
		return nil, fmt.Errorf("encode a JPEG: %w", err)
	}
	return b.Bytes(), nil
}

// TIFF is pictures as the pages of one TIFF file: 8-bit grey, not compressed, little endian (TIFF 6.0, section 4).
func TIFF(pages ...image.Image) []byte {
	b := []byte{'I', 'I', 42, 0, 0, 0, 0, 0}
	next := 4 // where the offset of the next directory is to be written
	for _, page := range pages {
		bounds := page.Bounds()
		grey := image.NewGray(bounds)
		draw.Draw(grey, bounds, page, bounds.Min, draw.Src)
		strip := len(b)
		b = append(b, grey.Pix...)
		if len(b)%2 == 1 {
			b = append(b, 0) // directories begin at even offsets
		}
		resolution := len(b)
		b = binary.LittleEndian.AppendUint32(b, 150)
		b = binary.LittleEndian.AppendUint32(b, 1)
		binary.LittleEndian.PutUint32(b[next:], uint32(len(b)))
		const short, long, rational = 3, 4, 5
		entries := []struct {
			tag, kind uint16
			value     uint32
		}{
			{256, long, uint32(bounds.Dx())}, {257, long, uint32(bounds.Dy())}, {258, short, 8}, {259, short, 1},
			{262, short, 1}, {273, long, uint32(strip)}, {277, short, 1}, {278, long, uint32(bounds.Dy())},
			{279, long, uint32(len(grey.Pix))}, {282, rational, uint32(resolution)}, {283, rational, uint32(resolution)}, {296, short, 2},
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(len(entries)))
		for _, e := range entries {
			b = binary.LittleEndian.AppendUint16(b, e.tag)
			b = binary.LittleEndian.AppendUint16(b, e.kind)
			b = binary.LittleEndian.AppendUint32(b, 1)
			b = binary.LittleEndian.AppendUint32(b, e.value)
		}
		next = len(b)
		b = binary.LittleEndian.AppendUint32(b, 0)
	}
	return b
}
