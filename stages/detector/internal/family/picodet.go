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

// picoDet is PicoDet (Yu et al. 2021, arXiv 2111.00902) as PaddleDetection
// exports it without its post-processing. Per stride s there are two outputs
// over a grid of ceil(height/s) × ceil(width/s) cells, row by row:
//
//   - scores [1, cells, classes], probabilities;
//   - boxes [1, cells, 4·bins]: for each side, left, top, right, bottom, a
//     distribution over the distances 0, s, … (bins-1)·s from the cell's
//     centre, as logits (Generalized Focal Loss, Li et al. 2020, arXiv
//     2006.04388, equation 6). The distance is its expectation.
type picoDet struct {
	m       manifest.Manifest
	options picoDetOptions
	scale   [3]float32 // value·scale + offset, per channel of a pixel
	offset  [3]float32
}

type picoDetOptions struct {
	Bins  int           `json:"bins"`
	Heads []picoDetHead `json:"heads"`
}

type picoDetHead struct {
	Stride int    `json:"stride"`
	Scores string `json:"scores"` // output names
	Boxes  string `json:"boxes"`
}

func newPicoDet(m manifest.Manifest) (*picoDet, error) {
	p := &picoDet{m: m}
	if err := readOptions(m, &p.options); err != nil {
		return nil, err
	}
	if err := errors.Join(p.options.validate(), sameSize(m), p.validateInput()); err != nil {
		return nil, err
	}
	for c := range p.scale {
		p.scale[c] = float32(1 / (255 * m.Input.Std[c]))
		p.offset[c] = float32(-m.Input.Mean[c] / m.Input.Std[c])
	}
	return p, nil
}

func (p *picoDet) validateInput() error {
	var faults []error
	in := p.m.Input
	if in.Resize != manifest.Area && in.Resize != manifest.Linear {
		faults = append(faults, fmt.Errorf("input.resize: %q, must be %s or %s for family %s", in.Resize, manifest.Area, manifest.Linear, PicoDet))
	}
	if !in.Normalises() {
		faults = append(faults, errors.New("input.mean, input.std: missing"))
	}
	return errors.Join(faults...)
}

func (o picoDetOptions) validate() error {
	var faults []error
	if o.Bins < 2 || o.Bins > 64 {
		faults = append(faults, fmt.Errorf("options.bins: %d, must be 2 to 64", o.Bins))
	}
	if len(o.Heads) == 0 {
		faults = append(faults, errors.New("options.heads: missing"))
	}
	for i, h := range o.Heads {
		if h.Stride < 1 || h.Stride > 1024 {
			faults = append(faults, fmt.Errorf("options.heads[%d].stride: %d, must be 1 to 1024", i, h.Stride))
		}
		if h.Scores == "" || h.Boxes == "" {
			faults = append(faults, fmt.Errorf("options.heads[%d]: names of both outputs, scores and boxes, are wanted", i))
		}
	}
	return errors.Join(faults...)
}

// Input is [1, 3, height, width], whatever the page.
func (p *picoDet) Input(_, _ int) []int64 {
	return []int64{1, 3, int64(p.m.Input.Height), int64(p.m.Input.Width)}
}

// Extra is nothing.
func (p *picoDet) Extra() []Extra { return nil }

// Outputs are scores and boxes, head by head.
func (p *picoDet) Outputs() []string {
	var names []string
	for _, h := range p.options.Heads {
		names = append(names, h.Scores, h.Boxes)
	}
	return names
}

// OutputShapes are fixed.
func (p *picoDet) OutputShapes() [][]int64 {
	var shapes [][]int64
	for _, h := range p.options.Heads {
		w, hh := p.grid(h.Stride)
		cells := int64(w * hh)
		shapes = append(shapes, []int64{1, cells, int64(len(p.m.Classes))}, []int64{1, cells, int64(4 * p.options.Bins)})
	}
	return shapes
}

func (p *picoDet) grid(stride int) (width, height int) {
	return (p.m.Input.Width + stride - 1) / stride, (p.m.Input.Height + stride - 1) / stride
}

