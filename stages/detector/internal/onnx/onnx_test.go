package onnx

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func tag(num protowire.Number, body []byte) []byte { return appendMessage(nil, num, body) }

func varint(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

func concat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func encoded(t *testing.T, m *Model) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What the reader does not know must survive, whatever it is.
func TestKeepsWhatItDoesNotKnow(t *testing.T) {
	node := concat(tag(nodeInput, []byte("a")), tag(nodeOutput, []byte("b")), tag(nodeOpType, []byte("Relu")), tag(99, []byte("new in a node")))
	graph := concat(tag(2, []byte("graph's name")), tag(graphNode, node), tag(98, []byte("new in a graph")), tag(graphOutput, tag(valueInfoName, []byte("b"))))
	in := concat(varint(1, 8), tag(modelGraph, graph), tag(97, []byte("new in a model")), varint(500, 7))
	m, err := Parse(in)
	if err != nil {
		t.Fatal(err)
	}
	if n := m.Graph.Nodes[0]; n.OpType != "Relu" || !slices.Equal(n.Inputs, []string{"a"}) || !slices.Equal(n.Outputs, []string{"b"}) {
		t.Fatalf("%+v", n)
	}
	out := encoded(t, m)
	for _, part := range []string{"new in a node", "new in a graph", "new in a model", "graph's name"} {
		if !slices.Contains(substrings(out, len(part)), part) {
			t.Errorf("%q is lost", part)
		}
	}
	if len(out) != len(in) {
		t.Errorf("%d bytes of %d", len(out), len(in))
	}
	again, err := Parse(out)
	if err != nil || !slices.Equal(encoded(t, again), out) {
		t.Errorf("writing is not stable: %v", err)
	}
}

// Models are as large as their weights, of which no copy is to be made.
func TestWeightsAreNotCopied(t *testing.T) {
	weights := make([]byte, 32<<20)
	in := tag(modelGraph, tag(graphInitializer, concat(tag(tensorName, []byte("v")), tag(tensorRaw, weights))))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := Parse(in)
	if err == nil {
		m.Graph.Constants()
		err = m.Encode(io.Discard)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; err != nil || took > 1<<20 {
		t.Errorf("%d bytes allocated for a model of %d, %v", took, len(in), err)
	}
}

func substrings(b []byte, n int) []string {
	var out []string
	for i := 0; i+n <= len(b); i++ {
		out = append(out, string(b[i:i+n]))
	}
	return out
}

func TestConstants(t *testing.T) {
	one := []byte{0, 0, 128, 63}
	raw := func(dims, kind []byte, extra ...byte) []byte {
		return concat(dims, kind, tag(tensorName, []byte("v")), tag(tensorRaw, append(slices.Clone(one), extra...)))
	}
	isFloat := varint(tensorDataType, dataTypeFloat)
	for name, c := range map[string]struct {
		tensor []byte
		known  bool
	}{
		"a scalar":             {raw(nil, isFloat), true},
		"one by one":           {raw(concat(varint(tensorDims, 1), varint(tensorDims, 1)), isFloat), true},
		"packed dims":          {raw(tag(tensorDims, []byte{1, 1}), isFloat), true},
		"a list":               {concat(isFloat, tag(tensorName, []byte("v")), tag(tensorFloats, one)), true},
		"an unpacked list":     {concat(isFloat, tag(tensorName, []byte("v")), protowire.AppendFixed32(protowire.AppendTag(nil, tensorFloats, protowire.Fixed32Type), 0x3f800000)), true},
		"two":                  {raw(varint(tensorDims, 2), isFloat, one...), false},
		"a double":             {raw(nil, varint(tensorDataType, 11)), false},
		"no type":              {raw(nil, nil), false},
		"kept elsewhere":       {concat(raw(nil, isFloat), varint(tensorLocation, 1)), false},
		"three bytes":          {concat(isFloat, tag(tensorName, []byte("v")), tag(tensorRaw, one[:3])), false},
		"nothing at all in it": {concat(isFloat, tag(tensorName, []byte("v"))), false},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Parse(tag(modelGraph, tag(graphInitializer, c.tensor)))
			if err != nil {
				t.Fatal(err)
			}
			v, ok := m.Graph.Constants()["v"]
			if ok != c.known || (ok && v != 1) {
				t.Fatalf("%v, %v", v, ok)
			}
		})
	}
}

