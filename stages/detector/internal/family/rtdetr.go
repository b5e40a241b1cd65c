package family

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
)

// rtDETR is RT-DETR (Zhao et al. 2023, arXiv 2304.08069) and RT-DETRv2, as
// docling's layout models are. The page is stretched to the input. Models come
// in two forms:
//
//   - as transformers has them: logits [1, queries, classes], whose sigmoid is
//     the score of every class by itself, and boxes [1, queries, 4] as centre
//     and size in parts of the page. Of all queries × classes the best are
//     kept, as many as there are queries;
//   - with that inside: labels [1, n] int64, boxes [1, n, 4] as corners, scores
//     [1, n]. Such a model asks for the size in which its boxes are to be given,
//     and is told that of its input.
type rtDETR struct {
	m       manifest.Manifest
	options rtDETROptions
	levels  *levels
	resize  string
}

type rtDETROptions struct {
	Logits string `json:"logits,omitempty"` // output names of the first form
	Boxes  string `json:"boxes"`
	Labels string `json:"labels,omitempty"` // and of the second
	Scores string `json:"scores,omitempty"`
	Sizes  string `json:"sizes,omitempty"` // name of its second input, which takes width and height
}

func newRTDETR(m manifest.Manifest) (*rtDETR, error) {
	r := &rtDETR{m: m, levels: normalised(m.Input), resize: cmp.Or(m.Input.Resize, manifest.Pillow)}
	if err := readOptions(m, &r.options); err != nil {
		return nil, err
	}
	o := r.options
	var faults []error
	if o.Boxes == "" {
		faults = append(faults, errors.New("options.boxes: the name of an output is missing"))
	}
	if raw, done := o.Logits != "", o.Labels != "" || o.Scores != "" || o.Sizes != ""; raw == done || done && (o.Labels == "" || o.Scores == "" || o.Sizes == "") {
		faults = append(faults, errors.New("options: give either logits, or labels, scores and sizes"))
	}
	if err := errors.Join(append(faults, sameSize(m), eightBitOnly(m))...); err != nil {
		return nil, err
	}
	return r, nil
}

// eightBitOnly refuses the ways to resize that are not held to 8 bits.
func eightBitOnly(m manifest.Manifest) error {
	switch m.Input.Resize {
	case "", manifest.Pillow, manifest.OpenCV:
		return nil
	}
	return fmt.Errorf("input.resize: %q, must be %s or %s for family %s", m.Input.Resize, manifest.Pillow, manifest.OpenCV, m.Family)
}

// Input is [1, 3, height, width], whatever the page.
func (r *rtDETR) Input(_, _ int) []int64 {
	return []int64{1, 3, int64(r.m.Input.Height), int64(r.m.Input.Width)}
}

// Extra is the input's own size as that of the page, where the model asks.
func (r *rtDETR) Extra() []Extra {
	if r.options.Sizes == "" {
		return nil
	}
	return []Extra{{Name: r.options.Sizes, Tensor: Tensor{Shape: []int64{1, 2}, Ints: []int64{int64(r.m.Input.Width), int64(r.m.Input.Height)}}}}
}

// Outputs are logits and boxes, or labels, boxes and scores.
func (r *rtDETR) Outputs() []string {
	if r.options.Logits != "" {
		return []string{r.options.Logits, r.options.Boxes}
	}
	return []string{r.options.Labels, r.options.Boxes, r.options.Scores}
}

// OutputShapes are left to the runtime: the number of queries is the model's.
func (r *rtDETR) OutputShapes() [][]int64 { return nil }

func (r *rtDETR) expects() []Port {
	boxes := Port{r.options.Boxes, "float32", []int64{1, -1, 4}}
	if r.options.Logits != "" {
		return []Port{{r.options.Logits, "float32", []int64{1, -1, int64(len(r.m.Classes))}}, boxes}
	}
	return []Port{{r.options.Labels, "int64", []int64{1, -1}}, boxes, {r.options.Scores, "float32", []int64{1, -1}}}
}

