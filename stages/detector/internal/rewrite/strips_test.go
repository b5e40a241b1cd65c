package rewrite

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"leafcutter/stages/detector/internal/onnx"
	"leafcutter/stages/detector/internal/session"
)

func integer(name string, v uint64) []byte {
	return text(nil, 5, string(varint(varint(text(nil, 1, name), 3, v), 20, 2)))
}

func integers(name string, v ...uint64) []byte {
	a := text(nil, 1, name)
	for _, v := range v {
		a = varint(a, 8, v)
	}
	return text(nil, 5, string(varint(a, 20, 7)))
}

func word(name, v string) []byte {
	return text(nil, 5, string(varint(text(text(nil, 1, name), 4, v), 20, 3)))
}

// image is an input of this shape, where 0 is a size that varies.
func (m *model) image(name string, shape ...uint64) *model {
	var dims []byte
	for _, d := range shape {
		dim := varint(nil, 1, d)
		if d == 0 {
			dim = text(nil, 2, "any")
		}
		dims = text(dims, 1, string(dim))
	}
	tensor := text(varint(nil, 1, 1), 2, string(dims))
	m.graph = text(m.graph, 11, string(text(text(nil, 1, name), 2, string(text(nil, 1, string(tensor))))))
	return m
}

// weights is an initializer of random numbers.
func (m *model) weights(name string, from, to float32, dims ...uint64) *model {
	n := uint64(1)
	for _, d := range dims {
		n *= d
	}
	random := rand.New(rand.NewPCG(n, uint64(len(name))))
	v := make([]float32, n)
	for i := range v {
		v[i] = from + (to-from)*random.Float32()
	}
	m.graph = text(m.graph, 5, string(tensor(name, dims, v...)))
	return m
}

// conv is a convolution or, with no channels, a pooling, and what follows it.
type conv struct {
	channels              uint64
	kernel, stride        uint64
	above, below          uint64
	eachChannel           bool
	normalised            bool
	activation            string
	attributes            []byte // more of them
	withoutKernel, shared bool   // an attribute left out; a value used once more
}

// layers appends convolutions to the value "image" of three channels; the
// result of each is in c0, c1 and so on, and of the last in the name returned.
func (m *model) layers(all ...conv) (*model, string) {
	value, channels := "image", uint64(3)
	for i, c := range all {
		out := fmt.Sprintf("c%d", i)
		attributes := slices.Concat(integers("strides", c.stride, c.stride), integers("pads", c.above, c.kernel/2, c.below, c.kernel/2), c.attributes)
		if !c.withoutKernel {
			attributes = append(attributes, integers("kernel_shape", c.kernel, c.kernel)...)
		}
		if c.channels == 0 {
			m.nodeWith(attributes, "MaxPool", out, value)
		} else {
			each := channels
			if c.eachChannel {
				each, attributes = 1, append(attributes, integer("group", channels)...)
			}
			m.weights(out+".w", -0.3, 0.3, c.channels, each, c.kernel, c.kernel).weights(out+".b", -1, 1, c.channels)
			m.nodeWith(attributes, "Conv", out, value, out+".w", out+".b")
			channels = c.channels
		}
		value = out
		if c.normalised {
			var of []string
			for _, p := range []string{"scale", "shift", "mean", "variance"} {
				of = append(of, out+"."+p)
				m.weights(out+"."+p, 0.5, 1.5, channels)
			}
			m.node("BatchNormalization", out+".n", append([]string{value}, of...)...)
			value = out + ".n"
		}
		switch c.activation {
		case "":
		case "hard-swish":
			m.nodeWith(append(float("alpha", 1.0/6), float("beta", 0.5)...), "HardSigmoid", out+".g", value)
			m.node("Mul", out+".a", value, out+".g")
			value = out + ".a"
		case "swish":
			m.node("Sigmoid", out+".g", value)
			m.node("Mul", out+".a", out+".g", value)
			value = out + ".a"
		case "Clip":
			m.initial(out+".low", -0.5).initial(out+".high", 2)
			m.node("Clip", out+".a", value, out+".low", out+".high")
			value = out + ".a"
		default:
			m.node(c.activation, out+".a", value)
			value = out + ".a"
		}
		if c.shared {
			m.node("GlobalMaxPool", out+".s", value)
		}
	}
	return m, value
}

