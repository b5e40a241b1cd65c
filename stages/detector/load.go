package detector

import (
	"context"
	"crypto/sha256"
	_ "embed" // the page on which graphs are compared
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"

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
	got, err := digestOf(weights)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s: run make deps, or set LEAFCUTTER_MODELS_DIR to where the models are", ErrModelAbsent, weights)
	}
	if err != nil {
		return nil, fmt.Errorf("read weights: %w", err)
	}
	if got != l.manifest.SHA256 {
		return nil, fmt.Errorf("%w: %s is %s, its manifest says %s: remove the file and run make deps", ErrModelDigest, weights, got, l.manifest.SHA256)
	}
	entry := entryFor(l.config.CacheDir, got)
	if l.config.CacheDir != "" && entry.trusted(got) {
		s, _, err := l.try(ctx, entry.graph)
		if err == nil {
			l.log.Info("model loaded", slog.String("graph", entry.graph), slog.Int("threads", l.config.Threads))
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		l.log.Warn("cached graph not usable, making it anew", slog.Any("error", err))
	}
	return l.rewritten(ctx, weights, entry)
}

// try opens a graph and runs it on the sample page. It returns the outputs.
func (l loader) try(ctx context.Context, graph string) (*session.Session, []family.Tensor, error) {
	s, err := l.library.Open(session.Config{
		Model: graph, Input: l.manifest.Input.Name, Outputs: l.family.Outputs(), Threads: l.config.Threads,
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

// rewritten opens the graph as shipped and its rewriting, compares the two,
// and keeps the rewriting if they agree. Whatever goes wrong with it, the graph
// as shipped is still there.
func (l loader) rewritten(ctx context.Context, weights string, entry cacheEntry) (*session.Session, error) {
	shipped, want, err := l.try(ctx, weights)
	if err != nil {
		return nil, err
	}
	better, p, err := l.compare(ctx, weights, entry, want)
	if err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(err, shipped.Close())
		}
		l.log.Warn("model's graph not rewritten, it runs as shipped", slog.Any("error", err))
	}
	if better == nil {
		l.log.Info("model loaded", slog.String("graph", weights), slog.Int("threads", l.config.Threads))
		return shipped, nil
	}
	l.log.Info("model's graph rewritten", slog.Int("hard_swish", p.Report.HardSwish), slog.Float64("difference", p.Difference))
	l.log.Info("model loaded", slog.String("graph", entry.graph), slog.Int("threads", l.config.Threads))
	return better, shipped.Close()
}

// compare returns the session of the rewritten graph, or nil where rewriting
// does not pay or cannot be trusted.
func (l loader) compare(ctx context.Context, weights string, entry cacheEntry, want []family.Tensor) (*session.Session, prepared, error) {
	original, err := os.ReadFile(weights)
	if err != nil {
		return nil, prepared{}, fmt.Errorf("read weights: %w", err)
	}
	graph, report, err := rewrite.Apply(original)
	if err != nil || !report.Pays() {
		return nil, prepared{}, err
	}
	sum := sha256.Sum256(graph)
	p := prepared{Source: l.manifest.SHA256, Graph: hex.EncodeToString(sum[:]), Runtime: session.Version, Report: report}

	cached := l.config.CacheDir != ""
	var staged string
	if cached {
		if staged, err = writeTemp(filepath.Dir(entry.graph), graph); err != nil {
			l.log.Warn("cache not writable, the graph will be rewritten at each start", slog.Any("error", err))
			cached = false
		}
	}
	if !cached {
		if staged, err = writeTemp(os.TempDir(), graph); err != nil {
			return nil, p, err
		}
	}
	defer os.Remove(staged) //nolint:errcheck // renamed by now, or of no use
	s, got, err := l.try(ctx, staged)
	if err != nil {
		return nil, p, err
	}
	if p.Difference = difference(want, got); !(p.Difference <= tolerance) {
		return nil, p, errors.Join(fmt.Errorf("outputs of the rewritten graph differ by %g, at most %g allowed", p.Difference, tolerance), s.Close())
	}
	if cached {
		if err := entry.trust(staged, p); err != nil {
			l.log.Warn("rewritten graph not kept, it will be made again at the next start", slog.Any("error", err))
		}
	}
	return s, p, nil
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
