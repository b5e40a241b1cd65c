package paint

import (
	"fmt"
	"image"
	"image/draw"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomedium"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"

	"leafcutter/pkg/pngdec"
)

// letters is the font in the sizes in use. There are at most as many sizes as scaleOf gives.
type letters struct {
	font  *opentype.Font
	mu    sync.Mutex
	faces map[int]*face
}

func newLetters() (*letters, error) {
	f, err := opentype.Parse(gomedium.TTF)
	if err != nil {
		return nil, fmt.Errorf("read the font of labels: %w", err)
	}
	return &letters{font: f, faces: map[int]*face{}}, nil
}

// face is the font at size pixels.
func (l *letters) face(size int) *face {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.faces[size]; ok {
		return f
	}
	// NewFace fails for no size of ours: it reports what a caller of other packages' faces may get wrong.
	source, err := opentype.NewFace(l.font, &opentype.FaceOptions{Size: float64(size), DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		panic("paint: the font has no face of a positive size: " + err.Error())
	}
	m := source.Metrics()
	ascent, descent := m.Ascent.Ceil(), m.Descent.Ceil()
	f := &face{font: l.font, source: source, glyphs: map[glyphKey]glyph{}, height: ascent + descent, baseline: ascent}
	l.faces[size] = f
	return f
}

// face is one size of the font. The letters that it has drawn are kept: rasterising takes longer than painting.
type face struct {
	height   int // of a line, in pixels
	baseline int // from the top of a line

	mu     sync.Mutex // neither the source nor the buffer is for concurrent use
	font   *opentype.Font
	buffer sfnt.Buffer
	source font.Face
	glyphs map[glyphKey]glyph
}

// glyphKey is a letter at a quarter of a pixel: letters at whole pixels stand unevenly at the size of labels.
type glyphKey struct {
	letter  rune
	quarter uint8
}

// unknown is the sign for letters that the font lacks.
const unknown = '\uFFFD'

type glyph struct {
	mask    *image.Alpha
	at      image.Point // of the mask's top left, from the whole pixel on the baseline
	advance fixed.Int26_6
}

func (f *face) glyph(letter rune, x fixed.Int26_6) glyph {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := glyphKey{letter, uint8(x & 63 >> 4)}
	if g, ok := f.glyphs[key]; ok {
		return g
	}
	// All letters that the font lacks share one sign, so that what is kept never grows past the font.
	if i, err := f.font.GlyphIndex(&f.buffer, letter); letter != unknown && (err != nil || i == 0) {
		key.letter = unknown
		if g, ok := f.glyphs[key]; ok {
			return g
		}
	}
	area, mask, from, advance, ok := f.source.Glyph(fixed.Point26_6{X: fixed.Int26_6(key.quarter) << 4}, key.letter)
	if !ok {
		return glyph{}
	}
	// The source draws its next letter into the same mask.
	own := image.NewAlpha(image.Rectangle{Max: area.Size()})
	draw.Draw(own, own.Rect, mask, from, draw.Src)
	g := glyph{own, area.Min, advance}
	f.glyphs[key] = g
	return g
}

// width is the pixels that text takes.
func (f *face) width(text string) int {
	var x fixed.Int26_6
	for _, letter := range text {
		x += f.glyph(letter, x).advance
	}
	return x.Ceil()
}

// write blends text onto the page, its baseline beginning at at.
func (f *face) write(page *pngdec.Image, at image.Point, text string, ink colour) {
	bounds := image.Rect(0, 0, page.Width, page.Height)
	var x fixed.Int26_6
	for _, letter := range text {
		g := f.glyph(letter, x)
		if g.mask != nil {
			area := g.mask.Rect.Add(g.at).Add(image.Pt(at.X+x.Floor(), at.Y))
			for py := max(area.Min.Y, 0); py < min(area.Max.Y, bounds.Max.Y); py++ {
				row := page.Row(py)
				alphas := g.mask.Pix[(py-area.Min.Y)*g.mask.Stride:]
				for px := max(area.Min.X, 0); px < min(area.Max.X, bounds.Max.X); px++ {
					if a := uint32(alphas[px-area.Min.X]); a != 0 {
						p := row[3*px : 3*px+3]
						for c := range p {
							p[c] = byte((uint32(ink[c])*a + uint32(p[c])*(255-a) + 127) / 255)
						}
					}
				}
			}
		}
		x += g.advance
	}
}
