// Package family knows how models of each kind take a page and what their
// outputs mean. A family is two pure functions, page to tensor and tensors to
// boxes; everything about running the model in between is elsewhere, so each
// half is tested against golden tensors by itself.
//
// Package detector calls it, once per page.
package family

import (
	"errors"
	"fmt"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
)

// ErrOutput means that a model's outputs are not those of its family: the
// manifest names the wrong family, outputs or sizes.
var ErrOutput = errors.New("model output does not fit its family")

// Geometry is what Decode must know of the page that Preprocess saw.
type Geometry struct {
	// Width and Height are those of the page image, in pixels; boxes are
	// given in them.
	Width, Height int
}

// Tensor is float32 values in row-major order.
type Tensor struct {
	Shape []int64
	Data  []float32
}

// Family is one kind of model. Its methods are pure and safe for concurrent
// use.
type Family interface {
	// Input is the shape of the tensor for a page of this size in pixels.
	Input(width, height int) []int64
	// Outputs are the names of the outputs that Decode wants, in its order.
	Outputs() []string
	// OutputShapes are their shapes, or nil where they depend on the page.
	OutputShapes() [][]int64
	// Preprocess reads a page to its last row and fills dst, which has the
	// shape of Input. scratch is reused from page to page.
	Preprocess(page pageimage.Rows, dst []float32, scratch *Scratch) (Geometry, error)
	// Decode turns the outputs for one page into its boxes, in the order
	// of schemas.CompareBoxes, coordinates to a hundredth of a pixel.
	Decode(outputs []Tensor, g Geometry) ([]schemas.Box, error)
}

// New makes the family that a manifest names.
func New(m manifest.Manifest) (Family, error) {
	switch m.Family {
	case "picodet":
		return newPicoDet(m)
	default:
		return nil, fmt.Errorf("family: %q, must be picodet", m.Family)
	}
}
