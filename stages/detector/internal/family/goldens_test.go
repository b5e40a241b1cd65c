package family

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/pageimage"
)

// hashed is the page that tools/families.py makes too: a hash of each byte's
// place.
func hashed(w, h int, seed uint32) *heldRows {
	pix := make([]byte, 3*w*h)
	for i := range pix {
		x := uint32(i)*2654435761 + seed
		x ^= x >> 15
		x *= 2246822519
		x ^= x >> 13
		pix[i] = byte(x)
	}
	return &heldRows{w: w, h: h, channels: 3, pix: pix}
}

func hexOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestPagesShrinkBitForBitAsTheLibrariesDo(t *testing.T) {
	var cases []struct {
		Method string
		Page   [2]int
		To     [2]int
		SHA256 string
	}
	if err := json.Unmarshal(readFile(t, "testdata/resize.json"), &cases); err != nil {
		t.Fatal(err)
	}
	var s eightBitScratch // reused: a page's size must not show in the next
	for _, c := range cases {
		w, h := c.Page[0], c.Page[1]
		t.Run(fmt.Sprintf("%s %dx%d to %dx%d", c.Method, w, h, c.To[0], c.To[1]), func(t *testing.T) {
			var got []byte
			page := hashed(w, h, uint32(w+h))
			err := shrink8(page, c.Method, c.To[0], c.To[1], &s, func(_ int, row []byte) { got = append(got, row...) })
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 3*c.To[0]*c.To[1] || hexOf(got) != c.SHA256 {
				t.Errorf("the pixels are others than the library's")
			}
			if page.y != h {
				t.Errorf("%d of %d rows were read", page.y, h)
			}
		})
	}
}

func TestShrink8OfAGreyPageIsThatOfTheSameInRGB(t *testing.T) {
	for _, method := range []string{manifest.Pillow, manifest.OpenCV} {
		var got [2][]byte
		for i := range got {
			page := pageimage.Rows(hashed(33, 57, 1).grey())
			if i == 1 {
				page = held(t, pageimage.RGB(page))
			}
			put := func(_ int, row []byte) { got[i] = append(got[i], row...) }
			if err := shrink8(page, method, 20, 30, &eightBitScratch{}, put); err != nil {
				t.Fatal(err)
			}
		}
		if len(got[0]) != 3*20*30 || !bytes.Equal(got[0], got[1]) {
			t.Errorf("%s: the pixels of a grey page are others than those of the same in RGB", method)
		}
	}
}

func TestShrink8ReportsADamagedPage(t *testing.T) {
	put := func(int, []byte) {}
	if err := shrink8(brokenRows{}, manifest.Pillow, 2, 2, &eightBitScratch{}, put); err == nil {
		t.Error("no error")
	}
	if err := shrink8(brokenRows{}, manifest.Area, 2, 2, &eightBitScratch{}, put); err == nil {
		t.Error("a resize that is not of 8 bits was taken")
	}
}

// reference is what tools/families.py found: a page as the input, outputs of
// the family's shapes, and the boxes that they are.
type reference struct {
	Manifest manifest.Manifest
	Page     [2]int
	Input    struct {
		Shape  []int64
		SHA256 string
	}
	Outputs []Tensor
	Boxes   []schemas.Box
}

func (r reference) geometry() Geometry { return Geometry{Width: r.Page[0], Height: r.Page[1]} }

func (r reference) family(t testing.TB) Family {
	t.Helper()
	if err := r.Manifest.Validate(); err != nil {
		t.Fatal(err)
	}
	f, err := New(r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func readReference(t testing.TB, name string) reference {
	t.Helper()
	var r reference
	d := json.NewDecoder(bytes.NewReader(readFile(t, "testdata/"+name+".json")))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	for i := range r.Outputs {
		if o := &r.Outputs[i]; o.Data == nil && o.Ints == nil {
			t.Fatalf("output %d has no values", i)
		}
	}
	return r
}

func references(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".json"); name != "picodet" && name != "resize" {
			names = append(names, name)
		}
	}
	if len(names) < 8 {
		t.Fatalf("only %v", names)
	}
	return names
}

func TestFamiliesPreprocessAsTheReference(t *testing.T) {
	var s Scratch
	for _, name := range references(t) {
		t.Run(name, func(t *testing.T) {
			r := readReference(t, name)
			f := r.family(t)
			shape := f.Input(r.Page[0], r.Page[1])
			if !slices.Equal(shape, r.Input.Shape) {
				t.Fatalf("the input is %v, want %v", shape, r.Input.Shape)
			}
			dst := make([]float32, values(shape))
			for i := range dst {
				dst[i] = 77 // of the page before
			}
			g, err := f.Preprocess(hashed(r.Page[0], r.Page[1], 0), dst, &s)
			if err != nil || g != r.geometry() {
				t.Fatalf("%+v, %v", g, err)
			}
			raw := make([]byte, 0, 4*len(dst))
			for _, v := range dst {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
			}
			if hexOf(raw) != r.Input.SHA256 {
				t.Error("the input is not that of the family's own code")
			}
			if _, err := f.Preprocess(hashed(r.Page[0], r.Page[1], 0), dst[1:], &s); err == nil {
				t.Error("a tensor of another size was accepted")
			}
			if _, err := f.Preprocess(brokenRows{}, make([]float32, values(f.Input(4, 4))), &s); err == nil {
				t.Error("a damaged page was accepted")
			}
		})
	}
}

