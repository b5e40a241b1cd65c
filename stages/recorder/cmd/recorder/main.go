// Command recorder runs the recorder: it lands results in ClickHouse and says when a run has ended. Where
// LEAFCUTTER_OTLP_ADDR is set it receives spans too.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"go.opentelemetry.io/otel/trace/noop"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
	"leafcutter/stages/recorder"
	"leafcutter/stages/recorder/internal/traces"
)

// version is set by the linker.
var version string

// config is everything that the binary reads.
type config struct {
	Kafka      kafka.Config
	ClickHouse clickhouse.Config
	Limits     stage.Limits
	OTLPAddr   string `env:"LEAFCUTTER_OTLP_ADDR" desc:"host:port on which spans are received by OTLP over HTTP (protobuf) and landed in otel_traces; off where empty"`
}

func spec() program.Spec[config] {
	return program.Spec[config]{
		Name:      recorder.Name,
		Purpose:   "lands results in ClickHouse and says when a run has ended",
		Version:   version,
		AdminAddr: "127.0.0.1:8095",
		Defaults:  config{Limits: recorder.Limits()},
		Run:       run,
	}
}

func main() { os.Exit(program.Main(spec())) }

func run(ctx context.Context, p *program.Program, cfg config) (err error) {
	tracers, meters := p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()
	db, err := clickhouse.Open(ctx, cfg.ClickHouse, clickhouse.WithTelemetry(tracers, meters),
		clickhouse.WithProbeQuery(recorder.ProbeQuery))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	r, err := recorder.New(recorder.Config{
		DB: db,
		Members: func(ctx context.Context, group string) (int, error) {
			return kafka.Members(ctx, cfg.Kafka, group)
		},
		Logger: p.Logger, MeterProvider: meters,
	})
	if err != nil {
		return err
	}
	s := r.Stage()
	s.Limits = cfg.Limits
	s.Probes = map[string]func(context.Context) error{"kafka": kafka.Probe(cfg.Kafka), clickhouse.Dependency: db.Probe}
	s.Logger, s.TracerProvider, s.MeterProvider = p.Logger, tracers, meters
	runner, err := stage.New(cfg.Kafka, s)
	if err != nil {
		return err
	}
	p.Health.Register("kafka group", runner.Ready)

	// The stage ends all: what else runs here serves it.
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	others.Go(func() { r.WatchModels(beside) })
	if cfg.OTLPAddr != "" {
		// Without tracing: the spans of its inserts would be spans to insert.
		quiet, err := clickhouse.Open(ctx, cfg.ClickHouse, clickhouse.WithTelemetry(noop.NewTracerProvider(), meters))
		if err != nil {
			return err
		}
		receiver, err := traces.Listen(traces.Config{Addr: cfg.OTLPAddr, DB: quiet, Logger: p.Logger, MeterProvider: meters})
		if err != nil {
			return errors.Join(err, quiet.Close())
		}
		p.Logger.Info("receiving spans", "addr", receiver.Addr())
		others.Go(func() {
			if err := errors.Join(receiver.Run(beside), quiet.Close()); err != nil {
				p.Logger.Error("spans are not received any more", "error", err)
			}
		})
	}
	if err := runner.Run(ctx); err != nil {
		return fmt.Errorf("recorder: %w", err)
	}
	return nil
}