func modern() *model { return &model{opset: 13} }

// outputs are what a model makes of a random page.
func outputs(t *testing.T, r *session.Runtime, model []byte, names []string, shape []int64) [][]float32 {
	t.Helper()
	file := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(file, model, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(session.Config{Model: file, Inputs: []string{"image"}, Outputs: names, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	slot, err := r.NewSlot(nil, nil)
	if err == nil {
		err = slot.Resize(shape)
	}
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range slot.Input {
		slot.Input[i] = random.Float32()*4 - 2
	}
	if err := s.Run(t.Context(), slot); err != nil {
		t.Fatal(err)
	}
	var out [][]float32
	for _, o := range slot.Outputs {
		out = append(out, slices.Clone(o.Data))
	}
	if err := errors.Join(slot.Forget(), slot.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// In strips, layers give the same in every bit.
func TestStripsGiveTheSame(t *testing.T) {
	r, err := session.Load(filepath.Join("..", "..", "..", "..", "build", "lib", session.LibraryFile()))
	if err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	halves := func(kernel, above, below uint64) conv {
		return conv{channels: 16, kernel: kernel, stride: 2, above: above, below: below, eachChannel: true, activation: "hard-swish"}
	}
	for name, c := range map[string]struct {
		height uint64
		layers []conv
		cut    int // layers in strips
	}{
		"as in mobile networks": {640, []conv{
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1, normalised: true, activation: "hard-swish"},
			{channels: 16, kernel: 3, stride: 1, above: 1, below: 1, normalised: true, activation: "hard-swish", eachChannel: true},
			{channels: 32, kernel: 1, stride: 1, normalised: true, activation: "hard-swish"},
			{channels: 32, kernel: 3, stride: 2, above: 1, below: 1, normalised: true, activation: "hard-swish", eachChannel: true},
			{channels: 32, kernel: 5, stride: 2, above: 2, below: 2, normalised: true, activation: "hard-swish", eachChannel: true},
			{channels: 32, kernel: 3, stride: 2, above: 1, below: 1, activation: "Relu", eachChannel: true},
		}, 5},
		"an odd height": {391, []conv{
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1, activation: "swish"},
			halves(5, 2, 2), {channels: 16, kernel: 1, stride: 1, activation: "Clip"}, halves(3, 1, 1),
		}, 4},
		"padded on one side": {397, []conv{
			{channels: 16, kernel: 3, stride: 2, above: 0, below: 1, activation: "Relu"}, halves(3, 0, 2), halves(5, 4, 0),
		}, 3},
		"rows left over, and none padded": {401, []conv{
			{channels: 16, kernel: 5, stride: 3, activation: "HardSwish"}, halves(5, 0, 0), halves(3, 0, 0),
		}, 3},
		"pooled": {317, []conv{
			{channels: 16, kernel: 1, stride: 1, activation: "LeakyRelu"},
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1, eachChannel: true}, {kernel: 3, stride: 2, above: 1, below: 1},
		}, 3},
		"nodes without names": {400, []conv{
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1, normalised: true, activation: "hard-swish"}, halves(3, 1, 1), halves(5, 2, 2),
		}, 3},
		"ends at a value that is used twice": {300, []conv{
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1}, {channels: 16, kernel: 3, stride: 2, above: 1, below: 1, eachChannel: true, shared: true},
			halves(3, 1, 1),
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			m := modern()
			if name == "rows left over, and none padded" {
				m.opset = 14 // of HardSwish
			}
			m.unnamed = name == "nodes without names"
			m, last := m.image("image", 1, 3, c.height, 100).layers(c.layers...)
			names := []string{last}
			for i, l := range c.layers {
				if l.shared {
					names = append(names, fmt.Sprintf("c%d.s", i))
				}
			}
			b := m.bytes(names...)
			out, report, err := rewritten(b)
			if err != nil || report.Strips != strips {
				t.Fatalf("%+v, %v", report, err)
			}
			shape := []int64{1, 3, int64(c.height), 100}
			want, got := outputs(t, r, b, names, shape), outputs(t, r, out, names, shape)
			for i := range want {
				if len(want[i]) == 0 || slices.Max(want[i]) <= 0 || !slices.Equal(got[i], want[i]) {
					t.Errorf("%s: %d values, and %d", names[i], len(want[i]), len(got[i]))
				}
			}
			sliding := 0
			if parsed, err := onnx.Parse(out); err != nil {
				t.Fatal(err)
			} else {
				for _, n := range parsed.Graph.Nodes {
					if n.OpType == "Conv" || n.OpType == "MaxPool" {
						sliding++
					}
				}
			}
			if want := len(c.layers) + c.cut*(strips-1); sliding != want {
				t.Errorf("%d convolutions and poolings, want %d: %d layers in strips", sliding, want, c.cut)
			}
			if again, report, err := rewritten(out); err != nil || pays(report) || len(again) != len(out) {
				t.Errorf("a second time: %+v, %v", report, err)
			}
		})
	}
}