func TestFamiliesDecodeAsTheReference(t *testing.T) {
	for _, name := range references(t) {
		t.Run(name, func(t *testing.T) {
			r := readReference(t, name)
			f := r.family(t)
			if shapes := f.OutputShapes(); shapes != nil && !slices.EqualFunc(shapes, r.Outputs, func(s []int64, o Tensor) bool { return slices.Equal(s, o.Shape) }) {
				t.Errorf("output shapes are %v", shapes)
			}
			got, err := f.Decode(r.Outputs, r.geometry())
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(r.Boxes) || name != "mask_rcnn" && len(got) == 0 {
				t.Fatalf("%d boxes, want %d:\n%v\n%v", len(got), len(r.Boxes), got, r.Boxes)
			}
			for i, w := range r.Boxes {
				if got[i].Class != w.Class || math.Abs(got[i].Score-w.Score) > 2e-5 {
					t.Errorf("box %d is %+v, want %+v", i, got[i], w)
				}
				for k := range w.Rect {
					if math.Abs(got[i].Rect[k]-w.Rect[k]) > 0.011 { // rounding may fall to either side
						t.Errorf("box %d is %+v, want %+v", i, got[i], w)
					}
				}
			}
		})
	}
}

func TestFamiliesRefuseOutputsOfAnotherModel(t *testing.T) {
	for _, name := range references(t) {
		t.Run(name, func(t *testing.T) {
			r := readReference(t, name)
			f := r.family(t)
			refused := func(what string, outputs []Tensor) {
				t.Helper()
				if _, err := f.Decode(outputs, r.geometry()); !errors.Is(err, ErrOutput) {
					t.Errorf("%s: got %v", what, err)
				}
			}
			refused("too few", r.Outputs[1:])
			for i, o := range r.Outputs {
				with := func(o Tensor) []Tensor {
					out := slices.Clone(r.Outputs)
					out[i] = o
					return out
				}
				refused("another rank", with(Tensor{Shape: append(slices.Clone(o.Shape), 1), Data: o.Data, Ints: o.Ints}))
				if n := len(o.Data); n > 0 {
					refused("int64 for float32", with(Tensor{Shape: o.Shape, Ints: make([]int64, n)}))
					refused("cut short", with(Tensor{Shape: o.Shape, Data: o.Data[:n-1]}))
					wide := slices.Clone(o.Shape)
					wide[len(wide)-1]++
					refused("one more a row", with(Tensor{Shape: wide, Data: make([]float32, values(wide))}))
				}
				if len(o.Ints) > 0 {
					refused("float32 for int64", with(Tensor{Shape: o.Shape, Data: make([]float32, len(o.Ints))}))
					high := slices.Clone(o.Ints)
					for i := range high {
						high[i] = 1 << 40
					}
					refused("classes that there are not", with(Tensor{Shape: o.Shape, Ints: high}))
				}
			}
		})
	}
}

// What a broken model may put out must not become a box, let alone a record
// that is no JSON, nor end the process.
func FuzzFamiliesDecode(f *testing.F) {
	names := references(f)
	for i := range names {
		f.Add(uint8(i), uint64(i*12345), float32(math.NaN()), int64(1))
		f.Add(uint8(i), uint64(99), float32(math.Inf(1)), int64(-1))
		f.Add(uint8(i), uint64(3), float32(-1e30), int64(3))
	}
	f.Fuzz(func(t *testing.T, which uint8, where uint64, v float32, class int64) {
		r := readReference(t, names[int(which)%len(names)])
		for _, o := range r.Outputs {
			for k := range 8 {
				if n := uint64(len(o.Data)); n > 0 {
					o.Data[(where>>(5*k))%n] = v
				}
				if n := uint64(len(o.Ints)); n > 0 {
					o.Ints[(where>>(5*k))%n] = class
				}
			}
		}
		boxes, err := r.family(t).Decode(r.Outputs, r.geometry())
		if err != nil {
			if !errors.Is(err, ErrOutput) {
				t.Fatal(err)
			}
			return
		}
		if _, err := json.Marshal(boxes); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(boxes, schemas.CompareBoxes) {
			t.Error("boxes are not in order")
		}
		for _, b := range boxes {
			if x := b.Rect; !(0 <= x[0] && x[0] < x[2] && x[2] <= float64(r.Page[0]) && 0 <= x[1] && x[1] < x[3] && x[3] <= float64(r.Page[1]) && b.Score >= 0.25 && b.Score <= 1) {
				t.Errorf("box off the page or without an area: %+v", b)
			}
		}
	})
}

func BenchmarkShrink8(b *testing.B) {
	for _, method := range []string{manifest.Pillow, manifest.OpenCV} {
		b.Run(method, func(b *testing.B) {
			page := hashed(918, 1188, 1)
			var s eightBitScratch
			b.SetBytes(int64(len(page.pix)))
			for b.Loop() {
				page.y = 0
				if err := shrink8(page, method, 800, 1035, &s, func(int, []byte) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
