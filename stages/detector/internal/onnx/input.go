package onnx

import "google.golang.org/protobuf/encoding/protowire"

// Field numbers of ValueInfoProto, TypeProto, TypeProto.Tensor,
// TensorShapeProto and its Dimension.
const (
	valueInfoName   = 1
	valueInfoType   = 2
	typeTensor      = 1
	typeTensorShape = 2
	shapeDim        = 1
	dimValue        = 1
)

// Fed are the names of the tensors that a run must be given: the inputs for
// which the graph has no default.
func (g *Graph) Fed() []string {
	defaults := make(map[string]bool, len(g.initializers))
	for _, i := range g.initializers {
		defaults[i.name] = true
	}
	var out []string
	for _, i := range g.inputs {
		if !defaults[i] {
			out = append(out, i)
		}
	}
	return out
}

// InputShape is the shape that an input is declared to have, with 0 for sizes
// that vary. It is nil for what is no input, or has no shape.
func (g *Graph) InputShape(name string) []int64 {
	for _, f := range g.rest {
		if f.num != graphInput {
			continue
		}
		if n, err := stringField(f.value, valueInfoName); err != nil || n != name {
			continue
		}
		shape := f.value
		for _, num := range []protowire.Number{valueInfoType, typeTensor, typeTensorShape} {
			s, err := stringField(shape, num)
			if err != nil {
				return nil
			}
			shape = []byte(s)
		}
		return dims(shape)
	}
	return nil
}

func dims(shape []byte) []int64 {
	all, err := fields(shape)
	if err != nil {
		return nil
	}
	var out []int64
	for _, f := range all {
		if f.num != shapeDim {
			continue
		}
		dim, err := fields(f.value)
		if err != nil {
			return nil
		}
		size := int64(0)
		for _, f := range dim {
			if f.num == dimValue {
				size = int64(f.number)
			}
		}
		out = append(out, size)
	}
	return out
}
