// Package family knows how models of each kind take a page and what their
// outputs mean. A family is two pure functions, page to tensor and tensors to
// boxes; everything about running the model in between is elsewhere, so each
// half is tested against golden tensors by itself.
//
// Package detector calls it, once per page.
package family

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

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

// Tensor is values in row-major order: Ints where the model's output is int64,
// else Data.
type Tensor struct {
	Shape []int64
	Data  []float32
	Ints  []int64
}

// Extra is an input besides the page, the same for every page: some models ask
// for the page's size, and are told a fixed one, so that their boxes come out
// in a scale that does not depend on the page.
type Extra struct {
	Name string
	Tensor
}

// Family is one kind of model. Its methods are pure and safe for concurrent
// use.
type Family interface {
	// Input is the shape of the tensor for a page of this size in pixels.
	Input(width, height int) []int64
	// Extra are the inputs besides that tensor; mostly none.
	Extra() []Extra
	// Outputs are the names of the outputs that Decode wants, in its order.
	// A model may have more.
	Outputs() []string
	// OutputShapes are their shapes, all of float32, or nil where they
	// depend on the page or some are int64: then the runtime allocates them.
	OutputShapes() [][]int64
	// Preprocess reads a page to its last row and fills dst, which has the
	// shape of Input. scratch is reused from page to page.
	Preprocess(page pageimage.Rows, dst []float32, scratch *Scratch) (Geometry, error)
	// Decode turns the outputs for one page into its boxes, in the order
	// of schemas.CompareBoxes, coordinates to a hundredth of a pixel. Its
	// errors are ErrOutput.
	Decode(outputs []Tensor, g Geometry) ([]schemas.Box, error)

	// expects are the outputs as a model file must declare them, for Check.
	expects() []Port
}

// Names of the families, as manifests give them.
const (
	PicoDet    = "picodet"
	YOLO       = "yolo"
	RTDETR     = "rt-detr"
	FasterRCNN = "faster-rcnn"
	MaskRCNN   = "mask-rcnn"
)

// Names are all of them.
func Names() []string { return []string{PicoDet, YOLO, RTDETR, FasterRCNN, MaskRCNN} }

// New makes the family that a manifest names.
func New(m manifest.Manifest) (Family, error) {
	switch m.Family {
	case PicoDet:
		return newPicoDet(m)
	case YOLO:
		return newYOLO(m)
	case RTDETR:
		return newRTDETR(m)
	case FasterRCNN, MaskRCNN:
		return newRCNN(m)
	default:
		return nil, fmt.Errorf("family: %q, must be one of %s", m.Family, strings.Join(Names(), ", "))
	}
}

// readOptions reads a manifest's options into what a family has of them. A
// field that does not exist is an error.
func readOptions(m manifest.Manifest, into any) error {
	d := json.NewDecoder(bytes.NewReader(m.Options))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("options: %w", err)
	}
	return nil
}

// sameSize refuses an input whose size depends on the page, for families of
// models that have one size.
func sameSize(m manifest.Manifest) error {
	if m.Input.Varies() {
		return fmt.Errorf("input: models of family %s take one size: give width and height, not shortest_edge and longest_edge", m.Family)
	}
	return nil
}

// values are how many values a tensor of this shape has.
func values(shape []int64) int {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return int(n)
}

// fits says what is wrong with an output of float32; want has -1 where any size
// will do. A tensor whose values are not as many as its shape says is wrong too.
func fits(name string, o Tensor, want ...int64) error {
	return shaped(name, o, "float32", len(o.Data), want)
}

// fitsInts is fits for an output of int64.
func fitsInts(name string, o Tensor, want ...int64) error {
	return shaped(name, o, "int64", len(o.Ints), want)
}

// shaped is what both do, for as many values of the type as there are.
func shaped(name string, o Tensor, typ string, n int, want []int64) error {
	ok := len(o.Shape) == len(want) && values(o.Shape) == n
	for i := range min(len(want), len(o.Shape)) {
		ok = ok && o.Shape[i] >= 0 && (want[i] < 0 || o.Shape[i] == want[i])
	}
	if !ok {
		return fmt.Errorf("%w: %s has the shape %v and %d values of %s, want %s", ErrOutput, name, o.Shape, n, typ, shapeString(want))
	}
	return nil
}

// shapeString writes a shape with n for the sizes that are not known.
func shapeString(shape []int64) string {
	parts := make([]string, len(shape))
	for i, d := range shape {
		if parts[i] = strconv.FormatInt(d, 10); d < 0 {
			parts[i] = "n"
		}
	}
	return "[" + strings.Join(parts, " ") + "]"
}
