package manifest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"leafcutter/schemas"
)

// Bounds within which a manifest makes sense.
const (
	maxSide       = 8192
	maxClasses    = 10_000
	maxCandidates = 100_000
	maxBatch      = 64
	maxDelayMS    = 10_000
	maxBoxes      = 1_000 // about 100 bytes of JSON each: a page's record stays far under a broker's limit of 1 MB
)

// Validate reports every fault at once. What the family makes of Options is
// the family's to check.
func (m Manifest) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if !schemas.IsModelName(m.Name) {
		fault("name: %.80q, must be 1 to 64 of a-z, 0-9, _ and -", m.Name)
	}
	if m.Version == "" {
		fault("version: missing")
	}
	if m.File == "" || !filepath.IsLocal(m.File) {
		fault("file: %q, must be a path within the model's folder", m.File)
	}
	if b, err := hex.DecodeString(m.SHA256); err != nil || len(b) != 32 || hex.EncodeToString(b) != m.SHA256 {
		fault("sha256: %q, must be 64 lower-case hex digits", m.SHA256)
	}
	if m.Family == "" {
		fault("family: missing")
	}
	if !IsProvider(m.Provider) {
		fault("provider: %q, must be one of %s", m.Provider, strings.Join(Providers(), ", "))
	}
	faults = append(faults, m.Input.validate()...)
	faults = append(faults, m.validateClasses()...)
	if !(m.ScoreFloor > 0 && m.ScoreFloor < 1) {
		fault("score_floor: %v, must be above 0 and below 1", m.ScoreFloor)
	}
	faults = append(faults, m.NMS.validate(m.Classes)...)
	faults = append(faults, m.Batching.validate(m.Input)...)
	return errors.Join(faults...)
}

func (b Batching) validate(in Input) []error {
	if b == (Batching{}) {
		return nil
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if b.MaxSize < 2 || b.MaxSize > maxBatch {
		fault("dynamic_batching.max_batch_size: %d, must be 2 to %d", b.MaxSize, maxBatch)
	}
	if b.MaxDelayMS < 0 || b.MaxDelayMS > maxDelayMS {
		fault("dynamic_batching.max_queue_delay_ms: %d, must be 0 to %d", b.MaxDelayMS, maxDelayMS)
	}
	if in.Varies() {
		fault("dynamic_batching: pages of one inference are of one size, and this input's depends on the page: leave it out")
	}
	return faults
}

func (in Input) validate() []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if in.Name == "" {
		fault("input.name: missing")
	}
	side := func(name string, pixels int) {
		if pixels < 1 || pixels > maxSide {
			fault("input.%s: %d, must be 1 to %d", name, pixels, maxSide)
		}
	}
	if in.Varies() {
		side("shortest_edge", in.ShortestEdge)
		side("longest_edge", in.LongestEdge)
		if in.LongestEdge < in.ShortestEdge {
			fault("input.longest_edge: %d, must not be below shortest_edge %d", in.LongestEdge, in.ShortestEdge)
		}
		if in.Width != 0 || in.Height != 0 {
			fault("input: width and height are for inputs of one size, shortest_edge and longest_edge for those that vary: give one pair")
		}
	} else {
		side("width", in.Width)
		side("height", in.Height)
	}
	switch in.Resize {
	case Area, Linear, Pillow, OpenCV, "":
	default:
		fault("input.resize: %q, must be %s, %s, %s or %s", in.Resize, Area, Linear, Pillow, OpenCV)
	}
	if in.Channels != "rgb" && in.Channels != "bgr" {
		fault("input.channels: %q, must be rgb or bgr", in.Channels)
	}
	if !in.Normalises() {
		return faults
	}
	for c := range in.Mean {
		if math.IsNaN(in.Mean[c]) || math.IsInf(in.Mean[c], 0) {
			fault("input.mean[%d]: %v, must be finite", c, in.Mean[c])
		}
		if !(in.Std[c] > 0) || math.IsInf(in.Std[c], 0) {
			fault("input.std[%d]: %v, must be above 0", c, in.Std[c])
		}
	}
	return faults
}

func (m Manifest) validateClasses() []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(m.Classes) == 0 || len(m.Classes) > maxClasses {
		fault("classes: %d, must be 1 to %d", len(m.Classes), maxClasses)
	}
	seen := make(map[string]bool)
	for i, c := range m.Classes {
		if c == "" || c == schemas.AllClasses {
			fault("classes[%d]: %q is not a class name", i, c)
		}
		if seen[c] {
			fault("classes[%d]: %q appears twice", i, c)
		}
		seen[c] = true
	}
	if _, ok := m.Thresholds[schemas.AllClasses]; !ok {
		fault("thresholds: %q missing: it stands for every class that is not named", schemas.AllClasses)
	}
	for _, c := range slices.Sorted(maps.Keys(m.Thresholds)) {
		if c != schemas.AllClasses && !seen[c] {
			fault("thresholds: %q is not one of the classes", c)
		}
		if t := m.Thresholds[c]; !(t >= m.ScoreFloor && t <= 1) {
			fault("thresholds: %q: %v, must be between the score floor %v and 1", c, t, m.ScoreFloor)
		}
	}
	return faults
}

func (n NMS) validate(classes []string) []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !(n.IoU > 0 && n.IoU <= 1) {
		fault("nms.iou: %v, must be above 0 and at most 1", n.IoU)
	}
	if !(n.CrossClassIoU > 0 && n.CrossClassIoU <= 1) {
		fault("nms.cross_class_iou: %v, must be above 0 and at most 1 (1 keeps boxes of different classes apart)", n.CrossClassIoU)
	}
	for _, c := range slices.Sorted(maps.Keys(n.Prefer)) {
		if !slices.Contains(classes, c) {
			fault("nms.prefer: %q is not one of the classes", c)
		}
		if from := n.Prefer[c]; !(from >= 0 && from <= 1) {
			fault("nms.prefer: %q: %v, must be between 0 and 1", c, from)
		}
	}
	if n.Candidates < 1 || n.Candidates > maxCandidates {
		fault("nms.candidates: %d, must be 1 to %d", n.Candidates, maxCandidates)
	}
	if n.MaxBoxes < 1 || n.MaxBoxes > maxBoxes {
		fault("nms.max_boxes: %d, must be 1 to %d", n.MaxBoxes, maxBoxes)
	}
	return faults
}
