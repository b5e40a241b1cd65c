package family

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"leafcutter/stages/detector/internal/manifest"
)

// Port is an input or output as a model file declares it.
type Port struct {
	Name string
	Type string // "float32", "int64", or whatever else ONNX Runtime calls it
	// Shape has -1 for each size that the file leaves open, and is empty
	// where the file says nothing.
	Shape []int64
}

func (p Port) String() string { return fmt.Sprintf("%s %s %s", p.Name, p.Type, shapeString(p.Shape)) }

// Graph is what a model file says of itself.
type Graph struct{ Inputs, Outputs []Port }

func named(ports []Port, name string) (Port, bool) {
	i := slices.IndexFunc(ports, func(p Port) bool { return p.Name == name })
	if i < 0 {
		return Port{}, false
	}
	return ports[i], true
}

func list(ports []Port) string {
	var s []string
	for _, p := range ports {
		s = append(s, p.String())
	}
	return strings.Join(s, ", ")
}

// compatible says whether sizes agree; -1 and an empty shape agree with all.
func compatible(has, want []int64) bool {
	if len(has) == 0 {
		return true
	}
	if len(has) != len(want) {
		return false
	}
	for i := range has {
		if has[i] >= 0 && want[i] >= 0 && has[i] != want[i] {
			return false
		}
	}
	return true
}

