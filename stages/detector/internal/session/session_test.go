package session

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func build(t testing.TB, path ...string) string {
	t.Helper()
	file := filepath.Join(append([]string{"..", "..", "..", "..", "build"}, path...)...)
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	return file
}

var (
	input   = []int64{1, 3, 800, 608}
	outputs = [][]int64{{1, 130, 10}, {1, 130, 32}}
)

func open(t testing.TB, threads int) (*Runtime, *Session) {
	t.Helper()
	r, err := Load(build(t, "lib", LibraryFile()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(Config{
		Model: build(t, "models", "layout_cdla", "layout_cdla.onnx"), Inputs: []string{"image"},
		Outputs: []string{"transpose_6.tmp_0", "transpose_7.tmp_0"}, Threads: threads,
	})
	if err != nil {
		t.Fatal(errors.Join(err, r.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), s.Close(), r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
	})
	return r, s
}

func slot(t testing.TB, r *Runtime) *Slot {
	t.Helper()
	slot, err := r.NewSlot(nil, outputs)
	if err == nil {
		err = slot.Resize(input)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := slot.Close(); err != nil {
			t.Error(err)
		}
	})
	return slot
}

func TestRunsAtOnceDoNotMeet(t *testing.T) {
	r, s := open(t, 1)
	// Each slot has an input of its own, and must see its own output.
	alone := make([]float32, 3)
	first := slot(t, r)
	for i := range alone {
		for k := range first.Input {
			first.Input[k] = float32(i)
		}
		if err := s.Run(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		alone[i] = first.Outputs[1].Data[0]
	}
	if alone[0] == alone[1] || alone[1] == alone[2] {
		t.Fatalf("outputs don't depend on inputs: %v", alone)
	}
	var wg sync.WaitGroup
	for i := range alone {
		own := slot(t, r)
		for k := range own.Input {
			own.Input[k] = float32(i)
		}
		wg.Go(func() {
			for range 3 {
				if err := s.Run(t.Context(), own); err != nil {
					t.Error(err)
				}
				if own.Outputs[1].Data[0] != alone[i] {
					t.Errorf("slot %d: %v, alone it was %v", i, own.Outputs[1].Data[0], alone[i])
				}
			}
		})
	}
	wg.Wait()
}

// A prepared model gives the same outputs as the one that it was made of, from
// its own two files.
func TestOptimize(t *testing.T) {
	r, s := open(t, 1)
	first := slot(t, r)
	for i := range first.Input {
		first.Input[i] = float32(i%200)/100 - 1
	}
	if err := s.Run(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	graph := filepath.Join(dir, "graph.onnx")
	if err := r.Optimize(build(t, "models", "layout_cdla", "layout_cdla.onnx"), graph, "graph.weights"); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(filepath.Join(dir, "graph.weights")); err != nil || i.Size() < 5<<20 {
		t.Fatalf("weights beside the graph: %v, %v", i, err)
	}
	prepared, err := r.Open(Config{
		Model: graph, Prepared: true, Inputs: []string{"image"}, Outputs: []string{"transpose_6.tmp_0", "transpose_7.tmp_0"}, Threads: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prepared.Close()
	second := slot(t, r)
	copy(second.Input, first.Input)
	if err := prepared.Run(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	for i := range first.Outputs {
		for k, want := range first.Outputs[i].Data {
			if got := second.Outputs[i].Data[k]; math.Abs(float64(got-want)) > 1e-4 {
				t.Fatalf("output %d, value %d: %v, want %v", i, k, got, want)
			}
		}
	}
	FreeMemory() // what lives must survive it
	if err := errors.Join(prepared.Run(t.Context(), second), s.Run(t.Context(), first)); err != nil {
		t.Fatal(err)
	}
	if err := r.Optimize(filepath.Join(dir, "absent.onnx"), graph, "w"); !errors.Is(err, ErrModel) {
		t.Errorf("got %v", err)
	}
}

func TestProcessorFitsAFileName(t *testing.T) {
	if p := Processor(); p == "" || filepath.Base(p) != p || strings.ContainsAny(p, " /:") {
		t.Fatalf("%q", p)
	}
}

// A run that its context ends returns early with the context's error, and its
// slot serves the next run.
func TestContextEndsARun(t *testing.T) {
	r, s := open(t, 1)
	own := slot(t, r)
	start := time.Now()
	if err := s.Run(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(start)
	broken := 0
	for i := 1; i < 20; i++ { // cut at places along the run, none of them its start
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i)/20)
		err := s.Run(ctx, own)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			broken++
		case err != nil:
			t.Fatal(err)
		}
	}
	if broken == 0 {
		t.Error("no run was broken off")
	}
	if err := s.Run(t.Context(), own); err != nil {
		t.Fatalf("the slot of runs that were broken off: %v", err)
	}
}

func TestClosedSessionRefuses(t *testing.T) {
	r, s := open(t, 1)
	own := slot(t, r)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), own); err == nil {
		t.Fatal("a closed session ran")
	}
}

func TestSlotsHaveTheSessionsShape(t *testing.T) {
	r, s := open(t, 1)
	few, err := r.NewSlot(nil, outputs[:1])
	if err != nil {
		t.Fatal(err)
	}
	defer few.Close()
	if err := few.Resize(input); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), few); err == nil {
		t.Error("too few outputs accepted")
	}
	extra, err := r.NewSlot([]Tensor{{Shape: []int64{1}, Ints: []int64{7}}}, outputs)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	if err := extra.Resize(input); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), extra); err == nil {
		t.Error("an input that the model has not was accepted")
	}
	if _, err := r.NewSlot(nil, [][]int64{{1}, {-1}}); err == nil {
		t.Error("an impossible output accepted")
	}
	own := slot(t, r)
	if err := own.Resize([]int64{1, -3}); err == nil {
		t.Error("a negative size accepted")
	}
	if err := s.Run(t.Context(), own); err == nil {
		t.Error("a slot without an input was run")
	}
	if err := own.Resize([]int64{1, 3, 10, 10}); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), own); err == nil {
		t.Error("an input of another size was run")
	}
	if err := own.Resize(input); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), own); err != nil {
		t.Errorf("an input of the right size again: %v", err)
	}
}

