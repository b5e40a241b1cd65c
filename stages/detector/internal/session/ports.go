package session

import (
	"fmt"
	"strings"

	ort "github.com/yalue/onnxruntime_go"
)

// Port is an input or output as a model file declares it: its type is
// "float32", "int64" or what ONNX Runtime calls it, and its shape has -1 for
// each size that is left open.
type Port struct {
	Name  string
	Type  string
	Shape []int64
}

// Ports are the inputs and outputs of a model file. Errors are ErrModel. It
// costs a load of the model.
func (r *Runtime) Ports(model string) (inputs, outputs []Port, err error) {
	in, out, err := ort.GetInputOutputInfo(model)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: load %s: %w", ErrModel, model, err)
	}
	return ports(in), ports(out), nil
}

func ports(infos []ort.InputOutputInfo) []Port {
	out := make([]Port, len(infos))
	for i, info := range infos {
		out[i] = Port{Name: info.Name, Type: typeName(info), Shape: info.Dimensions}
	}
	return out
}

func typeName(info ort.InputOutputInfo) string {
	if info.OrtValueType != ort.ONNXTypeTensor {
		return strings.ToLower(strings.TrimPrefix(info.OrtValueType.String(), "ONNX_TYPE_"))
	}
	switch info.DataType {
	case ort.TensorElementDataTypeFloat:
		return "float32"
	case ort.TensorElementDataTypeInt64:
		return "int64"
	}
	return strings.ToLower(strings.TrimPrefix(info.DataType.String(), "ONNX_TENSOR_ELEMENT_DATA_TYPE_"))
}
