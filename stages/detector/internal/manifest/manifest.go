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

	// Provider is the execution provider: "cpu".
	Provider string `json:"provider,omitempty"`
}

// Input is the tensor that a model takes.
type Input struct {
	Name     string `json:"name"`
	Width    int    `json:"width"`    // pixels
	Height   int    `json:"height"`   // pixels
	Resize   string `json:"resize"`   // Area or Linear; the aspect ratio is not kept
	Channels string `json:"channels"` // "rgb" or "bgr"
	// Mean and Std normalise a channel value v in 0 to 1, in the order of
	// Channels: (v - mean) / std.
	Mean [3]float64 `json:"mean"`
	Std  [3]float64 `json:"std"`
}

// How a page is resized.
const (
	Area   = "area"   // the mean of what lies under a pixel
	Linear = "linear" // between the two nearest pixels each way
)

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
		m.Provider = "cpu"
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, fmt.Errorf("%w:\n%w", ErrInvalid, err)
	}
	return m, nil
}
