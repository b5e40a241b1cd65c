// Package manifest describes a model: which file its weights are, what goes in,
// what comes out, and which boxes are kept. A manifest lies beside the weights
// as manifest.json; those of the models that come with the project are in the
// folder models. The package detector reads them, package family acts on them.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// File is a manifest's name in a model's folder.
const File = "manifest.json"

// ErrAbsent and ErrInvalid tell why there is no usable manifest.
var (
	ErrAbsent  = errors.New("model manifest absent")
	ErrInvalid = errors.New("model manifest invalid")
)

// Manifest is everything about a model but its weights.
type Manifest struct {
	Name    string `json:"name"`    // names topics and consumer groups
	Version string `json:"version"` // for people; the digest is what counts
	File    string `json:"file"`    // weights, relative to the manifest
	SHA256  string `json:"sha256"`  // of File, lower-case hex
	License string `json:"license,omitempty"`
	Source  string `json:"source,omitempty"`

	Family  string   `json:"family"`  // who preprocesses and decodes
	Input   Input    `json:"input"`   // what the model takes
	Classes []string `json:"classes"` // in the order of the model's outputs

	// ScoreFloor is the score from which boxes are kept at all; Thresholds
	// is the score from which a class is cropped unless a run says
	// otherwise, with "*" for every class that is not named. Boxes between
	// the two are found by SQL.
	ScoreFloor float64            `json:"score_floor"`
	Thresholds map[string]float64 `json:"thresholds"`
	NMS        NMS                `json:"nms"`

	// Options belong to the family, which reads them strictly.
	Options json.RawMessage `json:"options,omitempty"`

	// Provider is the execution provider that runs the model where nobody
	// says otherwise, one of Providers.
	Provider string `json:"provider,omitempty"`

	// Batching asks for several pages in one inference; the zero value for none.
	Batching Batching `json:"dynamic_batching,omitzero"`
}

// Batching puts pages that wait at the same time into one inference. The model
// must take any number of pages along the first dimension of its input.
type Batching struct {
	MaxSize int `json:"max_batch_size"` // pages
	// MaxDelayMS is how many milliseconds a page waits for others that are being
	// read; 0 for not at all.
	MaxDelayMS int `json:"max_queue_delay_ms"`
}

// Input is the tensor that a model takes.
type Input struct {
	Name string `json:"name"`
	// Width and Height are those of the tensor, in pixels, for a model whose
	// input has one size. A model that takes pages of any size has
	// ShortestEdge and LongestEdge instead: a page is scaled until its shorter
	// side has the one, or its longer side the other if that comes first.
	Width        int `json:"width,omitempty"`
	Height       int `json:"height,omitempty"`
	ShortestEdge int `json:"shortest_edge,omitempty"`
	LongestEdge  int `json:"longest_edge,omitempty"`

	Resize   string `json:"resize,omitempty"` // Area, Linear, Pillow or OpenCV; empty for what the family's models are trained with
	Channels string `json:"channels"`         // "rgb" or "bgr"
	// Mean and Std normalise a channel value v in 0 to 1, in the order of
	// Channels: (v - mean) / std. Without them the family's own scale is used.
	Mean [3]float64 `json:"mean,omitzero"`
	Std  [3]float64 `json:"std,omitzero"`
}

// Execution providers: what of ONNX Runtime computes.
const (
	CPU      = "cpu"
	CUDA     = "cuda"     // an NVIDIA GPU
	OpenVINO = "openvino" // Intel's processors and GPUs
)

// Providers are all of them.
func Providers() []string { return []string{CPU, CUDA, OpenVINO} }

// IsProvider says whether there is one of this name.
func IsProvider(name string) bool { return slices.Contains(Providers(), name) }

// How a page is resized.
const (
	Area   = "area"   // the mean of what lies under a pixel
	Linear = "linear" // between the two nearest pixels each way
	Pillow = "pillow" // bit for bit as Pillow's BILINEAR, which leaves no pixel out
	OpenCV = "opencv" // bit for bit as OpenCV's INTER_LINEAR
)

// Varies says whether the input's size depends on the page.
func (in Input) Varies() bool { return in.ShortestEdge != 0 || in.LongestEdge != 0 }

// Normalises says whether Mean and Std are given.
func (in Input) Normalises() bool { return in.Std != [3]float64{} || in.Mean != [3]float64{} }

// NMS says which of several boxes on one object is kept.
type NMS struct {
	// IoU is the overlap (intersection over union) above which the lesser
	// of two boxes of one class is dropped; CrossClassIoU is the same for
	// boxes of different classes.
	IoU           float64 `json:"iou"`
	CrossClassIoU float64 `json:"cross_class_iou"`
	// Prefer names classes whose boxes, from the score given on, win over
	// boxes of other classes on the same object even if those score higher.
	// It serves a model that finds one thing twice, as what it is and as
	// the more common thing that it also looks like.
	Prefer map[string]float64 `json:"prefer,omitempty"`
	// Candidates is how many boxes at most enter the comparison, and
	// MaxBoxes how many a page keeps, the best first: whatever the page,
	// its record stays small.
	Candidates int `json:"candidates"`
	MaxBoxes   int `json:"max_boxes"`
}

// Read reads dir's manifest and validates it.
func Read(dir string) (Manifest, error) {
	path := filepath.Join(dir, File)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Manifest{}, fmt.Errorf("%w: %s: run make deps, or set LEAFCUTTER_MODELS_DIR to where the models are", ErrAbsent, path)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("open manifest: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return Manifest{}, fmt.Errorf("read %s: %w", path, err)
	}
	m, err := Parse(b)
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Parse reads a manifest and validates it. A field that does not exist is an
// error: a manifest is written by hand, and a mistyped threshold must not
// silently be the default.
func Parse(b []byte) (Manifest, error) {
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, fmt.Errorf("%w: something follows the object", ErrInvalid)
	}
	if m.Provider == "" {
		m.Provider = CPU
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, fmt.Errorf("%w:\n%w", ErrInvalid, err)
	}
	return m, nil
}

// Text writes a manifest as Parse reads it, for people.
func (m Manifest) Text() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return append(b, '\n'), nil
}
