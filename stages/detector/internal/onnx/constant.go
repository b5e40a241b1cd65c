package onnx

import (
	"encoding/binary"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers and values of TensorProto.
const (
	tensorDims     = 1
	tensorDataType = 2
	tensorFloats   = 4
	tensorName     = 8
	tensorRaw      = 9
	tensorLocation = 14

	dataTypeFloat = 1
	dataTypeInt64 = 7
)

// AddInts adds a constant, a list of integers.
func (g *Graph) AddInts(name string, values ...int64) {
	b := appendVarint(nil, tensorDims, uint64(len(values)))
	b = appendVarint(b, tensorDataType, dataTypeInt64)
	b = appendString(b, tensorName, name)
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
	}
	g.initializers = append(g.initializers, initializer{name: name, raw: appendMessage(b, tensorRaw, raw)})
}

// Constants are the float32 tensors of exactly one element that a graph knows
// beforehand, by name, wherever they are kept: in an initializer or in a
// Constant node, as raw bytes or as a list, as a scalar or as [1] or [1,1].
func (g *Graph) Constants() map[string]float32 {
	out := make(map[string]float32)
	for _, i := range g.initializers {
		if v, ok := scalar(i.raw); ok && !g.IsInput(i.name) {
			out[i.name] = v
		}
	}
	for _, n := range g.Nodes {
		if n.OpType != "Constant" || n.Domain != "" || len(n.Outputs) != 1 {
			continue
		}
		for _, a := range n.attrs {
			switch a.name {
			case "value":
				if v, ok := scalar(a.tensor); ok {
					out[n.Outputs[0]] = v
				}
			case "value_float":
				if a.float != nil {
					out[n.Outputs[0]] = *a.float
				}
			}
		}
	}
	return out
}

// scalar reads a TensorProto that holds one float32; anything else (another
// type, more elements, external data, malformed) is simply not a known
// scalar.
func scalar(tensor []byte) (float32, bool) {
	all, err := fields(tensor)
	if err != nil {
		return 0, false
	}
	var values []float32
	isFloat := false
	for _, f := range all {
		switch f.num {
		case tensorDims:
			dims, err := f.varints()
			if err != nil || slices.ContainsFunc(dims, func(d int64) bool { return d != 1 }) {
				return 0, false
			}
		case tensorDataType:
			isFloat = f.number == dataTypeFloat
		case tensorFloats:
			if f.typ == protowire.Fixed32Type {
				values = append(values, math.Float32frombits(uint32(f.number)))
				continue
			}
			values = appendFloats(values, f.value)
		case tensorRaw:
			values = appendFloats(values, f.value)
		case tensorLocation:
			if f.number != 0 {
				return 0, false
			}
		}
	}
	if !isFloat || len(values) != 1 {
		return 0, false
	}
	return values[0], true
}

func appendFloats(dst []float32, b []byte) []float32 {
	if len(b)%4 != 0 || len(b) > 8 { // two are already too many
		return append(dst, 0, 0)
	}
	for ; len(b) >= 4; b = b[4:] {
		dst = append(dst, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return dst
}
