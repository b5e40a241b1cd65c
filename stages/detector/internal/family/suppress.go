package family

import (
	"cmp"
	"math"
	"slices"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
)

// candidate is a box before it is known whether it is the best on its object.
// head and cell say where in the outputs it comes from.
type candidate struct {
	score      float64
	class      int
	head, cell int
	box        [4]float64 // x0, y0, x1, y1 in pixels of the page
}

// suppress keeps the best box on each object: candidates are taken best first
// (those of preferred classes before all others), and one is dropped if it
// overlaps a box that was already taken by more than the limit for its own
// class or for another. Boxes without an area are dropped. c must be in
// falling order of score; it is reordered.
func suppress(c []candidate, classes []string, nms manifest.NMS) []candidate {
	if len(nms.Prefer) > 0 {
		preferred := func(c candidate) int {
			if from, ok := nms.Prefer[classes[c.class]]; ok && c.score >= from {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(c, func(a, b candidate) int { return cmp.Compare(preferred(a), preferred(b)) })
	}
	var kept []candidate
next:
	for _, b := range c {
		if !(b.box[2] > b.box[0] && b.box[3] > b.box[1]) { // NaN too
			continue
		}
		for _, k := range kept {
			limit := nms.CrossClassIoU
			if k.class == b.class {
				limit = nms.IoU
			}
			if overlap(b.box, k.box) > limit {
				continue next
			}
		}
		kept = append(kept, b)
	}
	slices.SortStableFunc(kept, func(a, b candidate) int { return cmp.Compare(b.score, a.score) })
	return kept[:min(len(kept), nms.MaxBoxes)]
}

// overlap is intersection over union.
func overlap(a, b [4]float64) float64 {
	w := min(a[2], b[2]) - max(a[0], b[0])
	h := min(a[3], b[3]) - max(a[1], b[1])
	if w <= 0 || h <= 0 {
		return 0
	}
	both := w * h
	return both / ((a[2]-a[0])*(a[3]-a[1]) + (b[2]-b[0])*(b[3]-b[1]) - both)
}

// finish rounds, coordinates to a hundredth of a pixel and scores to a
// hundred-thousandth (finer differences are those between processors), and
// puts the boxes in the order that numbers them. A box thinner than the
// rounding is dropped, for it would have no area.
func finish(c []candidate, classes []string) []schemas.Box {
	out := make([]schemas.Box, 0, len(c))
	for _, k := range c {
		b := schemas.Box{Class: classes[k.class], Score: math.Round(k.score*1e5) / 1e5}
		for i, v := range k.box {
			b.Rect[i] = math.Round(v*100) / 100
		}
		if b.Rect[2] > b.Rect[0] && b.Rect[3] > b.Rect[1] {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, schemas.CompareBoxes)
	return out
}
