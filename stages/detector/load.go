package detector

import (
	"context"
	_ "embed" // the page on which graphs are compared
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/rewrite"
	"leafcutter/stages/detector/internal/session"
)

// samplePage is a page with headings, text, a table and a figure. Each model
// is run on it once before its first real page; where the graph was rewritten,
// both graphs are, and must agree.
//
//go:embed report.png
var samplePage []byte

// tolerance is the largest relative difference, |a-b| / (1+|a|), between the
// outputs of a graph and of its rewriting. Reordered float32 arithmetic
// differs by less than 1e-5; a rewriting that is wrong, by much more.
const tolerance = 1e-3

// loader turns a model's folder into a session that is warm.
type loader struct {
	config   Config
	manifest manifest.Manifest
	family   family.Family
	library  *session.Runtime
	page     *page // on which the model is tried
	log      *slog.Logger
}

// load checks the weights and opens the fastest graph for them that is known
// to compute the same.
func (l loader) load(ctx context.Context) (*session.Session, error) {
	weights := filepath.Join(l.config.ModelsDir, l.config.Model, l.manifest.File)
	source, err := digestOf(weights)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s: run make deps, or set LEAFCUTTER_MODELS_DIR to where the models are", ErrModelAbsent, weights)
	}
	if err != nil {
		return nil, fmt.Errorf("read weights: %w", err)
	}
	if source != l.manifest.SHA256 {
		return nil, fmt.Errorf("%w: %s is %s, its manifest says %s: remove the file and run make deps", ErrModelDigest, weights, source, l.manifest.SHA256)
	}
	if l.config.CacheDir != "" {
		dir := preparedDir(l.config.CacheDir, source)
		if trusted(dir, source) {
			s, _, err := l.try(ctx, filepath.Join(dir, preparedGraph), true)
			if err == nil {
				l.log.Info("model loaded", slog.String("graph", dir), slog.Int("threads", l.config.Threads))
				return s, nil
			}
			if ctx.Err() != nil {
				return nil, err
			}
			l.log.Warn("prepared model not usable, preparing it anew", slog.Any("error", err))
		}
	}
	return l.prepare(ctx, weights)
}

