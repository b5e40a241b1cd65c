package detector

import (
	"bufio"
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
	"runtime"
	"strings"
	"syscall"
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
	child.SysProcAttr = childAttributes()
	// The kernel ends the child with the thread that started it, not with the process,
	// and Go may end a thread. It keeps this one for as long as the child runs.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
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
	session.FreeMemory() // C's heap keeps it otherwise, and finds no use for it
	f := facts{Source: l.manifest.SHA256, Runtime: session.Version, Processor: session.Processor()}
	rewritten := filepath.Join(dir, "rewritten.onnx")
	if err := f.rewrite(l.weights, rewritten); err != nil {
		return err
	}
	graph := filepath.Join(dir, preparedGraph)
	if err := l.library.Optimize(rewritten, graph, preparedWeights); err != nil {
		return err
	}
	session.FreeMemory()
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

// rewrite rewrites the graph of one file into another. The first is mapped: read, it
// and what is written would be garbage as large as the weights, of which Go would not
// notice that it is in the way of C code.
func (f *facts) rewrite(from, to string) (err error) {
	model, unmap, err := mapFile(from)
	if err != nil {
		return fmt.Errorf("read weights: %w", err)
	}
	defer func() { err = errors.Join(err, unmap()) }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("prepare model: %w", err)
	}
	pieces := bufio.NewWriter(out)
	f.Rewritten, err = rewrite.Apply(model, pieces)
	f.Quantized = f.Rewritten.Quantized
	if err = errors.Join(err, pieces.Flush(), out.Close()); err != nil {
		return fmt.Errorf("prepare model: %w", err)
	}
	return nil
}

// mapFile is a file's content, until unmap is called.
func mapFile(name string) (content []byte, unmap func() error, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() // what is mapped stays
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Size() == 0 {
		return nil, func() error { return nil }, nil
	}
	content, err = syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_PRIVATE)
	return content, func() error { return syscall.Munmap(content) }, err
}
