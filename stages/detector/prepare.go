package detector

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"leafcutter/stages/detector/internal/repository"
	"leafcutter/stages/detector/internal/rewrite"
	"leafcutter/stages/detector/internal/session"
)

// Preparing a model takes several times the memory of running it: two graphs,
// two sessions, and weights in two orders. Most of it does not come back, for
// C's heap keeps what lies under what is still in use. So where a binary has
// offered itself, it is done in a process that ends with it.

// prepareArgument is how a process is told that it is there to prepare.
const prepareArgument = "prepare-model"

// InChild makes New prepare models in processes of their own: binary, started
// anew, must call PrepareChild where IsPrepareChild says so.
func InChild(binary string) Option {
	return func(l *loader) { l.child = binary }
}

// IsPrepareChild says whether a process with these arguments is one that
// prepares a model.
func IsPrepareChild(args []string) bool { return len(args) == 2 && args[1] == prepareArgument }

// job is what a child is told on its standard input.
type job struct {
	Config Config // resolved
	Model  repository.Fetched
	Into   string // empty folder
}

// PrepareChild prepares a model as its standard input says, and gives the exit
// code. What is wrong it says on standard error.
func PrepareChild(ctx context.Context) int {
	if err := prepareAsTold(ctx, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func prepareAsTold(ctx context.Context, told io.Reader) (err error) {
	var j job
	if err := json.NewDecoder(told).Decode(&j); err != nil {
		return fmt.Errorf("read what to prepare: %w", err)
	}
	l, err := newLoader(j.Config, j.Model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.library.Close()) }()
	l.log = slog.New(slog.DiscardHandler)
	if l.page, err = newPage(l.library, l.family); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.page.slot.Close()) }()
	return l.fill(ctx, j.Into)
}

// preparing is how long a model may be prepared: large ones take some minutes of
// one processor. After it the model runs as shipped.
const preparing = 15 * time.Minute

// fillInChild is fill, in a process of its own.
func (l *loader) fillInChild(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, preparing)
	defer cancel()
	told, err := json.Marshal(job{l.config, repository.Fetched{Manifest: l.manifest, Weights: l.weights}, dir})
	if err != nil {
		return fmt.Errorf("prepare model: %w", err)
	}
	child := exec.CommandContext(ctx, l.child, prepareArgument)
	var complaint bytes.Buffer
	child.Stdin, child.Stderr = bytes.NewReader(told), &complaint
	if err := child.Run(); err != nil {
		return fmt.Errorf("prepare model: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return nil
}

// fill makes a prepared model and its facts in an empty folder, and says so only
// if it computes what the model as shipped does. One session is open at a time.
func (l *loader) fill(ctx context.Context, dir string) error {
	shipped, want, err := l.try(ctx, l.weights, nil, 1)
	if err != nil {
		return err
	}
	if err := shipped.Close(); err != nil {
		return err
	}
	f := facts{Source: l.manifest.SHA256, Runtime: session.Version, Processor: session.Processor()}
	rewritten := filepath.Join(dir, "rewritten.onnx")
	if err := f.rewrite(l.weights, rewritten); err != nil {
		return err
	}
	// The file and its rewriting, each as large as the weights, are garbage now,
	// and Go would not notice before C code has taken as much.
	debug.FreeOSMemory()
	graph := filepath.Join(dir, preparedGraph)
	if err := l.library.Optimize(rewritten, graph, preparedWeights); err != nil {
		return err
	}
	if err := os.Remove(rewritten); err != nil {
		return fmt.Errorf("prepare model: %w", err)
	}
	prepared, got, err := l.try(ctx, graph, &f, 1)
	if err != nil {
		return err
	}
	if err := prepared.Close(); err != nil {
		return err
	}
	if f.Difference = difference(want, got); !(f.Difference <= tolerance) {
		return fmt.Errorf("outputs of the prepared model differ by %g, at most %g allowed", f.Difference, tolerance)
	}
	if l.config.Threads == 0 {
		if f.Speeds, err = l.speeds(ctx, graph, f); err != nil {
			return err
		}
	}
	return f.write(dir)
}

// rewrite rewrites the graph of one file into another.
func (f *facts) rewrite(from, to string) error {
	model, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read weights: %w", err)
	}
	out, report, err := rewrite.Apply(model)
	if err != nil {
		return err
	}
	f.Rewritten = report
	// An operator's name, which stands in the file as it is. Where weights
	// say the same by chance, a model is merely run as if it were one.
	f.Quantized = bytes.Contains(model, []byte("DequantizeLinear"))
	if err := os.WriteFile(to, out, 0o600); err != nil {
		return fmt.Errorf("prepare model: %w", err)
	}
	return nil
}
