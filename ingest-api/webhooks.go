package ingestapi

import (
	"context"
	"log/slog"
	"sync"

	"leafcutter/ingest-api/internal/webhook"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/program"
)

// tell starts the stage that sends webhooks, which runs until ctx ends. It runs without a secret too: what is asked of it
// is then given up with a reason, where it would otherwise wait until somebody sets one, and surprise its receivers. ended
// is told of every end of a run that this process takes: with several of them, each takes some.
func tell(ctx context.Context, running *sync.WaitGroup, p *program.Program, cfg Config, asked *controls.Set, db *clickhouse.DB, ended func()) error {
	runner, closeAll, err := webhook.New(webhook.Runtime{
		Ended: ended, Kafka: cfg.Kafka, DB: db, Asked: asked, Version: p.Version,
		Logger: p.Logger, Tracers: p.Telemetry.TracerProvider(), Meters: p.Telemetry.MeterProvider(),
	}, cfg.Webhooks)
	if err != nil {
		return err
	}
	running.Go(func() {
		defer closeAll()
		if asked.Await(ctx) != nil {
			return // it stopped before it was known what was deleted
		}
		if err := runner.Run(ctx); err != nil {
			p.Logger.Error("webhooks are no longer sent", slog.Any("error", err))
		}
	})
	return nil
}
