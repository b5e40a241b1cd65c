// Command detector runs the detector stage: it finds boxes on page images with
// models, and announces which.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

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
	metered, err := detector.Metered(p.Telemetry.MeterProvider())
	if err != nil {
		return err
	}
	models, err := detector.OpenModels(ctx, cfg.Detector, cfg.Objects, p.Logger, detector.InChild(binary), metered)
	if err != nil {
		return err
	}
	store, err := objectstore.Open(ctx, cfg.Objects,
		objectstore.WithTelemetry(p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()))
	if err != nil {
		return errors.Join(err, models.Close())
	}
	defer store.Close()
	models.Share(store)
	says, err := newAnnouncer(p, cfg.Kafka)
	if err != nil {
		return errors.Join(err, models.Close())
	}
	defer says.producer.Close()
	models.Heed(says.last)

	asked := controls.New(p.Logger)
	p.Health.Register("model", models.Ready)
	p.Health.Register("model announced", says.ready)
	p.Health.Register("controls", asked.Ready)
	w := &wiring{p, cfg, models, store, asked}
	for _, name := range models.Names() {
		p.Health.Register(w.group(name), func() error { return errors.New("not yet a member: its model is not served yet") })
	}
	err = asked.While(ctx, cfg.Kafka, func(ctx context.Context) error {
		// One that fails takes the others down: a process is healthy as a whole.
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { says.run(ctx); return nil })
		group.Go(func() error {
			started := map[string]bool{}
			models.Follow(ctx, func(m schemas.ModelAnnounced) {
				says.say(m)
				if started[m.Model] {
					return
				}
				started[m.Model] = true
				group.Go(func() error { return w.serve(ctx, m.Model) })
			})
			return nil
		})
		return group.Wait()
	})
	return errors.Join(err, models.Close())
}

// wiring is what the stage of each model needs.
type wiring struct {
	p      *program.Program
	cfg    config
	models *detector.Models
	store  *objectstore.Store
	asked  *controls.Set
}

// group is the name of the check that a model's stage is a member of its group.
func (w *wiring) group(model string) string {
	if w.models.Alone() {
		return "kafka group"
	}
	return "kafka group " + schemas.DetectorGroup(model)
}

// serve runs the stage of one model.
func (w *wiring) serve(ctx context.Context, model string) error {
	s := w.models.Stage(model, w.store)
	w.asked.Heed(&s)
	s.Limits = w.cfg.Limits
	if s.Limits.Workers == 0 {
		s.Limits.Workers = w.models.Workers(model)
	}
	s.Probes["kafka"] = kafka.Probe(w.cfg.Kafka)
	s.Probes[objectstore.Dependency] = w.store.Probe
	s.Logger, s.TracerProvider, s.MeterProvider = w.p.Logger, w.p.Telemetry.TracerProvider(), w.p.Telemetry.MeterProvider()
	if !w.models.Alone() {
		s.Logger = s.Logger.With(slog.String("model", model))
	}
	runner, err := stage.New(w.cfg.Kafka, s)
	if err != nil {
		return err
	}
	w.p.Health.Register(w.group(model), runner.Ready)
	return runner.Run(ctx)
}