// Check says everything in which a model file is not what its manifest says,
// without running it. Nil does not promise that it is: a file may leave its
// sizes open.
func Check(m manifest.Manifest, g Graph) error {
	f, err := New(m)
	if err != nil {
		return err
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	taken := map[string]bool{m.Input.Name: true}
	if in, ok := named(g.Inputs, m.Input.Name); !ok {
		fault("input.name: the model has no input %q; it has %s", m.Input.Name, list(g.Inputs))
	} else {
		faults = append(faults, checkInput(m, f, in)...)
	}
	for _, e := range f.Extra() {
		taken[e.Name] = true
		if in, ok := named(g.Inputs, e.Name); !ok {
			fault("the model has no second input %q; it has %s", e.Name, list(g.Inputs))
		} else if in.Type != "int64" || !compatible(in.Shape, e.Shape) {
			fault("its input is %s, want %s", in, Port{e.Name, "int64", e.Shape})
		}
	}
	for _, in := range g.Inputs {
		if !taken[in.Name] {
			fault("the model wants another input, %s, which the family %s does not give", in, m.Family)
		}
	}
	for _, want := range f.expects() {
		out, ok := named(g.Outputs, want.Name)
		switch {
		case !ok:
			fault("the model has no output %q; it has %s", want.Name, list(g.Outputs))
		case out.Type != want.Type || !compatible(out.Shape, want.Shape):
			fault("its output is %s, want %s for family %s and the %d classes of the manifest", out, want, m.Family, len(m.Classes))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	if like, classes, err := Infer(g); err == nil {
		switch {
		case like.Family != m.Family:
			fault("its inputs and outputs are those of the family %s", like.Family)
		case classes > 0 && classes != len(m.Classes):
			fault("classes: the model knows %d, the manifest names %d", classes, len(m.Classes))
		}
	}
	return errors.Join(faults...)
}

func checkInput(m manifest.Manifest, f Family, in Port) []error {
	var faults []error
	if in.Type != "float32" {
		faults = append(faults, fmt.Errorf("its input is %s, want float32 (export it without half precision)", in))
	}
	if !m.Input.Varies() {
		if want := f.Input(1, 1); !compatible(in.Shape, want) {
			faults = append(faults, fmt.Errorf("its input is %s, want %s", in, shapeString(want)))
		}
		if m.Batching.MaxSize > 1 && len(in.Shape) > 0 && in.Shape[0] >= 0 {
			faults = append(faults, fmt.Errorf("dynamic_batching: its input is %s, which takes %d in one inference: export it with a dynamic first axis, or leave dynamic_batching out", in, in.Shape[0]))
		}
		return faults
	}
	if want := []int64{3, -1, -1}; !compatible(in.Shape, want) {
		return append(faults, fmt.Errorf("its input is %s, want %s", in, shapeString(want)))
	}
	if len(in.Shape) == 3 && (in.Shape[1] >= 0 || in.Shape[2] >= 0) {
		faults = append(faults, fmt.Errorf("its input is %s: the size is fixed, while pages are scaled to sizes of their own: export it with dynamic axes", in))
	}
	return faults
}

// ErrUnknown means that a model's inputs and outputs are of no family.
var ErrUnknown = errors.New("inputs and outputs of no family that is known")

// Infer makes of a model file as much of a manifest as the file tells: family,
// input and options, and suppression where the model has none inside. classes
// is how many it knows, or 0 where the file does not say. Whether levels are
// normalised, and in which order channels come, no file tells: RGB is assumed.
func Infer(g Graph) (m manifest.Manifest, classes int, err error) {
	image := slices.IndexFunc(g.Inputs, func(p Port) bool { return p.Type == "float32" && len(p.Shape) >= 3 })
	if image < 0 {
		return m, 0, fmt.Errorf("%w: no float32 input that could be a page; the model has %s", ErrUnknown, list(g.Inputs))
	}
	in := g.Inputs[image]
	m.Input = manifest.Input{Name: in.Name, Channels: "rgb"}
	m.NMS = manifest.NMS{IoU: 1, CrossClassIoU: 1, Candidates: 1000, MaxBoxes: 300}
	if len(in.Shape) == 4 {
		m.Input.Height, m.Input.Width = int(max(in.Shape[2], 0)), int(max(in.Shape[3], 0))
	}
	for _, guess := range []func(Graph, Port, *manifest.Manifest) (int, bool){inferRCNN, inferRTDETR, inferPicoDet, inferYOLO} {
		if classes, ok := guess(g, in, &m); ok {
			return m, classes, nil
		}
	}
	return m, 0, fmt.Errorf("%w: the model has the inputs %s and the outputs %s", ErrUnknown, list(g.Inputs), list(g.Outputs))
}

// find is the first output of a type whose shape agrees and that is not taken.
func find(g Graph, typ string, taken []string, shape ...int64) (Port, bool) {
	for _, o := range g.Outputs {
		if o.Type == typ && len(o.Shape) == len(shape) && compatible(o.Shape, shape) && !slices.Contains(taken, o.Name) {
			return o, true
		}
	}
	return Port{}, false
}

func inferRCNN(g Graph, in Port, m *manifest.Manifest) (int, bool) {
	boxes, okBoxes := find(g, "float32", nil, -1, 4)
	classes, okClasses := find(g, "int64", nil, -1)
	scores, okScores := scoresOf(g)
	if len(in.Shape) != 3 || !okBoxes || !okClasses || !okScores {
		return 0, false
	}
	m.Family = FasterRCNN
	options := fmt.Sprintf(`{"boxes":%q,"classes":%q,"scores":%q`, boxes.Name, classes.Name, scores.Name)
	if masks, ok := find(g, "float32", nil, -1, 1, -1, -1); ok {
		m.Family = MaskRCNN
		options += fmt.Sprintf(`,"masks":%q`, masks.Name)
	}
	m.Options = []byte(options + "}")
	m.Input.ShortestEdge, m.Input.LongestEdge, m.Input.Channels = 800, 1333, "bgr" // Detectron2's defaults
	return 0, true
}

// scoresOf is the output of one float32 a box. Detectron2's image_size has one
// dimension too, but it is int64, or has two values.
func scoresOf(g Graph) (Port, bool) {
	for _, o := range g.Outputs {
		if o.Type == "float32" && len(o.Shape) == 1 && o.Shape[0] != 2 {
			return o, true
		}
	}
	return Port{}, false
}

func inferRTDETR(g Graph, in Port, m *manifest.Manifest) (int, bool) {
	// Of a model of four classes both outputs have four columns.
	var logitNames []string
	for _, o := range g.Outputs {
		if strings.Contains(o.Name, "logits") {
			logitNames = append(logitNames, o.Name)
		}
	}
	boxes, ok := find(g, "float32", logitNames, -1, -1, 4)
	if !ok || len(in.Shape) != 4 {
		return 0, false
	}
	if labels, ok := find(g, "int64", nil, -1, -1); ok {
		scores, okScores := find(g, "float32", nil, -1, -1)
		sizes := slices.IndexFunc(g.Inputs, func(p Port) bool { return p.Type == "int64" && compatible(p.Shape, []int64{1, 2}) })
		if !okScores || sizes < 0 {
			return 0, false
		}
		m.Options = fmt.Appendf(nil, `{"labels":%q,"boxes":%q,"scores":%q,"sizes":%q}`, labels.Name, boxes.Name, scores.Name, g.Inputs[sizes].Name)
		m.Family = RTDETR
		return 0, true
	}
	logits, ok := find(g, "float32", []string{boxes.Name}, -1, boxes.Shape[1], -1)
	if !ok || len(g.Outputs) > 2 && !strings.Contains(logits.Name, "logits") {
		return 0, false
	}
	m.Options = fmt.Appendf(nil, `{"logits":%q,"boxes":%q}`, logits.Name, boxes.Name)
	m.Family = RTDETR
	return int(max(logits.Shape[2], 0)), true
}

func inferYOLO(g Graph, in Port, m *manifest.Manifest) (int, bool) {
	if len(in.Shape) != 4 || len(g.Inputs) != 1 || len(g.Outputs) == 0 {
		return 0, false
	}
	out := g.Outputs[0] // others are of segmentation
	if out.Type != "float32" || len(out.Shape) != 3 {
		return 0, false
	}
	m.Family = YOLO
	if out.Shape[2] == 6 {
		m.Options = fmt.Appendf(nil, `{"output":%q,"end_to_end":true}`, out.Name)
		return 0, true
	}
	if out.Shape[1] == 6 && out.Shape[2] < 0 || out.Shape[1] >= 0 && out.Shape[1] <= 4 {
		return 0, false
	}
	m.Options = fmt.Appendf(nil, `{"output":%q}`, out.Name)
	m.NMS.IoU = 0.7
	return int(max(out.Shape[1]-4, 0)), true
}

// inferPicoDet wants pairs of outputs, a pair a stride: scores and boxes of as
// many cells as the stride's grid has.
func inferPicoDet(g Graph, in Port, m *manifest.Manifest) (int, bool) {
	if len(in.Shape) != 4 || m.Input.Width == 0 || m.Input.Height == 0 || len(g.Outputs) < 4 || len(g.Outputs)%2 != 0 {
		return 0, false
	}
	var heads []string
	classes, sides := int64(-1), int64(-1)
	for stride := 4; stride <= 128; stride *= 2 {
		cells := int64((m.Input.Width + stride - 1) / stride * ((m.Input.Height + stride - 1) / stride))
		var pair []Port
		for _, o := range g.Outputs {
			if o.Type == "float32" && len(o.Shape) == 3 && o.Shape[1] == cells && o.Shape[2] > 0 {
				pair = append(pair, o)
			}
		}
		if len(pair) != 2 {
			continue
		}
		if classes >= 0 && (pair[0].Shape[2] != classes || pair[1].Shape[2] != sides) {
			return 0, false
		}
		classes, sides = pair[0].Shape[2], pair[1].Shape[2]
		heads = append(heads, fmt.Sprintf(`{"stride":%d,"scores":%q,"boxes":%q}`, stride, pair[0].Name, pair[1].Name))
	}
	if 2*len(heads) != len(g.Outputs) || sides < 8 || sides%4 != 0 {
		return 0, false
	}
	m.Family = PicoDet
	m.Input.Resize = manifest.Linear
	m.Input.Mean, m.Input.Std = [3]float64{0.485, 0.456, 0.406}, [3]float64{0.229, 0.224, 0.225} // PaddleDetection's
	m.NMS.IoU, m.NMS.CrossClassIoU = 0.5, 0.5
	m.Options = fmt.Appendf(nil, `{"bins":%d,"heads":[%s]}`, sides/4, strings.Join(heads, ","))
	return int(classes), true
}
