package family

import (
	"encoding/json"
	"errors"
	"image"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
)

// golden is a small model's outputs and what the NumPy reference in tools made
// of them: crowded, with cells off the page and grids that don't divide the
// input, so that every rule of decoding and suppression applies.
type golden struct {
	Manifest manifest.Manifest
	Page     [2]int
	Boxes    []schemas.Box
	Outputs  []Tensor
}

func readGolden(t testing.TB) (golden, Family) {
	t.Helper()
	b, err := os.ReadFile("testdata/picodet.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	f, err := New(g.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return g, f
}

func TestPicoDetDecodesAsTheReference(t *testing.T) {
	g, f := readGolden(t)
	got, err := f.Decode(g.Outputs, Geometry{Width: g.Page[0], Height: g.Page[1]})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(g.Boxes) {
		t.Fatalf("%d boxes, want %d", len(got), len(g.Boxes))
	}
	for i, w := range g.Boxes {
		if got[i].Class != w.Class || math.Abs(got[i].Score-w.Score) > 2e-5 {
			t.Errorf("box %d is %+v, want %+v", i, got[i], w)
		}
		for k := range w.Rect {
			if math.Abs(got[i].Rect[k]-w.Rect[k]) > 0.011 { // rounding may fall to either side
				t.Errorf("box %d is %+v, want %+v", i, got[i], w)
			}
		}
	}
}

func TestPicoDetKeepsItsLimits(t *testing.T) {
	g, _ := readGolden(t)
	g.Manifest.NMS.MaxBoxes = 5
	f, err := New(g.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	all := g.Boxes
	got, err := f.Decode(g.Outputs, Geometry{Width: g.Page[0], Height: g.Page[1]})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 5 || math.Abs(got[4].Score-all[4].Score) > 2e-5 {
		t.Fatalf("got %v, want the best five of %v", got, all)
	}
}

func TestPicoDetRefusesOutputsOfAnotherModel(t *testing.T) {
	g, f := readGolden(t)
	geometry := Geometry{Width: g.Page[0], Height: g.Page[1]}
	short := slices.Clone(g.Outputs)
	short[1].Data = short[1].Data[:8]
	for name, outputs := range map[string][]Tensor{
		"too few":   g.Outputs[:3],
		"swapped":   {g.Outputs[1], g.Outputs[0], g.Outputs[2], g.Outputs[3]},
		"cut short": short,
	} {
		if _, err := f.Decode(outputs, geometry); !errors.Is(err, ErrOutput) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// What a broken model may put out must not become a box, let alone a record
// that is no JSON.
func TestPicoDetDropsWhatIsNotANumber(t *testing.T) {
	g, f := readGolden(t)
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, o := range g.Outputs {
			for i := range o.Data {
				if i%3 == 0 {
					o.Data[i] = float32(v)
				}
			}
		}
		got, err := f.Decode(g.Outputs, Geometry{Width: g.Page[0], Height: g.Page[1]})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("with %v among the outputs: %v", v, err)
		}
	}
}

func TestPicoDetPreprocess(t *testing.T) {
	g, _ := readGolden(t)
	m := image.NewNRGBA(image.Rect(0, 0, 176, 112)) // twice the input: four pixels to one
	for i := range m.Pix {
		m.Pix[i] = byte(i * 7)
	}
	for _, channels := range []string{"rgb", "bgr"} {
		in := &g.Manifest.Input
		in.Channels = channels
		f, err := New(g.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		shape := f.Input(176, 112)
		if !slices.Equal(shape, []int64{1, 3, 56, 88}) {
			t.Fatalf("input is %v", shape)
		}
		dst := make([]float32, 3*56*88)
		geometry, err := f.Preprocess(pageimage.Of(m), dst, &Scratch{})
		if err != nil || geometry != (Geometry{Width: 176, Height: 112}) {
			t.Fatalf("%+v, %v", geometry, err)
		}
		for plane := range 3 {
			c := plane
			if channels == "bgr" {
				c = 2 - plane
			}
			for _, at := range []image.Point{{0, 0}, {87, 55}, {40, 13}} {
				want := (mean(m, c, float64(2*at.X), float64(2*at.Y), float64(2*at.X+2), float64(2*at.Y+2))/255 - in.Mean[plane]) / in.Std[plane]
				if got := float64(dst[(plane*56+at.Y)*88+at.X]); math.Abs(got-want) > 1e-4 {
					t.Errorf("%s, plane %d at %v: %v, want %v", channels, plane, at, got, want)
				}
			}
		}
		if _, err := f.Preprocess(pageimage.Of(m), dst[:100], &Scratch{}); err == nil {
			t.Error("a tensor of another size was accepted")
		}
	}
}

func TestNewReportsEveryFault(t *testing.T) {
	g, _ := readGolden(t)
	for options, want := range map[string][]string{
		`{"bins":1,"heads":[{"stride":0,"scores":"s"}]}`: {"bins", "heads[0].stride", "names of both outputs"},
		`{"bins":8}`:            {"heads: missing"},
		`{"bins":8,"hands":[]}`: {"hands"},
		``:                      {"bins", "heads"},
	} {
		g.Manifest.Options = json.RawMessage(options)
		_, err := New(g.Manifest)
		if err == nil {
			t.Fatalf("%s accepted", options)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in: %v", options, w, err)
			}
		}
	}
}

func FuzzPicoDetDecode(f *testing.F) {
	g, fam := readGolden(f)
	f.Add(uint64(1), float32(0.5), float32(3))
	f.Add(uint64(2), float32(-1), float32(math.Inf(1)))
	f.Fuzz(func(t *testing.T, where uint64, score, logit float32) {
		outputs := slices.Clone(g.Outputs)
		for i := range outputs {
			data := slices.Clone(outputs[i].Data)
			v := score
			if i%2 == 1 {
				v = logit
			}
			for k := range 5 {
				data[(where>>(8*k))%uint64(len(data))] = v
			}
			outputs[i].Data = data
		}
		w, h := float64(g.Page[0]), float64(g.Page[1])
		boxes, err := fam.Decode(outputs, Geometry{Width: g.Page[0], Height: g.Page[1]})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(boxes, schemas.CompareBoxes) {
			t.Error("boxes are not in order")
		}
		for _, b := range boxes {
			r := b.Rect
			if !(0 <= r[0] && r[0] < r[2] && r[2] <= w && 0 <= r[1] && r[1] < r[3] && r[3] <= h && b.Score >= 0.3 && b.Score <= 1) {
				t.Errorf("box off the page or without an area: %+v", b)
			}
		}
	})
}

func BenchmarkPicoDetDecode(b *testing.B) {
	m, err := manifest.Parse(readFile(b, "../../models/layout_cdla.json"))
	if err != nil {
		b.Fatal(err)
	}
	f, err := New(m)
	if err != nil {
		b.Fatal(err)
	}
	var outputs []Tensor
	for _, shape := range f.OutputShapes() {
		t := Tensor{Shape: shape, Data: make([]float32, shape[1]*shape[2])}
		for i := 0; i < len(t.Data); i += 997 {
			t.Data[i] = 0.5
		}
		outputs = append(outputs, t)
	}
	for b.Loop() {
		if _, err := f.Decode(outputs, Geometry{Width: 918, Height: 1188}); err != nil {
			b.Fatal(err)
		}
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
