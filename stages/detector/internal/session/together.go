package session

import (
	"context"
	"errors"
	"fmt"
	"slices"

	ort "github.com/yalue/onnxruntime_go"
)

// RunTogether computes what Run would for each of some slots, in one run: their
// inputs, which have one shape with a first dimension of 1, follow each other
// along it in those of all, a slot that was made without outputs and belongs to
// this call. Each slot has its part of the outputs then, as after a run of its own.
// Values may differ from those of such a run in their last bits, for kernels add up
// in another order. When ctx ends the error is that of ctx.
func (s *Session) RunTogether(ctx context.Context, all *Slot, slots []*Slot) error {
	if err := all.gather(slots); err != nil {
		return fmt.Errorf("inputs of %d runs: %w", len(slots), err)
	}
	if err := s.Run(ctx, all); err != nil {
		return err
	}
	return errors.Join(all.scatter(slots), all.Forget())
}

// gather makes the slot's inputs of those of others.
func (s *Slot) gather(slots []*Slot) error {
	if len(slots) == 0 {
		return errors.New("there are none")
	}
	first, n := slots[0], int64(len(slots))
	for _, of := range slots {
		if of.in == nil || len(of.shape) == 0 || of.shape[0] != 1 || !equal(of.shape, first.shape) || len(of.extra) != len(first.extra) {
			return fmt.Errorf("shape %v beside %v, want equal ones that begin with 1", of.shape, first.shape)
		}
	}
	shape := slices.Clone(first.shape)
	shape[0] = n
	if err := s.Resize(shape); err != nil {
		return err
	}
	each := len(first.Input)
	for i, of := range slots {
		copy(s.Input[i*each:(i+1)*each], of.Input)
	}
	for _, e := range s.extra {
		if err := e.Destroy(); err != nil {
			return err
		}
	}
	s.extra = s.extra[:0]
	for e := range first.extra {
		value, err := together(slots, e)
		if err != nil {
			return err
		}
		s.extra = append(s.extra, value)
	}
	return nil
}

// together is one further input of all slots.
func together(slots []*Slot, e int) (ort.Value, error) {
	t := Tensor{Shape: slices.Clone([]int64(slots[0].extra[e].GetShape()))}
	if len(t.Shape) == 0 || t.Shape[0] != 1 {
		return nil, fmt.Errorf("another input has the shape %v, want one that begins with 1", t.Shape)
	}
	t.Shape[0] = int64(len(slots))
	for _, of := range slots {
		one, err := tensorOf(of.extra[e])
		if err != nil {
			return nil, err
		}
		t.Data, t.Ints = append(t.Data, one.Data...), append(t.Ints, one.Ints...)
	}
	return valueOf(t)
}

// scatter gives each slot its part of the outputs.
func (s *Slot) scatter(slots []*Slot) error {
	for i, of := range slots {
		if err := of.Forget(); err != nil {
			return err
		}
		for o, output := range s.Outputs {
			part, err := output.part(i, len(slots))
			if err != nil {
				return err
			}
			if of.fixed == nil {
				of.Outputs = append(of.Outputs, Tensor{Shape: part.Shape, Data: slices.Clone(part.Data), Ints: slices.Clone(part.Ints)})
				continue
			}
			if o >= len(of.Outputs) || !equal(part.Shape, of.Outputs[o].Shape) {
				return fmt.Errorf("output %d has the shape %v for one of %d pages", o, part.Shape, len(slots))
			}
			copy(of.Outputs[o].Data, part.Data)
		}
	}
	return nil
}

// part is the i-th of n along the first dimension. It aliases the whole.
func (t Tensor) part(i, n int) (Tensor, error) {
	if len(t.Shape) == 0 || t.Shape[0] != int64(n) {
		return Tensor{}, fmt.Errorf("an output has the shape %v for %d pages, want one that begins with their number", t.Shape, n)
	}
	shape := slices.Clone(t.Shape)
	shape[0] = 1
	floats, ints := len(t.Data)/n, len(t.Ints)/n
	return Tensor{Shape: shape, Data: t.Data[i*floats : (i+1)*floats], Ints: t.Ints[i*ints : (i+1)*ints]}, nil
}
