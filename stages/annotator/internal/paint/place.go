package paint

import (
	"image"

	"leafcutter/pkg/pngdec"
)

// place finds where the tag of an outline hides least: at one of its corners, on empty paper if there is some. It
// reports false for a tag that is larger than the page.
//
// Above the box at its left is best; each place after it must be clearer by some margin, so that tags do not jump about
// for a speck of dust. Other tags are avoided before anything else.
func place(page *pngdec.Image, box image.Rectangle, size image.Point, others []tag) (image.Rectangle, bool) {
	if size.X > page.Width || size.Y > page.Height {
		return image.Rectangle{}, false
	}
	left, right := box.Min.X, box.Max.X-size.X
	above, below := box.Min.Y-size.Y, box.Max.Y
	corners := [...]image.Point{
		{left, above},
		{right, above},
		{box.Min.X - size.X, box.Min.Y},
		{box.Max.X, box.Min.Y},
		{left, below},
		{right, below},
		{right, box.Min.Y},
		{left, box.Min.Y},
	}
	const (
		step    = 3       // clearer by so much for each place further down the list, on the scale of clutter
		overlap = 1 << 20 // more than any clutter
	)
	var best image.Rectangle
	bestCost := -1
	for i, corner := range corners {
		corner.X = min(max(corner.X, 0), page.Width-size.X)
		corner.Y = min(max(corner.Y, 0), page.Height-size.Y)
		area := image.Rectangle{Min: corner, Max: corner.Add(size)}
		cost := i * step
		for _, other := range others {
			if area.Overlaps(other.area) {
				cost += overlap
			}
		}
		if bestCost >= 0 && cost >= bestCost {
			continue
		}
		if cost += clutter(page, area); bestCost < 0 || cost < bestCost {
			best, bestCost = area, cost
		}
	}
	return best, true
}

// clutter is how much there is to see in an area: the mean difference of a pixel to its neighbours at the right and
// below, in green, 0 to 510. Paper and plain backgrounds have none, whatever their colour.
func clutter(page *pngdec.Image, r image.Rectangle) int {
	sum := 0
	for y := r.Min.Y; y < r.Max.Y-1; y++ {
		row, next := page.Row(y)[3*r.Min.X:3*r.Max.X], page.Row(y + 1)[3*r.Min.X:3*r.Max.X]
		for i := 1; i+3 < len(row); i += 3 {
			across, down := int(row[i])-int(row[i+3]), int(row[i])-int(next[i])
			sum += max(across, -across) + max(down, -down)
		}
	}
	return sum / max(r.Dx()*r.Dy(), 1)
}
