package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"leafcutter/pkg/crop"
	"leafcutter/pkg/pngdec"
	"leafcutter/schemas"
)

// tutorial runs the tutorial's own code (stages/detector/tools/tutorial_crops.py).
type tutorial struct {
	python, script, weights string
	pdfs                    []string
	pages, start            int
}

// cropped is a crop: its rectangle on the page, and its pixels.
type cropped struct {
	Box    [4]int `json:"box"`
	Size   [2]int `json:"size"`
	SHA256 string `json:"sha256"` // of width × height × RGB
}

// reference is a page on which the tutorial's code has found something.
type reference struct {
	Page    string    `json:"page"` // file beside crops.json
	Crops   []cropped `json:"crops"`
	Seconds float64   `json:"seconds"`
	CPU     float64   `json:"cpu_seconds"`
}

// run puts the pages through in a process of its own, and leaves them and crops.json in out. The second result is the peak
// of the process's memory in bytes.
func (t tutorial) run(ctx context.Context, out string, threads int) ([]reference, int64, error) {
	args := append([]string{t.script, "--weights", t.weights, "--pages", strconv.Itoa(t.pages), "--from", strconv.Itoa(t.start),
		"--threads", strconv.Itoa(threads), out}, t.pdfs...)
	cmd := exec.CommandContext(ctx, t.python, args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	said, err := cmd.Output()
	if err != nil {
		return nil, 0, fmt.Errorf("run the tutorial's code: %w\n%s", err, complaint.Bytes())
	}
	lines := bytes.Split(bytes.TrimSpace(said), []byte("\n"))
	var last struct {
		Peak int64 `json:"peak_bytes"`
	}
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
		return nil, 0, fmt.Errorf("read what the tutorial's code says: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(out, "crops.json"))
	if err != nil {
		return nil, 0, fmt.Errorf("the tutorial's code found nothing: %w", err)
	}
	var found []reference
	if err := json.Unmarshal(b, &found); err != nil {
		return nil, 0, fmt.Errorf("read the tutorial's crops: %w", err)
	}
	if len(found) == 0 {
		return nil, 0, errors.New("the tutorial's code found nothing on any page")
	}
	for _, f := range found {
		sortCrops(f.Crops)
	}
	return found, last.Peak, nil
}

// cut is what the annotator cuts out for boxes that score more than 0.9, without padding.
func cut(p page, boxes []schemas.Box) ([]cropped, error) {
	image, err := pngdec.New(1 << 26).Decode(p.png)
	if err != nil {
		return nil, fmt.Errorf("decode page %s: %w", p.name, err)
	}
	var crops []cropped
	for _, b := range boxes {
		rect := crop.Rect(b.Rect, 0, image.Width, image.Height)
		if !(b.Score > 0.9) || crop.Empty(rect) {
			continue
		}
		sum := sha256.New()
		for y := rect[1]; y < rect[3]; y++ {
			sum.Write(image.Row(y)[3*rect[0] : 3*rect[2]])
		}
		crops = append(crops, cropped{rect, [2]int{rect[2] - rect[0], rect[3] - rect[1]}, hex.EncodeToString(sum.Sum(nil))})
	}
	sortCrops(crops)
	return crops, nil
}

func sortCrops(c []cropped) {
	slices.SortFunc(c, func(a, b cropped) int {
		return cmp.Or(slices.Compare(a.Box[:], b.Box[:]), cmp.Compare(a.SHA256, b.SHA256))
	})
}

// agreement is how many things two contenders found alike, of how many each found.
type agreement struct{ same, first, second int }

func (a agreement) add(b agreement) agreement {
	return agreement{a.same + b.same, a.first + b.first, a.second + b.second}
}

// share is 1 where all are alike, 0 where none is.
func (a agreement) share() float64 { return 2 * float64(a.same) / float64(max(a.first+a.second, 1)) }

// sameCrops counts crops that are equal in place and in every pixel.
func sameCrops(want, got []cropped) agreement {
	a := agreement{0, len(want), len(got)}
	for _, c := range want {
		if slices.Contains(got, c) {
			a.same++
		}
	}
	return a
}

// sameBoxes counts boxes of one class that score more than 0.9 and overlap by 0.9 and more (intersection over union). The
// best of want choose first.
func sameBoxes(want, got []schemas.Box) agreement {
	good := func(boxes []schemas.Box) []schemas.Box {
		kept := slices.DeleteFunc(slices.Clone(boxes), func(b schemas.Box) bool { return !(b.Score > 0.9) })
		slices.SortStableFunc(kept, func(a, b schemas.Box) int { return cmp.Compare(b.Score, a.Score) })
		return kept
	}
	want, got = good(want), good(got)
	a := agreement{0, len(want), len(got)}
	for _, w := range want {
		best, at := 0.9, -1
		for i, g := range got {
			if v := overlap(w.Rect, g.Rect); g.Class == w.Class && v >= best {
				best, at = v, i
			}
		}
		if at >= 0 {
			a.same++
			got = slices.Delete(got, at, at+1)
		}
	}
	return a
}

func overlap(a, b [4]float64) float64 {
	area := func(r [4]float64) float64 { return max(0, r[2]-r[0]) * max(0, r[3]-r[1]) }
	both := area([4]float64{max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])})
	if both == 0 {
		return 0
	}
	return both / (area(a) + area(b) - both)
}
