// Package rewrite changes a model's graph into one that computes the same and
// runs faster. The detector applies it when it loads a model for the first
// time, compares the outputs of both graphs on a page, and keeps the result
// only if they agree; see the package detector, file prepare.go.
package rewrite

import (
	"fmt"
	"io"

	"leafcutter/stages/detector/internal/onnx"
)

// Version is raised with every change of what Apply produces, so that files
// cached by an older program are made anew.
const Version = 3

// Report counts what was changed.
type Report struct {
	// HardSwish is how many hard-swish activations, written as four
	// operators, became two that the runtime folds into the convolution
	// before them.
	HardSwish int `json:"hard_swish"`
	// Strips is how many strips the first layers are computed in, 0 where
	// they are computed at once.
	Strips int `json:"strips"`
	// Constants is how many unused constants were dropped.
	Constants int `json:"constants"`
	// Quantized says that weights are integers.
	Quantized bool `json:"-"`
}

// Apply writes the rewritten model. Its inputs and outputs are those of the
// original, of which no copy is made.
func Apply(model []byte, to io.Writer) (Report, error) {
	m, err := onnx.Parse(model)
	if err != nil {
		return Report{}, fmt.Errorf("rewrite: %w", err)
	}
	var r Report
	r.HardSwish = fuseHardSwish(m.Graph)
	if r.HardSwish > 0 {
		r.Constants = m.Graph.DropUnusedConstants()
	}
	for _, n := range m.Graph.Nodes {
		r.Quantized = r.Quantized || n.OpType == "DequantizeLinear"
	}
	if !r.Quantized {
		r.Strips = cutIntoStrips(m.Graph, m.Opset())
	}
	if err := m.Encode(to); err != nil {
		return r, fmt.Errorf("rewrite: %w", err)
	}
	return r, nil
}
