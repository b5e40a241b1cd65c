// Package rewrite changes a model's graph into one that computes the same and
// runs faster. The detector applies it when it loads a model for the first
// time, compares the outputs of both graphs on a page, and keeps the result
// only if they agree; see the package detector, file load.go.
package rewrite

import (
	"fmt"

	"leafcutter/stages/detector/internal/onnx"
)

// Version is raised with every change of what Apply produces, so that files
// cached by an older program are made anew.
const Version = 1

// Report counts what was changed.
type Report struct {
	// HardSwish is how many hard-swish activations, written as four
	// operators, became two that the runtime folds into the convolution
	// before them.
	HardSwish int `json:"hard_swish"`
	// Constants is how many unused constants were dropped.
	Constants int `json:"constants"`
}

// Pays says whether anything was changed that makes the graph faster.
func (r Report) Pays() bool { return r.HardSwish > 0 }

// Apply returns the rewritten model. Its inputs and outputs are those of the
// original.
func Apply(model []byte) ([]byte, Report, error) {
	m, err := onnx.Parse(model)
	if err != nil {
		return nil, Report{}, fmt.Errorf("rewrite: %w", err)
	}
	var r Report
	r.HardSwish = fuseHardSwish(m.Graph)
	if r.HardSwish > 0 {
		r.Constants = m.Graph.DropUnusedConstants()
	}
	return m.Marshal(), r, nil
}
