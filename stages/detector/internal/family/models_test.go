package family_test

import (
	"encoding/json"
	"image"
	"image/draw"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	ort "github.com/yalue/onnxruntime_go"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
	"leafcutter/stages/detector/internal/session"
)

// The models of testdata/families are tiny and of random weights, but their
// inputs and outputs are those of real exports: what is a family's business
// with the runtime is all here. tools/families.py made them and found their
// boxes, with each family's own library and a decoder of its own.

func library(t *testing.T) *session.Runtime {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.work above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
	r, err := session.Load(filepath.Join(dir, "build", "lib", session.LibraryFile()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func readPNG(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	out := image.NewNRGBA(m.Bounds())
	draw.Draw(out, out.Bounds(), m, m.Bounds().Min, draw.Src)
	return out
}

func tensor[T ort.TensorData](t *testing.T, shape []int64, data []T) ort.Value {
	t.Helper()
	v, err := ort.NewTensor(ort.NewShape(shape...), data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// infer runs a model on a family's inputs.
func infer(t *testing.T, path string, m manifest.Manifest, f family.Family, shape []int64, in []float32) []family.Tensor {
	t.Helper()
	names, inputs := []string{m.Input.Name}, []ort.Value{tensor(t, shape, in)}
	for _, e := range f.Extra() {
		names, inputs = append(names, e.Name), append(inputs, tensor(t, e.Shape, e.Ints))
	}
	s, err := ort.NewDynamicAdvancedSession(path, names, f.Outputs(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy() //nolint:errcheck // nothing depends on it
	outputs := make([]ort.Value, len(f.Outputs()))
	if err := s.Run(inputs, outputs); err != nil {
		t.Fatal(err)
	}
	var out []family.Tensor
	for _, v := range outputs {
		o := family.Tensor{Shape: v.GetShape()}
		switch v := v.(type) {
		case *ort.Tensor[float32]:
			o.Data = append(o.Data, v.GetData()...)
		case *ort.Tensor[int64]:
			o.Ints = append(o.Ints, v.GetData()...)
		default:
			t.Fatalf("an output of type %T", v)
		}
		out = append(out, o)
		if err := v.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestFamiliesFindWhatTheirOwnCodeFinds(t *testing.T) {
	library(t)
	dirs, err := filepath.Glob("../../testdata/families/*")
	if err != nil || len(dirs) < 6 {
		t.Fatalf("%v, %v", dirs, err)
	}
	pages := map[string]string{"report": "../../report.png", "walden": "../../testdata/walden.png"}
	for _, dir := range dirs {
		m, err := manifest.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		f, err := family.New(m)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "boxes.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want map[string][]schemas.Box
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		for page, path := range pages {
			t.Run(m.Name+"/"+page, func(t *testing.T) {
				img := readPNG(t, path)
				size := img.Bounds().Size()
				shape := f.Input(size.X, size.Y)
				n := int64(1)
				for _, d := range shape {
					n *= d
				}
				in := make([]float32, n)
				g, err := f.Preprocess(pageimage.Of(img), in, &family.Scratch{})
				if err != nil {
					t.Fatal(err)
				}
				got, err := f.Decode(infer(t, filepath.Join(dir, m.File), m, f, shape, in), g)
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, want[page])
			})
		}
	}
}

// same compares boxes in order; another release of the runtime may differ in
// the last bits, so scores to a ten-thousandth and coordinates to a twentieth
// of a pixel, or to a whole one where a family rounds to those.
func same(t *testing.T, got, want []schemas.Box) {
	t.Helper()
	if len(got) != len(want) || len(want) < 8 {
		t.Fatalf("%d boxes, want %d", len(got), len(want))
	}
	for i, w := range want {
		if got[i].Class != w.Class || math.Abs(got[i].Score-w.Score) > 1e-4 {
			t.Errorf("box %d is %+v, want %+v", i, got[i], w)
		}
		for k := range w.Rect {
			if math.Abs(got[i].Rect[k]-w.Rect[k]) > 0.05 {
				t.Errorf("box %d is %+v, want %+v", i, got[i], w)
				break
			}
		}
	}
}
