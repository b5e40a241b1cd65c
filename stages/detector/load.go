package detector

import (
	"cmp"
	"context"
	_ "embed" // the page on which graphs are compared
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"

	"leafcutter/stages/detector/internal/family"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/repository"
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
	// unprepared is why ahead could not prepare the model lately: it is not tried again.
	unprepared error

	config   Config
	manifest manifest.Manifest
	weights  string // path of the model's file as shipped
	family   family.Family
	library  *session.Runtime
	page     *page                 // on which the model is tried
	child    string                // binary that prepares in a process of its own; "" for this one
	sizes    metric.Int64Histogram // of batches; nil where nobody counts
	log      *slog.Logger
}

// newLoader loads the library, which is then the caller's to close.
func newLoader(c Config, fetched repository.Fetched) (*loader, error) {
	f, err := family.New(fetched.Manifest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModelInvalid, err)
	}
	library, err := session.Load(c.Library)
	if err != nil {
		return nil, err
	}
	return &loader{config: c, manifest: fetched.Manifest, weights: fetched.Weights, family: f, library: library}, nil
}

// load checks the weights and opens the fastest graph for them that is known
// to compute the same.
func (l *loader) load(ctx context.Context) (*session.Session, error) {
	source, err := manifest.FileDigest(l.weights)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s: run make deps, or set LEAFCUTTER_MODELS_DIR to where the models are", ErrModelAbsent, l.weights)
	}
	if err != nil {
		return nil, fmt.Errorf("read weights: %w", err)
	}
	if source != l.manifest.SHA256 {
		return nil, fmt.Errorf("%w: %s is %s, its manifest says %s: remove the file and run make deps", ErrModelDigest, l.weights, source, l.manifest.SHA256)
	}
	if l.provider() != manifest.CPU {
		// A prepared graph is in the order of this processor's kernels.
		s, _, err := l.try(ctx, l.weights, nil, max(1, l.config.Threads))
		if err == nil {
			l.log.Info("model loaded", slog.String("graph", l.weights), slog.String("provider", l.provider()))
		}
		return s, err
	}
	if l.config.CacheDir != "" {
		dir := preparedDir(l.config.CacheDir, source)
		if f, ok := l.prepared(dir); ok {
			s, err := l.open(ctx, dir, f)
			if err == nil || ctx.Err() != nil {
				return s, err
			}
			l.log.Warn("prepared model not usable, preparing it anew", slog.Any("error", err))
			// Else it would be taken for as good as the new one. Another process may have
			// put its own there meanwhile.
			if now, ok := trusted(dir, source); ok && maps.Equal(now.Files, f.Files) {
				_ = os.RemoveAll(dir)
			}
		}
	}
	return l.prepare(ctx)
}

// open opens a prepared model.
func (l *loader) open(ctx context.Context, dir string, f facts) (*session.Session, error) {
	threads := l.threads(f)
	s, _, err := l.try(ctx, filepath.Join(dir, preparedGraph), &f, threads)
	if err == nil {
		l.log.Info("model loaded", slog.String("graph", dir), slog.Int("threads", threads))
	}
	return s, err
}

// prepare makes the fastest and smallest form of a model and opens it. Whatever
// goes wrong with it, the model as shipped is still there.
func (l *loader) prepare(ctx context.Context) (*session.Session, error) {
	why := l.unprepared
	if why == nil {
		var s *session.Session
		if s, why = l.better(ctx); why == nil {
			return s, nil
		}
	}
	if ctx.Err() != nil {
		return nil, why
	}
	if l.config.CacheDir != "" {
		dir := preparedDir(l.config.CacheDir, l.manifest.SHA256)
		if f, ok := trusted(dir, l.manifest.SHA256); ok { // it was not measured, and is better than what was shipped
			if s, err := l.open(ctx, dir, f); err == nil {
				l.log.Warn("threads not measured", slog.Any("error", why))
				return s, nil
			}
		}
	}
	threads := l.threads(facts{})
	s, _, err := l.try(ctx, l.weights, nil, threads)
	if err != nil {
		return nil, err // the model itself is at fault, or what it needs
	}
	l.log.Warn("model not prepared, it runs as shipped", slog.Any("error", why))
	l.log.Info("model loaded", slog.String("graph", l.weights), slog.Int("threads", threads))
	return s, nil
}

// ahead prepares a model into the cache in a process of its own, so that loading it
// afterwards takes a moment. It does nothing where there is no such process, or no
// use of it: load prepares as well, and says what is wrong. With an error it is not
// to be tried again soon: it has taken minutes, perhaps.
func (l *loader) ahead(ctx context.Context) error {
	if l.child == "" || l.config.CacheDir == "" || l.provider() != manifest.CPU {
		return nil
	}
	if source, err := manifest.FileDigest(l.weights); err != nil || source != l.manifest.SHA256 {
		return nil
	}
	if _, ok := l.prepared(preparedDir(l.config.CacheDir, l.manifest.SHA256)); ok {
		return nil
	}
	staged, kept, err := l.stage()
	if err != nil {
		return nil
	}
	defer os.RemoveAll(staged) // at worst a folder stays in a cache
	if kept == "" {
		return nil // it would be gone when it is loaded
	}
	f, err := l.make(ctx, staged)
	if err != nil {
		return err
	}
	if err := l.keep(staged, kept); err != nil {
		l.log.Warn("prepared model not kept, it is made again when it is loaded", slog.Any("error", err))
		return nil
	}
	l.log.Info("model prepared", slog.String("model", l.manifest.Name), slog.Int("hard_swish", f.Rewritten.HardSwish), slog.Int("strips", f.Rewritten.Strips), slog.Float64("difference", f.Difference))
	return nil
}

