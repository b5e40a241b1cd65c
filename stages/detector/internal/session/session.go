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
	// Quantized says that a prepared model's weights are integers.
	Quantized bool
	// Inputs are the names of the inputs: that of Slot.Input, then those of
	// the others that NewSlot was given. Outputs are those of the outputs
	// wanted, in the order in which Slot.Outputs has them.
	Inputs, Outputs []string
	// Varies says that the input has another size from page to page.
	Varies bool
	// Threads is how many threads one run uses.
	Threads int
	// Provider is who computes: one of package manifest's, or "" for the
	// processor.
	Provider string
}

// Session is a loaded model. Run may be called concurrently, each call with a
// Slot of its own.
type Session struct {
	s               *ort.DynamicAdvancedSession
	inputs, outputs int
	weights         weights

	mu     sync.RWMutex // held for reading by runs: Close waits for them
	closed bool
}

// Open loads a model. The Runtime must outlive it. Until the first run of a
// prepared model no other session is to be opened.
func (r *Runtime) Open(c Config) (*Session, error) {
	level := ort.GraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll)
	if c.Prepared {
		level = ort.GraphOptimizationLevelDisableAll
	}
	o, err := options(c, level)
	if err != nil {
		return nil, err
	}
	defer o.Destroy() //nolint:errcheck // the session has its own copy
	var others []mapping
	if c.Prepared {
		others = mapped(c.Model)
	}
	s, err := ort.NewDynamicAdvancedSession(c.Model, c.Inputs, c.Outputs, o)
	if err != nil {
		return nil, fmt.Errorf("%w: load %s: %w", ErrModel, c.Model, err)
	}
	opened := &Session{s: s, inputs: len(c.Inputs), outputs: len(c.Outputs)}
	if c.Prepared {
		opened.weights.graph, opened.weights.least, opened.weights.others = c.Model, largeWeights, others
	}
	return opened, nil
}

// options are those measured. For a fixed input size, on one thread, over the
// process without a model: arena on and memory pattern off 63 MB, both on 90,
// both off 187, pattern without arena 328. Where the size varies the arena
// would keep what the largest page took, cut into pieces that fit no other.
// Batches of one to eight pages by turns are no such thing: YOLOv10n stayed at
// 329 MB resident with the arena and came to 798 without, on a fifth more
// processor time; the default model stayed at 541 with it. Pages differ little
// in what layers take of them, and the first batch is a full one, so pieces of
// that serve the smaller ones.
func options(c Config, level ort.GraphOptimizationLevel) (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, fmt.Errorf("session options: %w", err)
	}
	for _, set := range []func() error{
		func() error { return o.SetIntraOpNumThreads(c.Threads) },
		func() error { return o.SetInterOpNumThreads(1) },
		func() error { return o.SetExecutionMode(ort.ExecutionModeSequential) },
		func() error { return o.SetGraphOptimizationLevel(level) },
		func() error { return o.SetCpuMemArena(!c.Varies) },
		func() error { return o.SetMemPattern(false) },
		// Idle threads would otherwise keep their cores busy for more
		// than a second after each run, cores that the other stages need.
		func() error { return o.AddSessionConfigEntry("session.intra_op.allow_spinning", "0") },
		func() error { return o.AddSessionConfigEntry("session.inter_op.allow_spinning", "0") },
		// Kernels for floats would keep a copy of each weight in an order
		// of their own, which gains nothing that can be measured; those for
		// integers take half as long again without it.
		func() error {
			if c.Prepared && !c.Quantized {
				return o.AddSessionConfigEntry("session.disable_prepacking", "1")
			}
			return nil
		},
		func() error { return o.SetLogSeverityLevel(ort.LoggingLevelError) },
	} {
		if err := set(); err != nil {
			return nil, errors.Join(fmt.Errorf("session options: %w", err), o.Destroy())
		}
	}
	if err := provide(o, c.Provider); err != nil {
		return nil, errors.Join(err, o.Destroy())
	}
	return o, nil
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
	if err := slot.Forget(); err != nil {
		return fmt.Errorf("outputs of the run before: %w", err)
	}
	if slot.in == nil || 1+len(slot.extra) != s.inputs || (slot.fixed != nil && len(slot.out) != s.outputs) {
		return fmt.Errorf("slot of %d inputs and %d outputs for a model of %d and %d", 1+len(slot.extra), len(slot.out), s.inputs, s.outputs)
	}
	outputs := slices.Clone(slot.out)
	if slot.fixed == nil {
		outputs = make([]ort.Value, s.outputs)
	}
	// Terminate sets a flag in slot.opts that the next run would still see,
	// and it may be setting it while this run returns by itself. So wait for
	// it before clearing the flag.
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_ = slot.opts.Terminate() // fails only for options that don't exist
	})
	err := s.s.RunWithOptions(append([]ort.Value{slot.in}, slot.extra...), outputs, slot.opts)
	s.weights.letGo()
	if !stop() {
		<-told
		if e := slot.opts.UnsetTerminate(); e != nil {
			return fmt.Errorf("reset run options: %w", e)
		}
	}
	switch {
	case err == nil && slot.fixed == nil:
		return slot.take(outputs)
	case err == nil:
		return nil
	case ctx.Err() != nil:
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
