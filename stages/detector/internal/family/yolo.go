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

// yolo is YOLO as Ultralytics exports it (v8, v9, 11, …; v10, DocLayout-YOLO).
// The page keeps its proportions: it is scaled to fit the input and put in its
// middle, with grey around it. Values are v/255. Models come in two forms:
//
//   - without suppression inside (v8-style): one output [1, 4 + classes,
//     cells], centre and size in pixels of the input, then a score for each
//     class. A cell is a box of its best class;
//   - with it, or trained to need none (v10-style, or exported with nms=True):
//     one output [1, n, 6], corners in pixels of the input, score and class.
//     Rows that are not used have the score 0.
type yolo struct {
	m       manifest.Manifest
	options yoloOptions
	levels  *levels
	resize  string
}

type yoloOptions struct {
	Output string `json:"output"` // its name
	// EndToEnd says that the model puts out boxes, not cells.
	EndToEnd bool `json:"end_to_end,omitempty"`
	// Strides are those of the cells; nil for 8, 16 and 32.
	Strides []int `json:"strides,omitempty"`
}

// yoloGrey is the level around the page.
const yoloGrey = 114

func newYOLO(m manifest.Manifest) (*yolo, error) {
	y := &yolo{m: m, levels: normalised(m.Input), resize: cmp.Or(m.Input.Resize, manifest.OpenCV)}
	if err := readOptions(m, &y.options); err != nil {
		return nil, err
	}
	var faults []error
	if y.options.Output == "" {
		faults = append(faults, errors.New("options.output: the name of the output is missing"))
	}
	if y.options.EndToEnd && y.options.Strides != nil {
		faults = append(faults, errors.New("options.strides: an end-to-end model has no cells"))
	}
	if y.options.Strides == nil {
		y.options.Strides = []int{8, 16, 32}
	}
	for i, s := range y.options.Strides {
		if s < 1 || s > 1024 || m.Input.Width%s != 0 || m.Input.Height%s != 0 {
			if y.options.EndToEnd {
				continue
			}
			faults = append(faults, fmt.Errorf("options.strides[%d]: %d, must be 1 to 1024 and divide the input's %d × %d", i, s, m.Input.Width, m.Input.Height))
		}
	}
	if err := errors.Join(append(faults, sameSize(m), eightBitOnly(m))...); err != nil {
		return nil, err
	}
	return y, nil
}

// Input is [1, 3, height, width], whatever the page.
func (y *yolo) Input(_, _ int) []int64 {
	return []int64{1, 3, int64(y.m.Input.Height), int64(y.m.Input.Width)}
}

// Extra is nothing.
func (y *yolo) Extra() []Extra { return nil }

// Outputs is the one output.
func (y *yolo) Outputs() []string { return []string{y.options.Output} }

// OutputShapes is known where cells are put out; how many boxes a model puts
// out is its own affair.
func (y *yolo) OutputShapes() [][]int64 {
	if y.options.EndToEnd {
		return nil
	}
	return [][]int64{{1, int64(4 + len(y.m.Classes)), y.cells()}}
}

func (y *yolo) cells() int64 {
	n := 0
	for _, s := range y.options.Strides {
		n += y.m.Input.Width / s * (y.m.Input.Height / s)
	}
	return int64(n)
}

func (y *yolo) expects() []Port {
	if y.options.EndToEnd {
		return []Port{{y.options.Output, "float32", []int64{1, -1, 6}}}
	}
	return []Port{{y.options.Output, "float32", y.OutputShapes()[0]}}
}

// place is where a page of w × h goes in the input: its size there, and the
// grey to its left and above it. Sides are rounded half to even and each by
// itself, as Python does; the odd pixel of grey goes right or below.
func (y *yolo) place(w, h int) (width, height, left, top int) {
	in := y.m.Input
	gain := min(float64(in.Height)/float64(h), float64(in.Width)/float64(w))
	width = max(int(math.RoundToEven(float64(w)*gain)), 1)
	height = max(int(math.RoundToEven(float64(h)*gain)), 1)
	left = int(math.RoundToEven(float64(in.Width-width)/2 - 0.1))
	top = int(math.RoundToEven(float64(in.Height-height)/2 - 0.1))
	return width, height, left, top
}