// better prepares a model, opens it and keeps it.
func (l *loader) better(ctx context.Context) (*session.Session, error) {
	staged, kept, err := l.stage()
	if err != nil {
		return nil, err
	}
	// By the end the folder has another name, or is of no use; what is mapped
	// from it stays.
	defer os.RemoveAll(staged) // at worst a folder stays in a cache

	f, err := l.make(ctx, staged)
	if err != nil {
		return nil, err
	}
	threads := l.threads(f)
	s, _, err := l.try(ctx, filepath.Join(staged, preparedGraph), &f, threads)
	if err != nil {
		return nil, err
	}
	if kept != "" {
		if err := l.keep(staged, kept); err != nil {
			l.log.Warn("prepared model not kept, it will be made again at the next start", slog.Any("error", err))
		}
	}
	l.log.Info("model prepared", slog.Int("hard_swish", f.Rewritten.HardSwish), slog.Int("strips", f.Rewritten.Strips), slog.Float64("difference", f.Difference))
	l.log.Info("model loaded", slog.String("graph", kept), slog.Int("threads", threads))
	return s, nil
}

// prepared says whether a folder of the cache has what is to be loaded. One that was
// made where the number of threads was given was not measured, and is made anew where it
// is not.
func (l *loader) prepared(dir string) (facts, bool) {
	f, ok := trusted(dir, l.manifest.SHA256)
	return f, ok && (l.config.Threads > 0 || len(f.Speeds) > 0)
}

// make prepares a model in an empty folder.
func (l *loader) make(ctx context.Context, staged string) (f facts, err error) {
	if l.child != "" {
		err = l.fillInChild(ctx, staged)
	} else {
		err = l.fill(ctx, staged)
	}
	if err != nil {
		return f, err
	}
	f, ok := trusted(staged, l.manifest.SHA256)
	if !ok {
		return f, errors.New("the prepared model is damaged")
	}
	return f, nil
}

// keep gives a folder with a prepared model its name in the cache.
func (l *loader) keep(staged, kept string) error {
	err := keep(staged, kept, func() bool {
		_, ok := l.prepared(kept)
		return ok
	})
	if err != nil {
		return fmt.Errorf("keep prepared model: %w", err)
	}
	return nil
}

// stage makes an empty folder to prepare a model in. kept is the name that the
// folder is to have in the cache; where the cache cannot be written there is
// none, and the folder is a temporary one.
func (l *loader) stage() (staged, kept string, err error) {
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

// provider is the execution provider.
func (l *loader) provider() string { return cmp.Or(l.config.Provider, l.manifest.Provider) }

// try opens a graph and runs it on the sample page. It returns the outputs.
// prepared is what is known of a prepared graph, nil for one as shipped.
func (l *loader) try(ctx context.Context, graph string, prepared *facts, threads int) (*session.Session, []family.Tensor, error) {
	inputs := []string{l.manifest.Input.Name}
	for _, e := range l.family.Extra() {
		inputs = append(inputs, e.Name)
	}
	s, err := l.library.Open(session.Config{
		Model: graph, Prepared: prepared != nil, Quantized: prepared != nil && prepared.Quantized,
		Inputs: inputs, Outputs: l.family.Outputs(), Varies: l.manifest.Input.Varies(), Threads: threads, Provider: l.provider(),
	})
	if errors.Is(err, ErrProvider) {
		return nil, nil, fmt.Errorf("%s: %w: set LEAFCUTTER_ONNXRUNTIME_LIB to an ONNX Runtime built with it, or LEAFCUTTER_INFERENCE_PROVIDER to cpu", CodeProvider, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrModelInvalid, err)
	}
	session.Forgo() // before the first run, which takes all the memory that runs take
	out, err := l.sample(ctx, s)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, out, nil
}

// sample runs the model on the sample page.
func (l *loader) sample(ctx context.Context, s *session.Session) ([]family.Tensor, error) {
	geometry, err := l.page.preprocess(l.family, samplePage, math.MaxInt32)
	if err != nil {
		return nil, fmt.Errorf("sample page: %w", err)
	}
	if err := s.Run(ctx, l.page.slot); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: on the sample page: %w", ErrModelInvalid, err)
	}
	out := l.page.outputs()
	if _, err := l.family.Decode(out, geometry); err != nil {
		return nil, fmt.Errorf("%w: on the sample page: %w", ErrModelInvalid, err)
	}
	for i := range out {
		out[i].Data, out[i].Ints = slices.Clone(out[i].Data), slices.Clone(out[i].Ints)
	}
	return out, l.page.slot.Forget()
}

// difference is the largest |a-b| / (1+|a|), or NaN or +Inf where outputs are
// not numbers, not of one size, or differ in whole numbers.
func difference(a, b []family.Tensor) float64 {
	worst := 0.0
	for i := range a {
		if len(a[i].Data) != len(b[i].Data) || !slices.Equal(a[i].Ints, b[i].Ints) {
			return math.Inf(1)
		}
		for j, x := range a[i].Data {
			x, y := float64(x), float64(b[i].Data[j])
			worst = max(worst, math.Abs(x-y)/(1+math.Abs(x))) // NaN stays
		}
	}
	return worst
}