func TestIsNotCut(t *testing.T) {
	mobile := func() []conv {
		return []conv{
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1, activation: "hard-swish"},
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1, activation: "hard-swish", eachChannel: true},
			{channels: 16, kernel: 3, stride: 2, above: 1, below: 1, activation: "Relu", eachChannel: true},
		}
	}
	// All three with one thing changed.
	changed := func(change func(*conv)) *model {
		all := mobile()
		for i := range all {
			change(&all[i])
		}
		m, _ := modern().image("image", 1, 3, 400, 100).layers(all...)
		return m
	}
	plain := func(m *model) *model {
		m, _ = m.layers(mobile()...)
		return m
	}
	mostly, _ := modern().image("image", 1, 3, 400, 100).layers(
		conv{channels: 4, kernel: 3, stride: 2, above: 1, below: 1}, conv{channels: 4, kernel: 3, stride: 1, above: 1, below: 1},
		conv{channels: 4, kernel: 3, stride: 1, above: 1, below: 1}, conv{channels: 4, kernel: 3, stride: 2, above: 1, below: 1, eachChannel: true})
	subgraph := text(nil, 1, string(text(text(text(nil, 1, "c0"), 2, "inner"), 4, "Identity")))
	for name, b := range map[string][]byte{
		"rows that vary":                 plain(modern().image("image", 1, 3, 0, 100)).bytes("c2.a"),
		"columns that vary":              plain(modern().image("image", 1, 3, 400, 0)).bytes("c2.a"),
		"pages that vary":                plain(modern().image("image", 0, 3, 400, 100)).bytes("c2.a"),
		"two pages":                      plain(modern().image("image", 2, 3, 400, 100)).bytes("c2.a"),
		"three dimensions":               plain(modern().image("image", 3, 400, 100)).bytes("c2.a"),
		"no shape":                       plain(modern().input("image")).bytes("c2.a"),
		"a second input":                 plain(modern().image("image", 1, 3, 400, 100).image("sizes", 1, 2)).bytes("c2.a"),
		"an old Slice":                   plain((&model{opset: 9}).image("image", 1, 3, 400, 100)).bytes("c2.a"),
		"too low a page":                 plain(modern().image("image", 1, 3, 40, 100)).bytes("c2.a"),
		"padded by a rule":               changed(func(c *conv) { c.attributes = word("auto_pad", "SAME_UPPER") }).bytes("c2.a"),
		"with holes":                     changed(func(c *conv) { c.attributes = integers("dilations", 2, 2) }).bytes("c2.a"),
		"a kernel that is not named":     changed(func(c *conv) { c.withoutKernel = true }).bytes("c2.a"),
		"more padding than kernel":       changed(func(c *conv) { c.above = 3 }).bytes("c2.a"),
		"every value used twice":         changed(func(c *conv) { c.shared = true }).bytes("c2.a", "c0.s", "c1.s", "c2.s"),
		"heights that stay":              changed(func(c *conv) { c.stride = 1 }).bytes("c2.a"),
		"all channels in each":           changed(func(c *conv) { c.eachChannel = false }).bytes("c2.a"),
		"an activation not known":        changed(func(c *conv) { c.activation = "Softmax" }).bytes("c2.a"),
		"what another one is gated by":   changed(func(c *conv) { c.activation = "" }).node("Mul", "y", "c0", "c2").bytes("y"),
		"an inner value an output":       plain(modern().image("image", 1, 3, 400, 100)).bytes("c2.a", "c0"),
		"a gate an output":               plain(modern().image("image", 1, 3, 400, 100)).bytes("c2.a", "c0.g"),
		"a gate used twice":              plain(modern().image("image", 1, 3, 400, 100)).node("Relu", "r", "c0.g").bytes("c2.a", "r"),
		"as weights of other data":       byItself("data", "c0").bytes("c2"),
		"a use within a subgraph":        plain(modern().image("image", 1, 3, 400, 100)).nodeWith(text(nil, 5, string(text(text(nil, 1, "then_branch"), 6, string(subgraph)))), "If", "f", "condition").bytes("c2.a", "f"),
		"weights that are integers":      plain(modern().image("image", 1, 3, 400, 100)).node("DequantizeLinear", "w", "q").bytes("c2.a"),
		"a pooling that rounds up":       poolings(integer("ceil_mode", 1)).bytes("c1"),
		"a normalisation that is learnt": normalised(1).bytes("c2"),
		"a pooling that says where":      poolings(text(nil, 2, "indices")).bytes("c1"),
		"operators of somebody else's":   changed(func(c *conv) { c.attributes = text(nil, 7, "somebody") }).bytes("c2.a"),
		"a gate of somebody else's":      byItself("y", "w").nodeWith(text(nil, 7, "somebody"), "Sigmoid", "g", "c0").node("Mul", "y", "c0", "g").bytes("c2"),
		"gated by something else":        byItself("y", "w").node("Sigmoid", "g", "c0").node("Relu", "r", "g").node("Mul", "y", "c0", "data").bytes("c2", "r"),
		"a gate's bound":                 byItself("y", "w").node("Clip", "g", "data", "c0").node("Mul", "y", "c0", "g").bytes("c2"),
		"mostly all channels in each":    mostly.bytes("c3"),
		"a graph that goes round":        modern().image("image", 1, 3, 400, 100).node("Relu", "a", "image").node("Relu", "a", "a").bytes("b"),
	} {
		t.Run(name, func(t *testing.T) {
			before, err := onnx.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			nodes, r := apply(t, b)
			if r.Strips != 0 || len(nodes) != len(before.Graph.Nodes) {
				t.Fatalf("%+v, %d operators of %d", r, len(nodes), len(before.Graph.Nodes))
			}
		})
	}
	// None of these is left alone for another reason.
	for name, b := range map[string][]byte{
		"layers":          plain(modern().image("image", 1, 3, 400, 100)).bytes("c2.a"),
		"poolings":        poolings(nil).bytes("c1"),
		"a normalisation": normalised(0).bytes("c2"),
		"by itself":       byItself("c0", "w").bytes("c2"),
		"gated":           byItself("y", "w").node("Sigmoid", "g", "c0").node("Mul", "y", "c0", "g").bytes("c2"),
	} {
		if _, r := apply(t, b); r.Strips != strips {
			t.Errorf("%s, as they all are but for one thing: %+v", name, r)
		}
	}
}

func poolings(attributes []byte) *model {
	m, _ := modern().image("image", 1, 3, 400, 100).layers(
		conv{kernel: 3, stride: 2, attributes: attributes},
		conv{channels: 3, kernel: 3, stride: 2, eachChannel: true})
	return m
}

func normalised(learning uint64) *model {
	m := byItself("n", "w")
	return m.nodeWith(integer("training_mode", learning), "BatchNormalization", "n", "c0", "c0.b", "c0.b", "c0.b", "c0.b")
}

// byItself ends with a convolution of one value with another.
func byItself(of, with string) *model {
	m, _ := modern().image("image", 1, 3, 400, 100).layers(conv{channels: 3, kernel: 3, stride: 2, eachChannel: true})
	m.weights("w", 0, 1, 3, 1, 3, 3).weights("data", 0, 1, 1, 3, 200, 50)
	return m.nodeWith(slices.Concat(integer("group", 3), integers("kernel_shape", 3, 3), integers("strides", 4, 4)), "Conv", "c2", of, with)
}