func (p *picoDet) expects() []Port {
	var ports []Port
	shapes := p.OutputShapes()
	for i, name := range p.Outputs() {
		ports = append(ports, Port{name, "float32", shapes[i]})
	}
	return ports
}

// Preprocess shrinks the page to the model's input, not keeping its aspect
// ratio, and normalises it.
func (p *picoDet) Preprocess(page pageimage.Rows, dst []float32, scratch *Scratch) (Geometry, error) {
	w, h := page.Size()
	in := p.m.Input
	if len(dst) != 3*in.Width*in.Height {
		return Geometry{}, fmt.Errorf("tensor of %d values for an input of %d", len(dst), 3*in.Width*in.Height)
	}
	to := planes{dst: dst, width: in.Width, height: in.Height, scale: p.scale, offset: p.offset, reversed: in.Channels == "bgr", linear: in.Resize == manifest.Linear}
	if err := shrink(page, to, scratch); err != nil {
		return Geometry{}, err
	}
	return Geometry{Width: w, Height: h}, nil
}

// Decode keeps the cells at or above the score floor, computes only their
// boxes, and drops all but the best on each object.
func (p *picoDet) Decode(outputs []Tensor, g Geometry) ([]schemas.Box, error) {
	want := p.OutputShapes()
	if len(outputs) != len(want) {
		return nil, fmt.Errorf("%w: %d outputs, want %d", ErrOutput, len(outputs), len(want))
	}
	for i, o := range outputs {
		if !slices.Equal(o.Shape, want[i]) || len(o.Data) != int(want[i][1]*want[i][2]) {
			return nil, fmt.Errorf("%w: %s has the shape %v, want %v", ErrOutput, p.Outputs()[i], o.Shape, want[i])
		}
	}
	candidates := p.candidates(outputs)
	fx, fy := float64(g.Width)/float64(p.m.Input.Width), float64(g.Height)/float64(p.m.Input.Height)
	for i := range candidates {
		c := &candidates[i]
		side := p.sides(outputs[2*c.head+1].Data, *c)
		stride := p.options.Heads[c.head].Stride
		gridWidth, _ := p.grid(stride)
		x := (float64(c.cell%gridWidth) + 0.5) * float64(stride)
		y := (float64(c.cell/gridWidth) + 0.5) * float64(stride)
		c.box = [4]float64{
			clamp((x-side[0])*fx, float64(g.Width)), clamp((y-side[1])*fy, float64(g.Height)),
			clamp((x+side[2])*fx, float64(g.Width)), clamp((y+side[3])*fy, float64(g.Height)),
		}
	}
	return finish(suppress(candidates, p.m.Classes, p.m.NMS), p.m.Classes), nil
}

// candidates are the cells and classes from the score floor on, at most
// NMS.Candidates of them, best first. Equal scores keep the order of the
// outputs, so the same outputs give the same boxes.
func (p *picoDet) candidates(outputs []Tensor) []candidate {
	floor := float32(p.m.ScoreFloor)
	classes := len(p.m.Classes)
	var found []candidate
	for head := range p.options.Heads {
		for i, s := range outputs[2*head].Data {
			if s >= floor { // false for NaN too
				found = append(found, candidate{score: min(float64(s), 1), head: head, cell: i / classes, class: i % classes})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return cmp.Compare(b.score, a.score) })
	return found[:min(len(found), p.m.NMS.Candidates)]
}

// sides are the distances to left, top, right and bottom, in pixels of the
// input.
func (p *picoDet) sides(boxes []float32, c candidate) [4]float64 {
	bins := p.options.Bins
	logits := boxes[c.cell*4*bins : (c.cell+1)*4*bins]
	var out [4]float64
	for side := range out {
		l := logits[side*bins : (side+1)*bins]
		top := float64(slices.Max(l))
		sum, expectation := 0.0, 0.0
		for i, v := range l {
			e := math.Exp(float64(v) - top)
			sum += e
			expectation += e * float64(i)
		}
		out[side] = expectation / sum * float64(p.options.Heads[c.head].Stride)
	}
	return out
}

func clamp(v, limit float64) float64 { return min(max(v, 0), limit) }
