package session

import (
	"errors"
	"fmt"

	ort "github.com/yalue/onnxruntime_go"
)

// Tensor is values in row-major order: Ints where they are int64, else Data.
type Tensor struct {
	Shape []int64
	Data  []float32
	Ints  []int64
}

// Slot is the memory of one run: its inputs, its outputs, and the switch that
// ends it. A Slot belongs to one run at a time.
type Slot struct {
	// Input is the first input. It is written before a run, after Resize has
	// said how large it is.
	Input []float32
	// Outputs are read after a run, in the order of Config.Outputs. Where
	// the runtime allocates them they are there until Forget.
	Outputs []Tensor

	shape  []int64
	memory memory // of Input
	in     ort.Value
	extra  []ort.Value
	out    []ort.Value // nil where the runtime allocates
	fixed  []memory    // of out
	opts   *ort.RunOptions
}

// NewSlot allocates a slot for sessions that take an input and these others
// after it, and give outputs of these shapes, all float32. Without shapes the
// runtime allocates the outputs in each run.
func (r *Runtime) NewSlot(extra []Tensor, outputs [][]int64) (_ *Slot, err error) {
	s := &Slot{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, e := range extra {
		value, err := valueOf(e)
		if err != nil {
			return nil, fmt.Errorf("input tensor: %w", err)
		}
		s.extra = append(s.extra, value)
	}
	for _, shape := range outputs {
		m, value, err := floats(memory{}, shape)
		s.fixed = append(s.fixed, m) // Close gives it back
		if err != nil {
			return nil, fmt.Errorf("output tensor: %w", err)
		}
		s.out = append(s.out, value)
		s.Outputs = append(s.Outputs, Tensor{Shape: shape, Data: value.GetData()})
	}
	if s.opts, err = ort.NewRunOptions(); err != nil {
		return nil, fmt.Errorf("run options: %w", err)
	}
	return s, nil
}

// Resize gives Input the shape. Its memory is kept where it is large enough, so
// it is as large as the largest page so far.
func (s *Slot) Resize(shape []int64) error {
	if s.in != nil && equal(shape, s.shape) {
		return nil
	}
	if s.in != nil {
		if err := s.in.Destroy(); err != nil {
			return fmt.Errorf("input tensor: %w", err)
		}
		s.in, s.Input, s.shape = nil, nil, nil
	}
	m, value, err := floats(s.memory, shape)
	s.memory = m // whatever err is: what it was may be unmapped
	if err != nil {
		return fmt.Errorf("input tensor: %w", err)
	}
	s.in, s.Input, s.shape = value, value.GetData(), shape
	return nil
}

func equal(a, b []int64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// floats makes a tensor in memory, which is made larger where it must be.
func floats(m memory, shape []int64) (memory, *ort.Tensor[float32], error) {
	n := int64(1)
	for _, d := range shape {
		if d < 1 || n > maxValues/d {
			return m, nil, fmt.Errorf("shape %v", shape)
		}
		n *= d
	}
	m, err := m.atLeast(int(n))
	if err != nil {
		return m, nil, err
	}
	value, err := ort.NewTensor(shape, m.floats()[:n])
	return m, value, err
}

// maxValues is how many values a tensor has at most: 4 GiB of them.
const maxValues = 1 << 30

func valueOf(t Tensor) (ort.Value, error) {
	if t.Ints != nil {
		return ort.NewTensor(t.Shape, t.Ints)
	}
	return ort.NewTensor(t.Shape, t.Data)
}

// take makes Outputs of what the runtime allocated.
func (s *Slot) take(values []ort.Value) error {
	s.Outputs, s.out = s.Outputs[:0], values
	for _, v := range values {
		t, err := tensorOf(v)
		if err != nil {
			return err
		}
		s.Outputs = append(s.Outputs, t)
	}
	return nil
}

// tensorOf is a value of the runtime, which it aliases.
func tensorOf(v ort.Value) (Tensor, error) {
	switch v := v.(type) {
	case *ort.Tensor[float32]:
		return Tensor{Shape: v.GetShape(), Data: v.GetData()}, nil
	case *ort.Tensor[int64]:
		return Tensor{Shape: v.GetShape(), Ints: v.GetData()}, nil
	}
	return Tensor{}, fmt.Errorf("a tensor is neither of float32 nor of int64 but %T", v)
}

// Forget gives back the outputs that the runtime allocated. It is to be called
// when they have been read; calling it again, or where the slot has outputs of
// its own, does nothing.
func (s *Slot) Forget() error {
	if s.fixed != nil {
		return nil
	}
	var errs []error
	for _, v := range s.out {
		if v != nil {
			errs = append(errs, v.Destroy())
		}
	}
	s.out, s.Outputs = nil, s.Outputs[:0]
	return errors.Join(errs...)
}

// Close frees the slot. No run may be using it.
func (s *Slot) Close() error {
	values := append(append([]ort.Value{s.in}, s.extra...), s.out...)
	var errs []error
	for _, v := range values {
		if v != nil {
			errs = append(errs, v.Destroy())
		}
	}
	if s.opts != nil {
		errs = append(errs, s.opts.Destroy())
	}
	for _, m := range append(s.fixed, s.memory) {
		errs = append(errs, m.free())
	}
	*s = Slot{}
	return errors.Join(errs...)
}