// Preprocess puts the page in the middle of the input.
func (y *yolo) Preprocess(page pageimage.Rows, dst []float32, scratch *Scratch) (Geometry, error) {
	in := y.m.Input
	if len(dst) != 3*in.Width*in.Height {
		return Geometry{}, fmt.Errorf("tensor of %d values for an input of %d", len(dst), 3*in.Width*in.Height)
	}
	w, h := page.Size()
	width, height, left, top := y.place(w, h)
	to := canvas{dst: dst, width: in.Width, height: in.Height, left: left, top: top, levels: y.levels, reversed: in.Channels == "bgr"}
	to.fill(yoloGrey)
	if err := shrink8(page, y.resize, width, height, &scratch.eight, to.put); err != nil {
		return Geometry{}, err
	}
	return Geometry{Width: w, Height: h}, nil
}

// Decode suppresses in pixels of the input, as the models' own code does, and
// only then takes boxes to the page: what hangs over the page's edge counts
// when boxes are compared.
func (y *yolo) Decode(outputs []Tensor, g Geometry) ([]schemas.Box, error) {
	if len(outputs) != 1 {
		return nil, fmt.Errorf("%w: %d outputs, want 1", ErrOutput, len(outputs))
	}
	read := y.fromCells
	if y.options.EndToEnd {
		read = y.fromBoxes
	}
	found, err := read(outputs[0])
	if err != nil {
		return nil, err
	}
	kept := suppress(best(found, y.m.NMS.Candidates), y.m.Classes, y.m.NMS)
	width, height, left, top := y.place(g.Width, g.Height)
	w, h := float64(g.Width), float64(g.Height)
	fx, fy := w/float64(width), h/float64(height)
	for i := range kept {
		b := &kept[i].box
		*b = [4]float64{
			clamp((b[0]-float64(left))*fx, w), clamp((b[1]-float64(top))*fy, h),
			clamp((b[2]-float64(left))*fx, w), clamp((b[3]-float64(top))*fy, h),
		}
	}
	return finish(kept, y.m.Classes), nil
}

func (y *yolo) fromCells(o Tensor) ([]candidate, error) {
	classes := len(y.m.Classes)
	if err := fits(y.options.Output, o, 1, int64(4+classes), y.cells()); err != nil {
		return nil, fmt.Errorf("%w (4 for the box and one for each of the %d classes of the manifest, cells for an input of %d × %d)", err, classes, y.m.Input.Width, y.m.Input.Height)
	}
	cells := int(o.Shape[2])
	var found []candidate
	for i := range cells {
		// The first of equal classes.
		class, score := -1, float32(y.m.ScoreFloor)
		for c := range classes {
			if s := o.Data[(4+c)*cells+i]; s > score || class < 0 && s >= score {
				class, score = c, s
			}
		}
		if class < 0 {
			continue
		}
		cx, cy := float64(o.Data[i]), float64(o.Data[cells+i])
		w, h := float64(o.Data[2*cells+i])/2, float64(o.Data[3*cells+i])/2
		found = append(found, candidate{score: min(float64(score), 1), class: class, box: [4]float64{cx - w, cy - h, cx + w, cy + h}})
	}
	return found, nil
}

func (y *yolo) fromBoxes(o Tensor) ([]candidate, error) {
	if err := fits(y.options.Output, o, 1, -1, 6); err != nil {
		return nil, err
	}
	floor := float32(y.m.ScoreFloor)
	var found []candidate
	for i := range int(o.Shape[1]) {
		row := o.Data[6*i : 6*i+6]
		if !(row[4] >= floor) {
			continue
		}
		// A class that is not a number is none: converted it could be any.
		if !(row[5] > -1 && row[5] < float32(1<<24)) {
			return nil, fmt.Errorf("%w: a box of class %v", ErrOutput, row[5])
		}
		class := int64(row[5])
		if err := inClasses(class, y.m.Classes); err != nil {
			return nil, err
		}
		box := [4]float64{float64(row[0]), float64(row[1]), float64(row[2]), float64(row[3])}
		found = append(found, candidate{score: min(float64(row[4]), 1), class: int(class), box: box})
	}
	return found, nil
}
