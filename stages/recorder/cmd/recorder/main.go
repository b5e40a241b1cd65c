// Command recorder runs the recorder: it lands results and dead letters in ClickHouse and says when a run has ended. Where
// LEAFCUTTER_OTLP_ADDR is set it receives spans too.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/controls"
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

// patience is how long a ClickHouse that is not known to be slow may be silent: everything here is asked again.
const patience = 20 * time.Second

func main() { os.Exit(program.Main(spec())) }

func run(ctx context.Context, p *program.Program, cfg config) (err error) {
	tracers, meters := p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()
	db, err := clickhouse.Open(ctx, cfg.ClickHouse, clickhouse.WithTelemetry(tracers, meters),
		clickhouse.WithProbeQuery(recorder.ProbeQuery), clickhouse.WithPatience(patience))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	asked := controls.New(p.Logger)
	p.Health.Register("controls", asked.Ready)
	deleted := func(documentID string) bool {
		_, yes := asked.Deleted(documentID)
		return yes
	}
	r, err := recorder.New(recorder.Config{
		DB: db,
		Members: func(ctx context.Context, group string) (int, error) {
			return kafka.Members(ctx, cfg.Kafka, group)
		},
		Deleted: deleted,
		Logger:  p.Logger, MeterProvider: meters,
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
	lettersRunner, err := letters(p, cfg, db, deleted)
	if err != nil {
		return err
	}

	// The stage ends all: what else runs here serves it. The receiver takes this process's own spans too, so at the end
	// it is closed after the last of them have been sent.
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
		stop := beside(ctx, func(ctx context.Context) {
			if err := errors.Join(receiver.Run(ctx), quiet.Close()); err != nil {
				p.Logger.Error("spans are not received any more", "error", err)
			}
		})
		defer func() {
			flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
			defer cancel()
			if err := p.Telemetry.FlushTraces(flush); err != nil {
				p.Logger.Warn("the last spans are lost", "error", err)
			}
			stop()
		}()
	}
	defer beside(ctx, r.WatchModels)()
	err = asked.While(ctx, cfg.Kafka, func(ctx context.Context) error {
		return together(ctx, runner.Run, lettersRunner.Run)
	})
	if err != nil {
		return fmt.Errorf("recorder: %w", err)
	}
	return nil
}

// flushTime is how long the last spans may take into the queue of this process's own receiver.
const flushTime = 2 * time.Second

// beside runs do, whatever becomes of ctx, until stop is called, which waits for its end.
func beside(ctx context.Context, do func(ctx context.Context)) (stop func()) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		do(own)
	}()
	return func() {
		cancel()
		<-ended
	}
}
