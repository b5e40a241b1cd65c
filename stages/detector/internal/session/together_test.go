package session

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
)

// tiny opens one of the tiny models that tools/families.py makes.
func tiny(t *testing.T, name string, inputs, outputs []string) (*Runtime, *Session) {
	t.Helper()
	r, err := Load(build(t, "lib", LibraryFile()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(Config{Model: "../../testdata/families/" + name + "/model.onnx", Inputs: inputs, Outputs: outputs, Threads: 1})
	if err != nil {
		t.Fatal(errors.Join(err, r.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), r.Close()); err != nil {
			t.Error(err)
		}
	})
	return r, s
}

// newSlot makes a slot whose input is of the seed's making.
func newSlot(t *testing.T, r *Runtime, shape []int64, extra []Tensor, outputs [][]int64, seed int) *Slot {
	t.Helper()
	s, err := r.NewSlot(extra, outputs)
	if err == nil && shape != nil {
		err = s.Resize(shape)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range s.Input {
		s.Input[i] = float32((i*(seed+7)+seed*seed)%256) / 255
	}
	return s
}

// Slots that are run together have the outputs that each has by itself, whoever
// holds their memory and whatever else goes in.
func TestTogetherAsAlone(t *testing.T) {
	for name, c := range map[string]struct {
		inputs, outputs []string
		shape           []int64
		extra           []Tensor
		shapes          [][]int64
	}{
		"yolo_batch": {
			inputs: []string{"images"}, outputs: []string{"output0"}, shape: []int64{1, 3, 160, 128}, shapes: [][]int64{{1, 7, 420}},
		},
		"rtdetr_batch": {
			inputs: []string{"images", "orig_target_sizes"}, outputs: []string{"labels", "boxes", "scores"}, shape: []int64{1, 3, 128, 128},
			extra: []Tensor{{Shape: []int64{1, 2}, Ints: []int64{128, 128}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := tiny(t, name, c.inputs, c.outputs)
			all := newSlot(t, r, nil, nil, nil, 0)
			var slots []*Slot
			var alone [][]Tensor
			for i := range 5 {
				slot := newSlot(t, r, c.shape, c.extra, c.shapes, i)
				if err := s.Run(t.Context(), slot); err != nil {
					t.Fatal(err)
				}
				var found []Tensor
				for _, o := range slot.Outputs {
					found = append(found, Tensor{slices.Clone(o.Shape), slices.Clone(o.Data), slices.Clone(o.Ints)})
				}
				slots, alone = append(slots, slot), append(alone, found)
			}
			for _, n := range []int{5, 1, 3, 5} { // more and fewer, in the same memory
				from := len(slots) - n
				if err := s.RunTogether(t.Context(), all, slots[from:]); err != nil {
					t.Fatal(err)
				}
				for i, slot := range slots[from:] {
					for o, want := range alone[from+i] {
						alike(t, slot.Outputs[o], want)
					}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.RunTogether(ctx, all, slots); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			other := newSlot(t, r, []int64{1, 3, 32, 32}, c.extra, c.shapes, 0)
			if err := s.RunTogether(t.Context(), all, append(slots[:2:2], other)); err == nil {
				t.Error("inputs of two sizes were run together")
			}
			if err := s.RunTogether(t.Context(), all, nil); err == nil {
				t.Error("nothing was run")
			}
		})
	}
}

// alike allows for sums in another order: 1e-5 of values about 1.
func alike(t *testing.T, got, want Tensor) {
	t.Helper()
	if !slices.Equal(got.Shape, want.Shape) || !slices.Equal(got.Ints, want.Ints) || len(got.Data) != len(want.Data) {
		t.Fatalf("shape %v, %v; want %v, %v", got.Shape, got.Ints, want.Shape, want.Ints)
	}
	for i, w := range want.Data {
		if d := math.Abs(float64(got.Data[i] - w)); !(d <= 1e-5*(1+math.Abs(float64(w)))) {
			t.Fatalf("value %d is %v, want %v", i, got.Data[i], w)
		}
	}
}

// A model whose file says one page, or says any number and has been built for
// one, takes no more; pages by themselves it takes as before.
func TestModelThatTakesOne(t *testing.T) {
	for name, c := range map[string]struct {
		input   string
		outputs []string
		shape   []int64
	}{
		"yolo":          {"images", []string{"output0"}, []int64{1, 3, 160, 128}},
		"rtdetr_logits": {"pixel_values", []string{"logits", "pred_boxes"}, []int64{1, 3, 128, 128}},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := tiny(t, name, []string{c.input}, c.outputs)
			slots := []*Slot{newSlot(t, r, c.shape, nil, nil, 1), newSlot(t, r, c.shape, nil, nil, 2)}
			if err := s.RunTogether(t.Context(), newSlot(t, r, nil, nil, nil, 0), slots); err == nil {
				t.Fatal("two pages were taken")
			}
			if err := s.Run(t.Context(), slots[1]); err != nil {
				t.Error(err)
			}
		})
	}
}
