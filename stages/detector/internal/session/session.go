package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// ErrModel means that the runtime does not accept the model. Names and shapes
// that it does not have are found out by the first run.
var ErrModel = errors.New("model not accepted")

// Config says what to run.
type Config struct {
	// Model is the path of the ONNX file; Prepared says that Optimize made
	// it, so that there is nothing left to optimise.
	Model    string
	Prepared bool
	// Input is the name of the only input, Outputs those of the outputs
	// wanted, in the order in which Slot.Outputs has them.
	Input   string
	Outputs []string
	// Threads is how many threads one run uses.
	Threads int
}

// Session is a loaded model. Run may be called concurrently, each call with a
// Slot of its own.
type Session struct {
	s       *ort.DynamicAdvancedSession
	outputs int

	mu     sync.RWMutex // held for reading by runs: Close waits for them
	closed bool
}

// Open loads a model. The Runtime must outlive it.
func (r *Runtime) Open(c Config) (*Session, error) {
	level := ort.GraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll)
	if c.Prepared {
		level = ort.GraphOptimizationLevelDisableAll
	}
	o, err := options(c.Threads, level)
	if err != nil {
		return nil, err
	}
	defer o.Destroy() //nolint:errcheck // the session has its own copy
	s, err := ort.NewDynamicAdvancedSession(c.Model, []string{c.Input}, c.Outputs, o)
	if err != nil {
		return nil, fmt.Errorf("%w: load %s: %w", ErrModel, c.Model, err)
	}
	return &Session{s: s, outputs: len(c.Outputs)}, nil
}

// options are those measured for a fixed input size, on one thread, over the
// process without a model: arena on and memory pattern off 63 MB, both on 90,
// both off 187, pattern without arena 328.
func options(threads int, level ort.GraphOptimizationLevel) (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, fmt.Errorf("session options: %w", err)
	}
	for _, set := range []func() error{
		func() error { return o.SetIntraOpNumThreads(threads) },
		func() error { return o.SetInterOpNumThreads(1) },
		func() error { return o.SetExecutionMode(ort.ExecutionModeSequential) },
		func() error { return o.SetGraphOptimizationLevel(level) },
		func() error { return o.SetCpuMemArena(true) },
		func() error { return o.SetMemPattern(false) },
		// Idle threads would otherwise keep their cores busy for more
		// than a second after each run, cores that the other stages need.
		func() error { return o.AddSessionConfigEntry("session.intra_op.allow_spinning", "0") },
		func() error { return o.AddSessionConfigEntry("session.inter_op.allow_spinning", "0") },
		func() error { return o.SetLogSeverityLevel(ort.LoggingLevelError) },
	} {
		if err := set(); err != nil {
			return nil, errors.Join(fmt.Errorf("session options: %w", err), o.Destroy())
		}
	}
	return o, nil
}

// Slot is the memory of one run: its input, its outputs, and the switch that
// ends it. A Slot belongs to one run at a time.
type Slot struct {
	// Input is written before a run; Outputs are read after it, in the
	// order of Config.Outputs.
	Input   []float32
	Outputs [][]float32

	in   ort.Value
	out  []ort.Value
	opts *ort.RunOptions
}

// NewSlot allocates a slot for these shapes. It serves every session that has
// them.
func (r *Runtime) NewSlot(input []int64, outputs [][]int64) (*Slot, error) {
	slot := &Slot{}
	in, err := ort.NewEmptyTensor[float32](input)
	if err != nil {
		return nil, fmt.Errorf("input tensor: %w", err)
	}
	slot.in, slot.Input = in, in.GetData()
	for _, shape := range outputs {
		out, err := ort.NewEmptyTensor[float32](shape)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("output tensor: %w", err), slot.Close())
		}
		slot.out, slot.Outputs = append(slot.out, out), append(slot.Outputs, out.GetData())
	}
	if slot.opts, err = ort.NewRunOptions(); err != nil {
		return nil, errors.Join(fmt.Errorf("run options: %w", err), slot.Close())
	}
	return slot, nil
}

// Close frees the slot. No run may be using it.
func (s *Slot) Close() error {
	var errs []error
	for _, v := range append([]ort.Value{s.in}, s.out...) {
		if v != nil {
			errs = append(errs, v.Destroy())
		}
	}
	if s.opts != nil {
		errs = append(errs, s.opts.Destroy())
	}
	*s = Slot{}
	return errors.Join(errs...)
}

// Run computes the slot's outputs from its input. When ctx ends the run is
// broken off between two operators, and its error is that of ctx.
func (s *Session) Run(ctx context.Context, slot *Slot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errors.New("run of a closed session")
	}
	if len(slot.out) != s.outputs {
		return fmt.Errorf("slot of %d outputs for a model of %d", len(slot.out), s.outputs)
	}
	// Terminate sets a flag in slot.opts that the next run would still see,
	// and it may be setting it while this run returns by itself. So wait for
	// it before clearing the flag.
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_ = slot.opts.Terminate() // fails only for options that don't exist
	})
	err := s.s.RunWithOptions([]ort.Value{slot.in}, slices.Clone(slot.out), slot.opts)
	if !stop() {
		<-told
		if e := slot.opts.UnsetTerminate(); e != nil {
			return fmt.Errorf("reset run options: %w", e)
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("run model: %w", err)
}

// Close waits for the runs under way and unloads the model. Closing twice is
// legal.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.s.Destroy()
}
