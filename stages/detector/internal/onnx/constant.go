package onnx

import (
	"encoding/binary"
	"math"

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
)

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
				if a.hasFloat {
					out[n.Outputs[0]] = a.float
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
			dims := []uint64{f.number}
			if f.typ == protowire.BytesType { // packed
				dims = dims[:0]
				for b := f.value; len(b) > 0; {
					v, n := protowire.ConsumeVarint(b)
					if n < 0 {
						return 0, false
					}
					dims, b = append(dims, v), b[n:]
				}
			}
			for _, d := range dims {
				if d != 1 {
					return 0, false
				}
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
