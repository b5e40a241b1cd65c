// Package paint draws the annotated page: an outline around each box in the colour of its class, and a tag with class
// and score. The annotator calls it with the boxes that are kept.
package paint

import (
	"fmt"
	"image"
	"math"

	"leafcutter/pkg/pngdec"
	"leafcutter/schemas"
)

// Painter draws annotated pages. It keeps the letters that it has drawn and is for concurrent use.
type Painter struct {
	letters *letters
}

// New makes a painter.
func New() (*Painter, error) {
	letters, err := newLetters()
	if err != nil {
		return nil, err
	}
	return &Painter{letters: letters}, nil
}

// Draw draws boxes, in the order of schemas.CompareBoxes, onto the page. The first lie on top and choose the place of
// their tag first. Boxes of which nothing lies on the page are left out. The same page and boxes give the same pixels.
func (p *Painter) Draw(page *pngdec.Image, boxes []schemas.Box) {
	s := scaleOf(page.Width, page.Height)
	face := p.letters.face(s.text)
	outlines := make([]image.Rectangle, len(boxes))
	for i := len(boxes) - 1; i >= 0; i-- {
		outlines[i] = outline(boxes[i].Rect, s.line, page.Width, page.Height)
		if !outlines[i].Empty() {
			frame(page, outlines[i], s.line, colourOf(boxes[i].Class))
		}
	}
	var tags []tag
	for i, box := range boxes {
		if outlines[i].Empty() {
			continue
		}
		label := labelOf(box)
		size := image.Pt(face.width(label)+2*s.margin, face.height)
		if at, ok := place(page, outlines[i], size, tags); ok {
			tags = append(tags, tag{at, label, colourOf(box.Class)})
		}
	}
	for i := len(tags) - 1; i >= 0; i-- {
		t := tags[i]
		halo(page, t.area)
		fill(page, t.area, t.colour)
		face.write(page, image.Pt(t.area.Min.X+s.margin, t.area.Min.Y+face.baseline), t.label, t.colour.ink())
	}
}

// tag is a label with its place on the page.
type tag struct {
	area   image.Rectangle
	label  string
	colour colour
}

// scale is how large things are drawn, in pixels.
type scale struct {
	line   int // width of an outline
	text   int // size of the letters
	margin int // left and right of a label
}

// scaleOf gives a page at 108 dpi (some 900 pixels wide) outlines of 2 pixels and letters of 13, and others in
// proportion. The shorter side decides, so that a long receipt is not drawn in posters' letters.
func scaleOf(width, height int) scale {
	k := float64(min(width, height)) / 900
	whole := func(v, low, high float64) int { return int(math.Round(min(max(v*k, low), high))) }
	return scale{line: whole(2, 1, 12), text: whole(13, 11, 72), margin: whole(4, 2, 24)}
}

// outline is the outer edge of what is drawn around a box: a line's width outside it, so that the line covers nothing of
// it, but never off the page. It is empty where nothing of the box is on the page.
func outline(box [4]float64, line, width, height int) image.Rectangle {
	x0, y0 := max(box[0], 0), max(box[1], 0)
	x1, y1 := min(box[2], float64(width)), min(box[3], float64(height))
	if !(x0 < x1 && y0 < y1) {
		return image.Rectangle{}
	}
	return image.Rect(
		max(int(math.Round(x0))-line, 0), max(int(math.Round(y0))-line, 0),
		min(int(math.Round(x1))+line, width), min(int(math.Round(y1))+line, height))
}

// maxLabel is the number of characters of a class's name that a tag has room for.
const maxLabel = 40

func labelOf(box schemas.Box) string {
	name := []rune(box.Class)
	if len(name) > maxLabel {
		name = append(name[:maxLabel-1], '…')
	}
	return fmt.Sprintf("%s %.2f", string(name), box.Score)
}

// frame draws the four sides of r, each line pixels wide, inside r.
func frame(page *pngdec.Image, r image.Rectangle, line int, c colour) {
	halo(page, r)
	fill(page, image.Rect(r.Min.X, r.Min.Y, r.Max.X, r.Min.Y+line).Intersect(r), c)
	fill(page, image.Rect(r.Min.X, r.Max.Y-line, r.Max.X, r.Max.Y).Intersect(r), c)
	fill(page, image.Rect(r.Min.X, r.Min.Y, r.Min.X+line, r.Max.Y).Intersect(r), c)
	fill(page, image.Rect(r.Max.X-line, r.Min.Y, r.Max.X, r.Max.Y).Intersect(r), c)
}

// halo lightens the pixels around r, so that dark colours are seen on dark figures. On paper it does not show.
func halo(page *pngdec.Image, r image.Rectangle) {
	around := r.Inset(-1).Intersect(image.Rect(0, 0, page.Width, page.Height))
	for y := around.Min.Y; y < around.Max.Y; y++ {
		row := page.Row(y)
		if y < r.Min.Y || y >= r.Max.Y {
			lighten(row[3*around.Min.X : 3*around.Max.X])
			continue
		}
		lighten(row[3*around.Min.X : 3*r.Min.X])
		lighten(row[3*r.Max.X : 3*around.Max.X])
	}
}

// lighten moves every channel more than half way to white.
func lighten(pixels []byte) {
	for i, v := range pixels {
		pixels[i] = v + byte(int(255-v)*5/8)
	}
}

// fill paints r, which lies on the page.
func fill(page *pngdec.Image, r image.Rectangle, c colour) {
	if r.Empty() {
		return
	}
	first := page.Row(r.Min.Y)[3*r.Min.X : 3*r.Max.X]
	for i := 0; i < len(first); i += 3 {
		first[i], first[i+1], first[i+2] = c[0], c[1], c[2]
	}
	for y := r.Min.Y + 1; y < r.Max.Y; y++ {
		copy(page.Row(y)[3*r.Min.X:], first)
	}
}
