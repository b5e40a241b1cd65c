// Command detector runs the detector stage: it finds boxes on page images with
// one model, and announces which.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"

	"leafcutter/stages/detector"
)

// version is set by the linker.
var version string

// config is everything that the binary reads.
type config struct {
	Detector detector.Config
	Kafka    kafka.Config
	Objects  objectstore.Config
	Limits   stage.Limits
}

func main() {
	tune()
	if detector.IsPrepareChild(os.Args) {
		os.Exit(detector.PrepareChild(context.Background())) // killed when it is not wanted any more
	}
	if detector.IsModelTool(os.Args) {
		os.Exit(detector.ModelTool(context.Background(), os.Args, os.Stdout, os.Stderr))
	}
	os.Exit(program.Main(program.Spec[config]{
		Name:      detector.Name,
		Purpose:   "finds boxes on page images",
		Version:   version,
		AdminAddr: "127.0.0.1:8093",
		Run:       run,
	}))
}

func run(ctx context.Context, p *program.Program, cfg config) error {
	// Little is allocated for a page, so collecting early costs nothing that
	// can be measured, and letting Go's memory double would only be waste.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the binary that prepares models: %w", err)
	}
	d, err := load(ctx, p, cfg.Detector, detector.InChild(binary))
	if err != nil {
		return err
	}
	defer d.Close()
	store, err := objectstore.Open(ctx, cfg.Objects,
		objectstore.WithTelemetry(p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()))
	if err != nil {
		return err
	}
	defer store.Close()

	s := d.Stage(store)
	asked := controls.New(p.Logger)
	p.Health.Register("controls", asked.Ready)
	asked.Heed(&s)
	s.Limits = cfg.Limits
	if s.Limits.Workers == 0 {
		s.Limits.Workers = d.Workers()
	}
	s.Probes = map[string]func(context.Context) error{
		"kafka":                kafka.Probe(cfg.Kafka),
		objectstore.Dependency: store.Probe,
	}
	s.Logger, s.TracerProvider, s.MeterProvider = p.Logger, p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()
	runner, err := stage.New(cfg.Kafka, s)
	if err != nil {
		return err
	}
	announcement, err := announce(p, cfg.Kafka, d)
	if err != nil {
		return err
	}
	p.Health.Register("kafka group", runner.Ready)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		announcement(ctx)
	}()
	err = asked.While(ctx, cfg.Kafka, runner.Run)
	if ctx.Err() != nil {
		<-announced
	}
	return err
}

// load loads the model. While there is none that can be loaded the program is
// not ready, says why, and looks again: models come by volumes and copies that
// may be late, and ending would only hide the reason in a restart loop.
func load(ctx context.Context, p *program.Program, cfg detector.Config, options ...detector.Option) (*detector.Detector, error) {
	var why atomic.Pointer[error]
	starting := errors.New("loading")
	why.Store(&starting)
	p.Health.Register("model", func() error {
		if err := why.Load(); err != nil {
			return *err
		}
		return nil
	})
	d, err := backoff.Retry(ctx, func() (*detector.Detector, error) {
		d, err := detector.New(ctx, cfg, p.Logger, options...)
		if err != nil && ctx.Err() == nil {
			why.Store(&err)
			p.Logger.Error("model not loaded, looking again soon", slog.Any("error", err))
		}
		return d, err
	}, backoff.WithBackOff(backoff.NewConstantBackOff(5*time.Second)), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return nil, err
	}
	why.Store(nil)
	return d, nil
}

// announce says on the topic models which model is served, once, as soon as
// Kafka takes it. The planner refuses or parks documents for models that
// nobody has announced, so the program is not ready before. The function that
// it returns does it, and returns when that is done or ctx ends.
func announce(p *program.Program, k kafka.Config, d *detector.Detector) (func(ctx context.Context), error) {
	producer, err := stage.NewProducer(k, p.Logger)
	if err != nil {
		return nil, err
	}
	a := d.Announcement(time.Now())
	out, err := stage.Emit(schemas.TopicModels, a.Model, a)
	if err != nil {
		return nil, err
	}
	var done atomic.Bool
	p.Health.Register("model announced", func() error {
		if !done.Load() {
			return fmt.Errorf("topic %s has not taken it yet", k.Topic(schemas.TopicModels))
		}
		return nil
	})
	return func(ctx context.Context) {
		defer producer.Close()
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			try, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			err := producer.Produce(try, out)
			if err != nil && ctx.Err() == nil {
				p.Logger.Warn("model not announced, trying again soon", slog.Any("error", err))
			}
			return struct{}{}, err
		}, backoff.WithBackOff(backoff.NewConstantBackOff(2*time.Second)), backoff.WithMaxElapsedTime(0))
		if err == nil {
			done.Store(true)
			p.Logger.Info("model announced", slog.String("model", a.Model), slog.String("digest", a.Digest))
		}
	}, nil
}
