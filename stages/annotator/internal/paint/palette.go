package paint

import (
	"hash/fnv"
	"math"
)

// colour is red, green and blue in sRGB.
type colour [3]byte

// palette is the colours of the classes. Each stands out from white paper (contrast of 3 or more, as WCAG 2.2 asks of
// graphics), and any two from each other, also for eyes that lack one of the three cones: found by search from colours
// that go with their subject, with the caption of a thing in a lighter shade of it. The test holds the palette to that.
var palette = [...]struct {
	class  string
	colour colour
}{
	{"title", colour{0xC3, 0x22, 0x02}},
	{"text", colour{0x36, 0x73, 0xC8}},
	{"figure", colour{0x34, 0xA1, 0x7A}},
	{"figure_caption", colour{0x7C, 0xA0, 0x4A}},
	{"table", colour{0x59, 0x16, 0x95}},
	{"table_caption", colour{0xAD, 0x7F, 0xBB}},
	{"header", colour{0x78, 0x5F, 0x3C}},
	{"footer", colour{0x2E, 0x49, 0x52}},
	{"reference", colour{0xB6, 0x8F, 0x02}},
	{"equation", colour{0xC2, 0x26, 0x85}},
}

// colourOf is the colour of a class: its own, or one that its name picks, the same on every page and in every run.
func colourOf(class string) colour {
	for _, p := range palette {
		if p.class == class {
			return p.colour
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(class)) // a hash takes everything
	return palette[h.Sum32()%uint32(len(palette))].colour
}

// ink is the colour for letters on c: white where that can be read (contrast 4.5), else black.
func (c colour) ink() colour {
	if contrast(c, colour{255, 255, 255}) >= 4.5 {
		return colour{255, 255, 255}
	}
	return colour{0, 0, 0}
}

// contrast is the contrast ratio of two colours, 1 to 21 (WCAG 2.2).
func contrast(a, b colour) float64 {
	la, lb := a.luminance(), b.luminance()
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

// luminance is the relative luminance of c, 0 to 1 (WCAG 2.2).
func (c colour) luminance() float64 {
	return 0.2126*linear(c[0]) + 0.7152*linear(c[1]) + 0.0722*linear(c[2])
}

// linear undoes the transfer function of sRGB (IEC 61966-2-1).
func linear(v byte) float64 {
	s := float64(v) / 255
	if s <= 0.04045 {
		return s / 12.92
	}
	return math.Pow((s+0.055)/1.055, 2.4)
}
