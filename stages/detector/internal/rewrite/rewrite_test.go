package rewrite

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"leafcutter/stages/detector/internal/onnx"
)

// model writes ONNX by the numbers in onnx.proto3, independently of the reader.
type model struct {
	graph   []byte
	opset   uint64
	unnamed bool // nodes have no names, which may be
}

func text(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func varint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func (m *model) node(op string, out string, in ...string) *model {
	return m.nodeWith(nil, op, out, in...)
}

func (m *model) nodeWith(attributes []byte, op string, out string, in ...string) *model {
	var n []byte
	for _, i := range in {
		n = text(n, 1, i)
	}
	n = text(text(n, 2, out), 4, op)
	if !m.unnamed {
		n = text(n, 3, "node of "+out)
	}
	m.graph = text(m.graph, 1, string(append(n, attributes...)))
	return m
}

func float(name string, v float32) []byte {
	a := text(nil, 1, name)
	a = protowire.AppendFixed32(protowire.AppendTag(a, 2, protowire.Fixed32Type), math.Float32bits(v))
	a = protowire.AppendVarint(protowire.AppendTag(a, 20, protowire.VarintType), 1)
	return text(nil, 5, string(a))
}

func tensor(name string, dims []uint64, v ...float32) []byte {
	var t, raw []byte
	for _, d := range dims {
		t = protowire.AppendVarint(protowire.AppendTag(t, 1, protowire.VarintType), d)
	}
	t = protowire.AppendVarint(protowire.AppendTag(t, 2, protowire.VarintType), 1)
	for _, f := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	return text(text(t, 8, name), 9, string(raw))
}

// constant is a Constant node, initial an initializer.
func (m *model) constant(name string, v float32) *model {
	a := text(text(nil, 1, "value"), 5, string(tensor("", []uint64{1}, v)))
	return m.nodeWith(text(nil, 5, string(a)), "Constant", name)
}

func (m *model) initial(name string, v ...float32) *model {
	m.graph = text(m.graph, 5, string(tensor(name, []uint64{uint64(len(v))}, v...)))
	return m
}

func (m *model) input(name string) *model {
	m.graph = text(m.graph, 11, string(text(nil, 1, name)))
	return m
}

func (m *model) bytes(outputs ...string) []byte {
	for _, o := range outputs {
		m.graph = text(m.graph, 12, string(text(nil, 1, o)))
	}
	b := varint(nil, 1, 8) // ir_version
	return text(text(b, 7, string(m.graph)), 8, string(varint(nil, 2, m.opset)))
}

func (m *model) scalars() *model {
	return m.constant("three", 3).constant("zero", 0).initial("six", 6).initial("sixth", 1.0/6)
}

func rewritten(b []byte) ([]byte, Report, error) {
	var out bytes.Buffer
	r, err := Apply(b, &out)
	return out.Bytes(), r, err
}

func apply(t *testing.T, b []byte) ([]*onnx.Node, Report) {
	t.Helper()
	out, r, err := rewritten(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := onnx.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	before, err := onnx.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	all, given := names(m), names(before)
	for name, n := range all {
		if name != "" && n > max(1, given[name]) {
			t.Errorf("%d nodes have the name %q: the runtime refuses that", n, name)
		}
	}
	return m.Graph.Nodes, r
}

// names counts the nodes of each name.
func names(m *onnx.Model) map[string]int {
	n := map[string]int{}
	for _, node := range m.Graph.Nodes {
		n[node.Name]++
	}
	return n
}

func TestFusesHardSwish(t *testing.T) {
	clipAttributes := append(float("min", 0), float("max", 6)...)
	for name, b := range map[string][]byte{
		"divided last": new(model).scalars().node("Conv", "x", "in").node("Add", "a", "x", "three").
			node("Clip", "c", "a", "zero", "six").node("Mul", "m", "x", "c").node("Div", "y", "m", "six").node("Relu", "out", "y").bytes("out"),
		"the other way round": new(model).scalars().node("Conv", "x", "in").node("Add", "a", "three", "x").
			node("Clip", "c", "a", "zero", "six").node("Mul", "m", "c", "x").node("Mul", "y", "sixth", "m").node("Relu", "out", "y").bytes("out"),
		"divided first": new(model).scalars().node("Conv", "x", "in").node("Add", "a", "x", "three").
			node("Clip", "c", "a", "zero", "six").node("Div", "d", "c", "six").node("Mul", "y", "x", "d").node("Relu", "out", "y").bytes("out"),
		"bounds as attributes": new(model).scalars().node("Conv", "x", "in").node("Add", "a", "x", "three").
			nodeWith(clipAttributes, "Clip", "c", "a").node("Mul", "m", "x", "c").node("Div", "y", "m", "six").node("Relu", "out", "y").bytes("out"),
		"itself an output": new(model).scalars().node("Conv", "x", "in").node("Add", "a", "x", "three").
			node("Clip", "c", "a", "zero", "six").node("Mul", "m", "x", "c").node("Div", "y", "m", "six").node("Relu", "out", "y").bytes("out", "y"),
	} {
		t.Run(name, func(t *testing.T) {
			nodes, r := apply(t, b)
			if r.HardSwish != 1 {
				t.Fatalf("%+v", r)
			}
			var ops []string
			for _, n := range nodes {
				if n.OpType != "Constant" {
					ops = append(ops, n.OpType)
				}
			}
			if !slices.Equal(ops, []string{"Conv", "HardSigmoid", "Mul", "Relu"}) {
				t.Fatalf("operators are %v", ops)
			}
			hard, mul := nodes[len(nodes)-3], nodes[len(nodes)-2]
			alpha, okA := hard.FloatAttr("alpha")
			beta, okB := hard.FloatAttr("beta")
			if !okA || !okB || alpha != float32(1.0/6) || beta != 0.5 || hard.Inputs[0] != "x" ||
				!slices.Equal(mul.Inputs, []string{"x", hard.Outputs[0]}) || mul.Outputs[0] != "y" {
				t.Fatalf("%+v, %+v", hard, mul)
			}
		})
	}
}

func TestLeavesAlone(t *testing.T) {
	pattern := func(m *model, three, zero, six, divisor, x string) *model {
		return m.node("Conv", "x", "in").node("Conv", "z", "in").node("Add", "a", "x", three).node("Clip", "c", "a", zero, six).
			node("Mul", "m", x, "c").node("Div", "y", "m", divisor)
	}
	subgraph := text(nil, 1, string(text(text(text(nil, 1, "c"), 2, "inner"), 4, "Identity")))
	branch := text(nil, 5, string(text(text(nil, 1, "then_branch"), 6, string(subgraph))))
	for name, b := range map[string][]byte{
		"another shift":              pattern(new(model).scalars(), "six", "zero", "six", "six", "x").bytes("y"),
		"another lower bound":        pattern(new(model).scalars(), "three", "three", "six", "six", "x").bytes("y"),
		"another upper bound":        pattern(new(model).scalars(), "three", "zero", "three", "six", "x").bytes("y"),
		"another divisor":            pattern(new(model).scalars(), "three", "zero", "six", "three", "x").bytes("y"),
		"another factor":             pattern(new(model).scalars(), "three", "zero", "six", "six", "z").bytes("y"),
		"a vector of threes":         pattern(new(model).scalars().initial("threes", 3, 3), "threes", "zero", "six", "six", "x").bytes("y"),
		"a three given from outside": pattern(new(model).scalars().initial("fed", 3).input("fed"), "fed", "zero", "six", "six", "x").bytes("y"),
		"the sum used twice":         pattern(new(model).scalars(), "three", "zero", "six", "six", "x").node("Relu", "r", "a").bytes("y", "r"),
		"the product an output":      pattern(new(model).scalars(), "three", "zero", "six", "six", "x").bytes("y", "m"),
		"a use within a subgraph":    pattern(new(model).scalars(), "three", "zero", "six", "six", "x").nodeWith(branch, "If", "f", "x").bytes("y", "f"),
	} {
		t.Run(name, func(t *testing.T) {
			before, err := onnx.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			nodes, r := apply(t, b)
			if pays(r) || len(nodes) != len(before.Graph.Nodes) {
				t.Fatalf("%+v, %d operators of %d", r, len(nodes), len(before.Graph.Nodes))
			}
		})
	}
}

// pays says whether anything was changed that makes the graph faster.
func pays(r Report) bool { return r.HardSwish > 0 || r.Strips > 0 }

// Many models' nodes have no names, and those that take their place must not share one.
func TestNamesDiffer(t *testing.T) {
	m := &model{unnamed: true}
	m.scalars()
	for _, p := range []string{"a", "b"} {
		m.node("Conv", p+"x", "in").node("Add", p+"a", p+"x", "three").node("Clip", p+"c", p+"a", "zero", "six").
			node("Mul", p+"m", p+"x", p+"c").node("Div", p+"y", p+"m", "six")
	}
	if _, r := apply(t, m.bytes("ay", "by")); r.HardSwish != 2 {
		t.Errorf("%+v", r)
	}
}

func TestDropsConstantsThatNothingUses(t *testing.T) {
	b := new(model).scalars().initial("in use", 1).node("Conv", "x", "in", "in use").node("Add", "a", "x", "three").
		node("Clip", "c", "a", "zero", "six").node("Mul", "m", "x", "c").node("Div", "y", "m", "six").bytes("y")
	nodes, r := apply(t, b)
	if r.Constants != 4 || len(nodes) != 3 {
		t.Fatalf("%+v, %d operators", r, len(nodes))
	}
}

func TestTheDefaultModel(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "build", "models", "layout_cdla", "layout_cdla.onnx"))
	if err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	out, r, err := rewritten(b)
	if err != nil || r.HardSwish != 94 || r.Strips != strips {
		t.Fatalf("%+v, %v", r, err)
	}
	again, r, err := rewritten(out)
	if err != nil || pays(r) || len(again) != len(out) {
		t.Fatalf("a second time: %+v, %v, %d bytes of %d", r, err, len(again), len(out))
	}
}

func TestRefusesWhatIsNoModel(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":        nil,
		"text":           []byte("this is not a model"),
		"no graph":       protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 8),
		"cut":            new(model).scalars().bytes("y")[:20],
		"a graph number": protowire.AppendVarint(protowire.AppendTag(nil, 7, protowire.VarintType), 8),
	} {
		if _, _, err := rewritten(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(new(model).scalars().node("Conv", "x", "in").node("Add", "a", "x", "three").
		node("Clip", "c", "a", "zero", "six").node("Mul", "m", "x", "c").node("Div", "y", "m", "six").bytes("y"))
	f.Add(new(model).scalars().bytes("three"))
	m, last := modern().image("image", 1, 3, 400, 100).layers(conv{channels: 3, kernel: 5, stride: 4, eachChannel: true, activation: "swish"})
	f.Add(m.bytes(last)) // which is cut into strips
	f.Fuzz(func(t *testing.T, b []byte) {
		out, _, err := rewritten(b)
		if err != nil {
			return
		}
		// What was written is a model, and there is no more to do on it.
		if _, r, err := rewritten(out); err != nil || pays(r) {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}