// A node made after another one does the same, whatever that is, to other values.
func TestAsAnother(t *testing.T) {
	subgraph := tag(attrGraph, tag(graphNode, tag(nodeInput, []byte("seen within"))))
	node := concat(tag(nodeInput, []byte("a")), tag(nodeOutput, []byte("b")), tag(nodeOpType, []byte("New")), tag(nodeDomain, []byte("somebody's")),
		tag(nodeAttribute, concat(tag(attrName, []byte("pads")), varint(attrInts, 1), varint(attrInts, 2))),
		tag(nodeAttribute, concat(tag(attrName, []byte("strides")), tag(attrInts, []byte{3, 4}))), // packed
		tag(nodeAttribute, concat(tag(attrName, []byte("rule")), tag(attrString, []byte("SAME")))),
		tag(nodeAttribute, concat(tag(attrName, []byte("body")), subgraph)), tag(99, []byte("new in a node")))
	m, err := Parse(tag(modelGraph, tag(graphNode, node)))
	if err != nil {
		t.Fatal(err)
	}
	m.Graph.Nodes[0] = m.Graph.Nodes[0].As("other", []string{"x", "y"}, []string{"z"}, Ints{"pads", []int64{5, -6}}, Int{"group", 7})
	again, err := Parse(encoded(t, m))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Node{m.Graph.Nodes[0], again.Graph.Nodes[0]} {
		if n.Name != "other" || n.OpType != "New" || n.Domain != "somebody's" || !slices.Equal(n.Inputs, []string{"x", "y"}) ||
			!slices.Equal(n.Outputs, []string{"z"}) || !slices.Equal(n.Captured, []string{"seen within"}) {
			t.Errorf("%+v", n)
		}
		if pads, strides := n.IntsAttr("pads"), n.IntsAttr("strides"); !slices.Equal(pads, []int64{5, -6}) || !slices.Equal(strides, []int64{3, 4}) ||
			n.IntAttr("group", 1) != 7 || n.IntAttr("none", 1) != 1 || n.StringAttr("rule", "") != "SAME" || len(n.attrs) != 5 {
			t.Errorf("pads %v, strides %v: %+v", pads, strides, n)
		}
		if !bytes.Contains(n.raw, []byte("new in a node")) {
			t.Error("a field is lost")
		}
	}
}

func TestWhatIsFed(t *testing.T) {
	dim := func(body []byte) []byte { return tag(shapeDim, body) }
	shape := concat(dim(varint(dimValue, 1)), dim(tag(2, []byte("height"))), dim(nil), dim(varint(dimValue, 608)))
	input := func(name string, more ...byte) []byte {
		return tag(graphInput, concat(tag(valueInfoName, []byte(name)), more))
	}
	m, err := Parse(concat(tag(modelOpset, concat(tag(opsetDomain, []byte("somebody's")), varint(opsetVersion, 1))), tag(modelOpset, varint(opsetVersion, 13)),
		tag(modelGraph, concat(input("image", tag(valueInfoType, tag(typeTensor, tag(typeTensorShape, shape)))...), input("sizes"), input("weights"),
			tag(graphInitializer, tag(tensorName, []byte("weights")))))))
	if err != nil {
		t.Fatal(err)
	}
	if fed := m.Graph.Fed(); !slices.Equal(fed, []string{"image", "sizes"}) || m.Opset() != 13 {
		t.Errorf("fed are %v, operator set %d", fed, m.Opset())
	}
	for name, want := range map[string][]int64{"image": {1, 0, 0, 608}, "sizes": nil, "none": nil} {
		if got := m.Graph.InputShape(name); !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestSubgraphsWithinSubgraphsEnd(t *testing.T) {
	graph := tag(graphNode, tag(nodeOpType, []byte("Relu")))
	for range 40 {
		graph = tag(graphNode, tag(nodeAttribute, tag(attrGraph, graph)))
	}
	if _, err := Parse(tag(modelGraph, graph)); !errors.Is(err, ErrMalformed) {
		t.Fatalf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(tag(modelGraph, concat(tag(graphNode, tag(nodeAttribute, tag(attrGraph, nil))), tag(graphInitializer, varint(tensorDims, 1)))))
	f.Add([]byte{0x3a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		m.Graph.Constants()
		for _, name := range m.Graph.Fed() {
			m.Graph.InputShape(name)
		}
		m.Opset()
		out := encoded(t, m)
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		if !slices.Equal(encoded(t, again), out) {
			t.Fatal("writing is not stable")
		}
	})
}
