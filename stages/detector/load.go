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
	"leafcutter/stages/detector/internal/pageimage"
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
}

// load checks the weights and opens the fastest graph for them that is known
// to compute the same.
func (l loader) load(ctx context.Context) (*session.Session, error) {
	weights := filepath.Join(l.config.ModelDir, l.manifest.File)
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
	log := l.config.Logger.With(slog.String("model", l.manifest.Name))
	entry := entryFor(l.config.CacheDir, got)
	if l.config.CacheDir != "" && entry.trusted(got) {
		s, _, err := l.try(ctx, entry.graph)
		if err == nil {
			log.Info("model loaded", slog.String("graph", entry.graph), slog.Int("threads", l.config.Threads))
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		log.Warn("cached graph not usable, making it anew", slog.Any("error", err))
	}
	return l.rewritten(ctx, log, weights, entry)
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

func (l loader) sample(ctx context.Context, s *session.Session) (out []family.Tensor, err error) {
	slot, err := l.slot(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, slot.Close()) }()
	var png pageimage.PNG
	if err := png.Open(samplePage, l.config.MaxPixels); err != nil {
		return nil, fmt.Errorf("sample page: %w", err)
	}
	geometry, err := l.family.Preprocess(&png, slot.Input, &family.Scratch{})
	if err != nil {
		return nil, fmt.Errorf("sample page: %w", err)
	}
	if err := s.Run(ctx, slot); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: on the sample page: %w", ErrModelInvalid, err)
	}
	out = tensors(l.family, slot)
	if _, err := l.family.Decode(out, geometry); err != nil {
		return nil, fmt.Errorf("%w: on the sample page: %w", ErrModelInvalid, err)
	}
	for i := range out {
		out[i].Data = slices.Clone(out[i].Data)
	}
	return out, nil
}

func (l loader) slot(s *session.Session) (*session.Slot, error) {
	in := l.manifest.Input
	slot, err := s.NewSlot(l.family.Input(in.Width, in.Height), l.family.OutputShapes())
	if err != nil {
		return nil, fmt.Errorf("tensors of model %s: %w", l.manifest.Name, err)
	}
	return slot, nil
}

// rewritten opens the graph as shipped and its rewriting, compares the two,
// and keeps the rewriting if they agree. Whatever goes wrong with it, the graph
// as shipped is still there.
func (l loader) rewritten(ctx context.Context, log *slog.Logger, weights string, entry cacheEntry) (*session.Session, error) {
	shipped, want, err := l.try(ctx, weights)
	if err != nil {
		return nil, err
	}
	better, p, err := l.compare(ctx, log, weights, entry, want)
	if err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(err, shipped.Close())
		}
		log.Warn("model's graph not rewritten, it runs as shipped", slog.Any("error", err))
	}
	if better == nil {
		log.Info("model loaded", slog.String("graph", weights), slog.Int("threads", l.config.Threads))
		return shipped, nil
	}
	log.Info("model's graph rewritten", slog.Int("hard_swish", p.Report.HardSwish), slog.Float64("difference", p.Difference))
	log.Info("model loaded", slog.String("graph", entry.graph), slog.Int("threads", l.config.Threads))
	return better, shipped.Close()
}

// compare returns the session of the rewritten graph, or nil where rewriting
// does not pay or cannot be trusted.
func (l loader) compare(ctx context.Context, log *slog.Logger, weights string, entry cacheEntry, want []family.Tensor) (*session.Session, prepared, error) {
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
		if staged, err = stage(filepath.Dir(entry.graph), graph); err != nil {
			log.Warn("cache not writable, the graph will be rewritten at each start", slog.Any("error", err))
			cached = false
		}
	}
	if !cached {
		if staged, err = stage(os.TempDir(), graph); err != nil {
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
			log.Warn("rewritten graph not kept, it will be made again at the next start", slog.Any("error", err))
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