// Outputs that the runtime allocates are those of a slot that has its own.
func TestOutputsOfTheRuntime(t *testing.T) {
	r, s := open(t, 1)
	own := slot(t, r)
	free, err := r.NewSlot(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	if err := free.Resize(input); err != nil {
		t.Fatal(err)
	}
	for i := range free.Input {
		free.Input[i], own.Input[i] = float32(i%100)/50, float32(i%100)/50
	}
	if err := s.Run(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what a run finds of the one before is forgotten
		if err := s.Run(t.Context(), free); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range own.Outputs {
		if got := free.Outputs[i]; !slices.Equal(got.Shape, want.Shape) || !slices.Equal(got.Data, want.Data) {
			t.Errorf("output %d differs: shape %v, want %v", i, got.Shape, want.Shape)
		}
	}
	if err := errors.Join(free.Forget(), free.Forget()); err != nil || len(free.Outputs) != 0 {
		t.Errorf("%v, %d outputs left", err, len(free.Outputs))
	}
}

func TestLibraryIsLoadedOnce(t *testing.T) {
	path := build(t, "lib", LibraryFile())
	a, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path + ".other"); !errors.Is(err, ErrLibrary) {
		t.Errorf("another library while one is loaded: %v", err)
	}
	if err := errors.Join(a.Close(), a.Close()); err != nil { // twice, and b still has it
		t.Error(err)
	}
	if _, err := b.Open(Config{Model: "absent.onnx", Inputs: []string{"x"}, Threads: 1}); !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), "absent.onnx") {
		t.Errorf("got %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "absent.so")); !errors.Is(err, ErrLibrary) || !strings.Contains(err.Error(), "make deps") {
		t.Errorf("got %v", err)
	}
}