// prepare makes the fastest and smallest form of a model, compares it with the
// model as shipped, and keeps it if they agree. Whatever goes wrong with it, the
// model as shipped is still there. One session is open at a time: this is when
// a detector needs most memory.
func (l loader) prepare(ctx context.Context, weights string) (*session.Session, error) {
	shipped, want, err := l.try(ctx, weights, false)
	if err != nil {
		return nil, err
	}
	if err := shipped.Close(); err != nil {
		return nil, err
	}
	better, err := l.better(ctx, weights, want)
	if err == nil {
		return better, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	l.log.Warn("model not prepared, it runs as shipped", slog.Any("error", err))
	shipped, _, err = l.try(ctx, weights, false)
	if err != nil {
		return nil, err
	}
	l.log.Info("model loaded", slog.String("graph", weights), slog.Int("threads", l.config.Threads))
	return shipped, nil
}

// better prepares a model and opens it. want is what the model as shipped
// makes of the sample page.
func (l loader) better(ctx context.Context, weights string, want []family.Tensor) (_ *session.Session, err error) {
	staged, kept, err := l.stage()
	if err != nil {
		return nil, err
	}
	// By now the folder has another name, or is of no use; what is mapped
	// from it stays.
	defer os.RemoveAll(staged) // at worst a folder stays in a cache

	f := facts{Source: l.manifest.SHA256, Runtime: session.Version, Processor: session.Processor()}
	rewritten := filepath.Join(staged, "rewritten.onnx")
	if f.Rewritten, err = rewriteFile(weights, rewritten); err != nil {
		return nil, err
	}
	graph := filepath.Join(staged, preparedGraph)
	if err := l.library.Optimize(rewritten, graph, preparedWeights); err != nil {
		return nil, err
	}
	if err := os.Remove(rewritten); err != nil {
		return nil, fmt.Errorf("prepare model: %w", err)
	}
	s, got, err := l.try(ctx, graph, true)
	if err != nil {
		return nil, err
	}
	if f.Difference = difference(want, got); !(f.Difference <= tolerance) {
		return nil, errors.Join(fmt.Errorf("outputs of the prepared model differ by %g, at most %g allowed", f.Difference, tolerance), s.Close())
	}
	if kept != "" {
		if err := keep(staged, kept, f); err != nil {
			l.log.Warn("prepared model not kept, it will be made again at the next start", slog.Any("error", err))
		}
	}
	l.log.Info("model prepared", slog.Int("hard_swish", f.Rewritten.HardSwish), slog.Float64("difference", f.Difference))
	l.log.Info("model loaded", slog.String("graph", kept), slog.Int("threads", l.config.Threads))
	return s, nil
}

// stage makes an empty folder to prepare a model in. kept is the name that the
// folder is to have in the cache; where the cache cannot be written there is
// none, and the folder is a temporary one.
func (l loader) stage() (staged, kept string, err error) {
	if l.config.CacheDir != "" {
		kept = preparedDir(l.config.CacheDir, l.manifest.SHA256)
		sweep(filepath.Dir(kept), time.Hour)
		if err = os.MkdirAll(filepath.Dir(kept), 0o755); err == nil {
			if staged, err = os.MkdirTemp(filepath.Dir(kept), unfinished); err == nil {
				return staged, kept, nil
			}
		}
		l.log.Warn("cache not writable, the model will be prepared at each start (LEAFCUTTER_CACHE_DIR chooses another)", slog.Any("error", err))
	}
	if staged, err = os.MkdirTemp("", "leafcutter-model-"); err != nil {
		return "", "", fmt.Errorf("prepare model: %w", err)
	}
	return staged, "", nil
}

// rewriteFile rewrites the graph of one file into another.
func rewriteFile(from, to string) (rewrite.Report, error) {
	model, err := os.ReadFile(from)
	if err != nil {
		return rewrite.Report{}, fmt.Errorf("read weights: %w", err)
	}
	out, report, err := rewrite.Apply(model)
	if err != nil {
		return report, err
	}
	if err := os.WriteFile(to, out, 0o600); err != nil {
		return report, fmt.Errorf("prepare model: %w", err)
	}
	return report, nil
}

// try opens a graph and runs it on the sample page. It returns the outputs.
func (l loader) try(ctx context.Context, graph string, prepared bool) (*session.Session, []family.Tensor, error) {
	s, err := l.library.Open(session.Config{
		Model: graph, Prepared: prepared, Input: l.manifest.Input.Name, Outputs: l.family.Outputs(), Threads: l.config.Threads,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrModelInvalid, err)
	}
	out, err := l.sample(ctx, s)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, out, nil
}

// sample runs the model on the sample page.
func (l loader) sample(ctx context.Context, s *session.Session) ([]family.Tensor, error) {
	if err := l.page.png.Open(samplePage, math.MaxInt32); err != nil {
		return nil, fmt.Errorf("sample page: %w", err)
	}
	geometry, err := l.family.Preprocess(&l.page.png, l.page.slot.Input, &l.page.scratch)
	if err != nil {
		return nil, fmt.Errorf("sample page: %w", err)
	}
	if err := s.Run(ctx, l.page.slot); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: on the sample page: %w", ErrModelInvalid, err)
	}
	out := tensors(l.family, l.page.slot)
	if _, err := l.family.Decode(out, geometry); err != nil {
		return nil, fmt.Errorf("%w: on the sample page: %w", ErrModelInvalid, err)
	}
	for i := range out {
		out[i].Data = slices.Clone(out[i].Data)
	}
	return out, nil
}

// difference is the largest |a-b| / (1+|a|), or NaN or +Inf where outputs are
// not numbers or not of one size.
func difference(a, b []family.Tensor) float64 {
	worst := 0.0
	for i := range a {
		if len(a[i].Data) != len(b[i].Data) {
			return math.Inf(1)
		}
		for j, x := range a[i].Data {
			x, y := float64(x), float64(b[i].Data[j])
			worst = max(worst, math.Abs(x-y)/(1+math.Abs(x))) // NaN stays
		}
	}
	return worst
}