// Preprocess stretches the page to the input.
func (r *rtDETR) Preprocess(page pageimage.Rows, dst []float32, scratch *Scratch) (Geometry, error) {
	in := r.m.Input
	if len(dst) != 3*in.Width*in.Height {
		return Geometry{}, fmt.Errorf("tensor of %d values for an input of %d", len(dst), 3*in.Width*in.Height)
	}
	w, h := page.Size()
	to := canvas{dst: dst, width: in.Width, height: in.Height, levels: r.levels, reversed: in.Channels == "bgr"}
	if err := shrink8(page, r.resize, in.Width, in.Height, &scratch.eight, to.put); err != nil {
		return Geometry{}, err
	}
	return Geometry{Width: w, Height: h}, nil
}

// Decode scales the boxes from the score floor on to the page, and drops all
// but the best on each object if the manifest says so: the model itself is
// trained to need no suppression.
func (r *rtDETR) Decode(outputs []Tensor, g Geometry) ([]schemas.Box, error) {
	if len(outputs) != len(r.Outputs()) {
		return nil, fmt.Errorf("%w: %d outputs, want %d", ErrOutput, len(outputs), len(r.Outputs()))
	}
	var found []candidate
	var err error
	if r.options.Logits != "" {
		found, err = r.fromLogits(outputs, g)
	} else {
		found, err = r.fromLabels(outputs, g)
	}
	if err != nil {
		return nil, err
	}
	found = best(found, r.m.NMS.Candidates)
	return finish(suppress(found, r.m.Classes, r.m.NMS), r.m.Classes), nil
}

func (r *rtDETR) fromLogits(outputs []Tensor, g Geometry) ([]candidate, error) {
	classes := len(r.m.Classes)
	if err := fits(r.options.Logits, outputs[0], 1, -1, int64(classes)); err != nil {
		return nil, fmt.Errorf("%w (the manifest names %d classes)", err, classes)
	}
	queries := int(outputs[0].Shape[1])
	if err := fits(r.options.Boxes, outputs[1], 1, int64(queries), 4); err != nil {
		return nil, err
	}
	logits, boxes := outputs[0].Data, outputs[1].Data
	w, h := float64(g.Width), float64(g.Height)
	var found []candidate
	for i, v := range logits {
		score := 1 / (1 + math.Exp(-float64(v)))
		if !(score >= r.m.ScoreFloor) {
			continue
		}
		b := boxes[4*(i/classes):]
		x, y, bw, bh := float64(b[0]), float64(b[1]), float64(b[2])/2, float64(b[3])/2
		found = append(found, candidate{score: score, class: i % classes, box: [4]float64{
			clamp((x-bw)*w, w), clamp((y-bh)*h, h), clamp((x+bw)*w, w), clamp((y+bh)*h, h),
		}})
	}
	return best(found, queries), nil
}

func (r *rtDETR) fromLabels(outputs []Tensor, g Geometry) ([]candidate, error) {
	labels, boxes, scores := outputs[0], outputs[1], outputs[2]
	if err := fitsInts(r.options.Labels, labels, 1, -1); err != nil {
		return nil, err
	}
	n := labels.Shape[1]
	if err := errors.Join(fits(r.options.Boxes, boxes, 1, n, 4), fits(r.options.Scores, scores, 1, n)); err != nil {
		return nil, err
	}
	w, h := float64(g.Width), float64(g.Height)
	fx, fy := w/float64(r.m.Input.Width), h/float64(r.m.Input.Height)
	var found []candidate
	for i, v := range scores.Data {
		if !(float64(v) >= r.m.ScoreFloor) {
			continue
		}
		class := labels.Ints[i]
		if err := inClasses(class, r.m.Classes); err != nil {
			return nil, err
		}
		b := boxes.Data[4*i:]
		found = append(found, candidate{score: min(float64(v), 1), class: int(class), box: [4]float64{
			clamp(float64(b[0])*fx, w), clamp(float64(b[1])*fy, h), clamp(float64(b[2])*fx, w), clamp(float64(b[3])*fy, h),
		}})
	}
	return found, nil
}

// inClasses refuses a class that the manifest does not name.
func inClasses(class int64, classes []string) error {
	if class < 0 || class >= int64(len(classes)) {
		return fmt.Errorf("%w: a box of class %d, while the manifest names %d classes", ErrOutput, class, len(classes))
	}
	return nil
}

// best are the n best candidates, best first. Equal scores keep the order of
// the outputs, so the same outputs give the same boxes.
func best(c []candidate, n int) []candidate {
	slices.SortStableFunc(c, func(a, b candidate) int { return cmp.Compare(b.score, a.score) })
	return c[:min(len(c), n)]
}
