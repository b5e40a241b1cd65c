package ingestapi

import (
	"context"
	"log/slog"
	"sync"

	"leafcutter/ingest-api/internal/eraser"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
)

// heed follows what is asked of documents, by whichever instance, and runs the stages that delete objects, until ctx
// ends.
func heed(ctx context.Context, running *sync.WaitGroup, p *program.Program, cfg Config, asked *controls.Set, store *objectstore.Store) error {
	var passes []*stage.Runner
	for _, s := range eraser.Stages(store, cfg.Grace, p.Logger) {
		s.Probes = map[string]func(context.Context) error{objectstore.Dependency: store.Probe, "kafka": kafka.Probe(cfg.Kafka)}
		s.Logger, s.TracerProvider, s.MeterProvider = p.Logger, p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()
		runner, err := stage.New(cfg.Kafka, s)
		if err != nil {
			return err
		}
		passes = append(passes, runner)
	}
	running.Go(func() { asked.Follow(ctx, cfg.Kafka) })
	for _, runner := range passes {
		running.Go(func() {
			if err := runner.Run(ctx); err != nil {
				p.Logger.Error("documents are no longer deleted", slog.Any("error", err))
			}
		})
	}
	return nil
}
