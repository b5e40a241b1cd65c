package family

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
)

// rcnn is Faster R-CNN and Mask R-CNN as tools/export_detectron2.py exports
// Detectron2's. The page is scaled as Detectron2's ResizeShortestEdge does, by
// Pillow; levels go in as they are, and normalisation, padding and suppression
// are inside. For a page that is scaled to w × h the input is [3, h, w], without
// a batch, and the outputs are, by falling score:
//
//   - boxes [n, 4], corners in pixels of the scaled page;
//   - classes [n] int64 and scores [n].
//
// A mask, [n, 1, 28, 28], says which part of its box belongs to the object;
// Mask R-CNN's box is found without it, so it is not asked for.
type rcnn struct {
	m       manifest.Manifest
	options rcnnOptions
	levels  *levels
	resize  string
}

type rcnnOptions struct {
	Boxes   string `json:"boxes"` // output names
	Classes string `json:"classes"`
	Scores  string `json:"scores"`
	Masks   string `json:"masks,omitempty"` // of Mask R-CNN
	// WholePixels rounds boxes to whole pixels, half to even, as Pillow's
	// crop does. Else they are given to a hundredth.
	WholePixels bool `json:"whole_pixels,omitempty"`
}

func newRCNN(m manifest.Manifest) (*rcnn, error) {
	r := &rcnn{m: m, levels: raw(), resize: cmp.Or(m.Input.Resize, manifest.Pillow)}
	if err := readOptions(m, &r.options); err != nil {
		return nil, err
	}
	var faults []error
	for _, o := range []struct{ field, name string }{{"boxes", r.options.Boxes}, {"classes", r.options.Classes}, {"scores", r.options.Scores}} {
		if o.name == "" {
			faults = append(faults, fmt.Errorf("options.%s: the name of an output is missing", o.field))
		}
	}
	if m.Family == FasterRCNN && r.options.Masks != "" {
		faults = append(faults, fmt.Errorf("options.masks: a model with masks is of the family %s", MaskRCNN))
	}
	if !m.Input.Varies() {
		faults = append(faults, errors.New("input: the size depends on the page: give shortest_edge and longest_edge, not width and height"))
	}
	if m.Input.Normalises() {
		faults = append(faults, errors.New("input.mean, input.std: the model normalises by itself: leave them out"))
	}
	if err := errors.Join(append(faults, eightBitOnly(m))...); err != nil {
		return nil, err
	}
	return r, nil
}

// raw are levels as they are.
func raw() *levels {
	var l levels
	for c := range l {
		for v := range l[c] {
			l[c][v] = float32(v)
		}
	}
	return &l
}

// scaled is the size that a page of w × h is scaled to: Detectron2's
// ResizeShortestEdge.get_output_shape, step by step, since a pixel's
// difference moves every box.
func (r *rcnn) scaled(w, h int) (width, height int) {
	size, longest := float64(r.m.Input.ShortestEdge), float64(r.m.Input.LongestEdge)
	scale := size / float64(min(w, h))
	fw, fh := size, float64(scale*float64(h))
	if h < w {
		fw, fh = float64(scale*float64(w)), size
	}
	if most := max(fw, fh); most > longest {
		scale = longest / most
		fw, fh = float64(fw*scale), float64(fh*scale)
	}
	// A page a pixel wide must not vanish.
	return max(int(fw+0.5), 1), max(int(fh+0.5), 1)
}

// Input is [3, height, width] of the scaled page.
func (r *rcnn) Input(width, height int) []int64 {
	w, h := r.scaled(width, height)
	return []int64{3, int64(h), int64(w)}
}

// Extra is nothing.
func (r *rcnn) Extra() []Extra { return nil }

// Outputs are boxes, classes and scores.
func (r *rcnn) Outputs() []string {
	return []string{r.options.Boxes, r.options.Classes, r.options.Scores}
}

// OutputShapes depend on what is found.
func (r *rcnn) OutputShapes() [][]int64 { return nil }

func (r *rcnn) expects() []Port {
	ports := []Port{{r.options.Boxes, "float32", []int64{-1, 4}}, {r.options.Classes, "int64", []int64{-1}}, {r.options.Scores, "float32", []int64{-1}}}
	if r.options.Masks != "" {
		ports = append(ports, Port{r.options.Masks, "float32", []int64{-1, 1, -1, -1}})
	}
	return ports
}

// Preprocess scales the page.
func (r *rcnn) Preprocess(page pageimage.Rows, dst []float32, scratch *Scratch) (Geometry, error) {
	w, h := page.Size()
	width, height := r.scaled(w, h)
	if len(dst) != 3*width*height {
		return Geometry{}, fmt.Errorf("tensor of %d values for an input of %d", len(dst), 3*width*height)
	}
	to := canvas{dst: dst, width: width, height: height, levels: r.levels, reversed: r.m.Input.Channels == "bgr"}
	if err := shrink8(page, r.resize, width, height, &scratch.eight, to.put); err != nil {
		return Geometry{}, err
	}
	return Geometry{Width: w, Height: h}, nil
}

// Decode scales boxes to the page and clips them, in float32 as Detectron2's
// detector_postprocess does.
func (r *rcnn) Decode(outputs []Tensor, g Geometry) ([]schemas.Box, error) {
	if len(outputs) != 3 {
		return nil, fmt.Errorf("%w: %d outputs, want 3", ErrOutput, len(outputs))
	}
	boxes, classes, scores := outputs[0], outputs[1], outputs[2]
	if err := fits(r.options.Scores, scores, -1); err != nil {
		return nil, err
	}
	n := scores.Shape[0]
	if err := errors.Join(fits(r.options.Boxes, boxes, n, 4), fitsInts(r.options.Classes, classes, n)); err != nil {
		return nil, err
	}
	width, height := r.scaled(g.Width, g.Height)
	limit := [2]float32{float32(g.Width), float32(g.Height)}
	factor := [2]float32{
		float32(float64(g.Width) / float64(width)),
		float32(float64(g.Height) / float64(height)),
	}
	floor := float32(r.m.ScoreFloor)
	var found []candidate
	for i, s := range scores.Data {
		if !(s >= floor) {
			continue
		}
		if err := inClasses(classes.Ints[i], r.m.Classes); err != nil {
			return nil, err
		}
		c := candidate{score: min(float64(s), 1), class: int(classes.Ints[i])}
		for k := range c.box {
			v := float64(min(max(boxes.Data[4*i+k]*factor[k%2], 0), limit[k%2]))
			if r.options.WholePixels {
				v = math.RoundToEven(v)
			}
			c.box[k] = v
		}
		found = append(found, c)
	}
	return finish(suppress(best(found, r.m.NMS.Candidates), r.m.Classes, r.m.NMS), r.m.Classes), nil
}
