package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
	"leafcutter/stages/recorder/internal/deadletters"
)

// letters is the second stage of this process: it lands dead letters. deleted tells which documents are gone for ever.
func letters(p *program.Program, cfg config, db *clickhouse.DB, deleted func(documentID string) bool) (*stage.Runner, error) {
	lander, err := deadletters.New(deadletters.Config{DB: db, TopicPrefix: cfg.Kafka.TopicPrefix, Deleted: deleted, Logger: p.Logger})
	if err != nil {
		return nil, err
	}
	s := lander.Stage(cfg.Limits)
	s.Probes["kafka"] = kafka.Probe(cfg.Kafka)
	s.Logger, s.TracerProvider, s.MeterProvider = p.Logger, p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()
	runner, err := stage.New(cfg.Kafka, s)
	if err != nil {
		return nil, fmt.Errorf("dead letters: %w", err)
	}
	p.Health.Register("dead-letters group", runner.Ready)
	return runner, nil
}

// together runs jobs until all have ended. One that ends takes the others with it: a process is healthy as a whole.
func together(ctx context.Context, jobs ...func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	faults := make([]error, len(jobs))
	var running sync.WaitGroup
	for i, job := range jobs {
		running.Go(func() {
			defer stop()
			faults[i] = job(ctx)
		})
	}
	running.Wait()
	return errors.Join(faults...)
}
