package pagesplitter

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/stages/page-splitter/internal/render"
	"leafcutter/stages/page-splitter/internal/sourcecache"
)

// plannerWorkers is how many documents are planned at once. A document takes some
// milliseconds once it is here; a second worker hides the fetching.
const plannerWorkers = 2

// IsRenderChild says that the process was started to render, and has to call
// [RenderChild] at once.
func IsRenderChild(args []string) bool { return render.IsChild(args) }

// RenderChild renders for the process that started this one until that hangs up,
// and returns the exit status.
func RenderChild() int { return render.Child() }

// Runtime is what the stages run on.
type Runtime struct {
	Stages []string // planner, splitter or both
	Kafka  kafka.Config
	Limits stage.Limits // Workers: ranges rendered at once
	Store  *objectstore.Store

	Logger  *slog.Logger
	Tracers trace.TracerProvider
	Meters  metric.MeterProvider
	// Ready registers a condition of being ready.
	Ready func(name string, check func() error)
}

// Run runs the stages until ctx ends and their work in flight has come to its
// end. The program must be one that begins with [IsRenderChild].
func Run(ctx context.Context, rt Runtime, cfg Config) (err error) {
	planning, splitting := slices.Contains(rt.Stages, PlannerName), slices.Contains(rt.Stages, SplitterName)
	children := 0
	if planning {
		children += plannerWorkers
	}
	if splitting {
		children += rt.Limits.Workers
	}
	pool, err := render.NewPool(ctx, children, cfg.Render, rt.Logger)
	if err != nil {
		return err
	}
	defer pool.Close()
	fetch := func(ctx context.Context, uri string) (io.ReadCloser, int64, error) {
		body, info, err := rt.Store.OpenURI(ctx, uri)
		return body, info.Size, err
	}
	dir, err := cfg.cacheDir()
	if err != nil {
		return err
	}
	sources, err := sourcecache.Open(dir, int64(cfg.CacheBytes), int64(cfg.MaxDocument), fetch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sources.Close()) }()

	asked := controls.New(rt.Logger)
	rt.Ready("controls", asked.Ready)
	var jobs []func(context.Context) error
	if planning {
		models := NewModels(cfg.DefaultModel, rt.Logger)
		rt.Ready("default model", models.Ready)
		runner, err := rt.runner(NewPlanner(cfg, rt.Store, sources, pool, models, asked).Stage(), plannerWorkers)
		if err != nil {
			return err
		}
		jobs = append(jobs, func(ctx context.Context) error {
			// The planner may ask until its last document is done.
			following, stop := context.WithCancel(context.WithoutCancel(ctx))
			followed := make(chan struct{})
			go func() {
				defer close(followed)
				models.Follow(following, rt.Kafka)
			}()
			defer func() { stop(); <-followed }()
			if models.Await(ctx) != nil {
				return nil // stopped before it started
			}
			return runner.Run(ctx)
		})
	}
	if splitting {
		s := NewSplitter(cfg, rt.Store, sources, pool, rt.Limits.MaxAttempts, asked).Stage()
		if cfg.PagesAhead > 0 {
			ahead, err := newAhead(rt.Kafka, cfg.PagesAhead, rt.Logger)
			if err != nil {
				return err
			}
			defer ahead.Close()
			s.Hold = ahead.Hold
		}
		runner, err := rt.runner(s, rt.Limits.Workers)
		if err != nil {
			return err
		}
		jobs = append(jobs, runner.Run)
	}
	return asked.While(ctx, rt.Kafka, func(ctx context.Context) error {
		// One that fails takes the other down: a process is healthy as a whole.
		group, ctx := errgroup.WithContext(ctx)
		for _, job := range jobs {
			group.Go(func() error { return job(ctx) })
		}
		return group.Wait()
	})
}

// runner completes a stage's configuration.
func (rt Runtime) runner(s stage.Config, workers int) (*stage.Runner, error) {
	s.Limits = rt.Limits
	s.Limits.Workers = workers
	s.Probes[objectstore.Dependency] = rt.Store.Probe
	s.Probes["kafka"] = kafka.Probe(rt.Kafka)
	s.Logger, s.TracerProvider, s.MeterProvider = rt.Logger, rt.Tracers, rt.Meters
	runner, err := stage.New(rt.Kafka, s)
	if err != nil {
		return nil, err
	}
	rt.Ready(s.Name+" group", runner.Ready)
	return runner, nil
}
