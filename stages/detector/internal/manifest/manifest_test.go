package manifest

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func shipped(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../../models/layout_cdla.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// changed is the shipped manifest after change, as JSON.
func changed(t *testing.T, change func(m map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(shipped(t), &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestShippedManifestsAreValid(t *testing.T) {
	files, err := filepath.Glob("../../models/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if m.Name+".json" != filepath.Base(f) {
			t.Errorf("%s describes %s", f, m.Name)
		}
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	_, err := Parse([]byte(`{
		"name": "My Model", "file": "../weights.onnx", "sha256": "ABC", "provider": "abacus",
		"input": {"width": 0, "height": 100000, "resize": "seam", "channels": "cmyk", "std": [1, 0, 1]},
		"classes": ["a", "", "a"], "score_floor": 1, "thresholds": {"b": 2},
		"nms": {"iou": 0, "cross_class_iou": 2, "prefer": {"z": -1}, "candidates": 0, "max_boxes": 1000000},
		"dynamic_batching": {"max_batch_size": 1, "max_queue_delay_ms": -1}}`))
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"name:", "version:", "file:", "sha256:", "family:", "provider:", "input.name:", "input.width:", "input.height:",
		"input.resize:", "input.channels:", "input.std[1]:", "classes[1]:", `"a" appears twice`, "score_floor:",
		`thresholds: "*" missing`, `thresholds: "b" is not`, `thresholds: "b": 2`, "nms.iou:", "nms.cross_class_iou:",
		`nms.prefer: "z" is not`, `nms.prefer: "z": -1`, "nms.candidates:", "nms.max_boxes:",
		"dynamic_batching.max_batch_size: 1", "dynamic_batching.max_queue_delay_ms: -1",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not among the faults:\n%v", want, err)
		}
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, b := range map[string][]byte{
		"a mistyped field": changed(t, func(m map[string]any) { m["score_flor"] = 0.2 }),
		"something after":  append(shipped(t), "{}"...),
		"not JSON":         []byte("name: layout"),
		"a batch of pages of any size": changed(t, func(m map[string]any) {
			m["input"] = map[string]any{"name": "image", "shortest_edge": 800, "longest_edge": 1333, "channels": "bgr"}
			m["dynamic_batching"] = map[string]any{"max_batch_size": 8, "max_queue_delay_ms": 20}
		}),
		"a threshold below": changed(t, func(m map[string]any) { m["thresholds"] = map[string]any{"*": 0.05} }),
	} {
		if _, err := Parse(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Read(t.TempDir()); !errors.Is(err, ErrAbsent) {
		t.Errorf("an empty folder: got %v", err)
	}
}

func digest(t *testing.T, b []byte) string {
	t.Helper()
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	d, err := m.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The digest is in every run's identity: were it to change for the shipped
// model without a change of what the model finds, every document would be run
// anew. So a change of this value is a decision.
func TestDigestOfTheShippedModel(t *testing.T) {
	const want = "03e4cd3de3162747401df6bba702988486b949de21e82af0130bc023fe0c2fd0"
	if got := digest(t, shipped(t)); got != want {
		t.Fatalf("digest is %s, was %s", got, want)
	}
}

func TestDigestIsOfWhatChangesResults(t *testing.T) {
	base := digest(t, shipped(t))
	for name, change := range map[string]func(m map[string]any){
		"name":       func(m map[string]any) { m["name"] = "other" },
		"version":    func(m map[string]any) { m["version"] = "9" },
		"source":     func(m map[string]any) { m["source"] = "elsewhere" },
		"thresholds": func(m map[string]any) { m["thresholds"] = map[string]any{"*": 0.6} },
		"provider":   func(m map[string]any) { delete(m, "provider") },
		"batches": func(m map[string]any) {
			m["dynamic_batching"] = map[string]any{"max_batch_size": 8, "max_queue_delay_ms": 0}
		},
		"nothing": func(map[string]any) {}, // but the order of keys and white space
	} {
		if digest(t, changed(t, change)) != base {
			t.Errorf("%s changed the digest", name)
		}
	}
	for name, change := range map[string]func(m map[string]any){
		"weights":     func(m map[string]any) { m["sha256"] = strings.Repeat("0", 64) },
		"family":      func(m map[string]any) { m["family"] = "other" },
		"channels":    func(m map[string]any) { m["input"].(map[string]any)["channels"] = "bgr" },
		"classes":     func(m map[string]any) { m["classes"].([]any)[0] = "prose" },
		"score floor": func(m map[string]any) { m["score_floor"] = 0.11 },
		"nms":         func(m map[string]any) { m["nms"].(map[string]any)["iou"] = 0.6 },
		"prefer":      func(m map[string]any) { delete(m["nms"].(map[string]any), "prefer") },
		"options":     func(m map[string]any) { m["options"].(map[string]any)["bins"] = 9 },
	} {
		if digest(t, changed(t, change)) == base {
			t.Errorf("%s did not change the digest", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(shipped(f))
	f.Add([]byte(`{"thresholds":{"*":1e999}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		d, err := m.Digest()
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		n, err := Parse(again)
		if err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		if e, err := n.Digest(); err != nil || e != d {
			t.Fatalf("digest after writing and reading: %s, %v, was %s", e, err, d)
		}
	})
}
