// Package ingestapi is the front door: documents come in by HTTP, are streamed to S3 and hashed on the way, and become
// records; what the pipeline makes of them is read back from ClickHouse. cmd/ingest-api runs it.
//
// It stays small: nothing of an upload is held in memory, uploads wait on disk in bounds, and models, page images and
// crops are other processes' work.
package ingestapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"leafcutter/ingest-api/internal/catalogue"
	"leafcutter/ingest-api/internal/control"
	"leafcutter/ingest-api/internal/deadletters"
	"leafcutter/ingest-api/internal/httpapi"
	"leafcutter/ingest-api/internal/models"
	"leafcutter/ingest-api/internal/progress"
	"leafcutter/ingest-api/internal/query"
	"leafcutter/ingest-api/internal/submission"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/ingest-api/web"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

const (
	headerTimeout = 10 * time.Second // for the head of a request
	idleTimeout   = 2 * time.Minute  // between two requests of a connection
	maxHeader     = 32 << 10         // bytes of the head of a request
	slotWait      = 5 * time.Second  // for a place to upload
	progressEvery = 500 * time.Millisecond
	maxWatchers   = 1024
	probeEvery    = 5 * time.Second
)

// Memory of Go that is meant to be enough, and how much garbage may pile up on what lives: a quarter of it. The live heap is
// a few megabytes, so collecting often costs little and keeps the process small. GOGC and GOMEMLIMIT win.
const (
	softLimit  = 48 << 20
	gcPercent  = 25
	noLimitSet = math.MaxInt64
)

// Run serves until ctx ends, then lets requests in flight end within the grace time.
func Run(ctx context.Context, p *program.Program, cfg Config) (err error) {
	staySmall(os.LookupEnv)
	tracers, meters := p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()
	store, err := objectstore.Open(ctx, cfg.S3, objectstore.WithTelemetry(tracers, meters))
	if err != nil {
		return fmt.Errorf("open the object store: %w", err)
	}
	defer store.Close()
	db, err := clickhouse.Open(ctx, cfg.ClickHouse, clickhouse.WithTelemetry(tracers, meters))
	if err != nil {
		return fmt.Errorf("open ClickHouse: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	producer, err := stage.NewProducer(cfg.Kafka, p.Logger)
	if err != nil {
		return fmt.Errorf("open Kafka: %w", err)
	}
	defer producer.Close()
	spool, err := upload.NewSpool(cfg.spoolDir(), cfg.SpoolBytes, cfg.MaxUploads, slotWait)
	if err != nil {
		return err
	}

	asked := controls.New(p.Logger)
	desk := submission.NewDesk(store, producer, asked, cfg.HTTP.MaxUpload, cfg.ProduceTimeout, time.Now)
	reader := &query.Reader{DB: db}
	known := models.New(cfg.DefaultModel, p.Logger)
	feed := &progress.Feed{Source: reader.Progress, Every: progressEvery, Max: maxWatchers, Logger: p.Logger}
	books := &catalogue.Catalogue{Results: reader, Markers: desk, Asked: asked, Timeout: cfg.QueryTimeout}
	controlled := &control.Desk{
		Catalogue: books, Asked: asked, DB: db, Producer: producer, Patience: cfg.ProduceTimeout, Timeout: cfg.QueryTimeout,
		Now: time.Now, Logger: p.Logger,
	}
	letters := &deadletters.Office{DB: db, Objects: store, Producer: producer, Kafka: cfg.Kafka, Asked: asked,
		QueryTimeout: cfg.QueryTimeout, ProduceTimeout: cfg.ProduceTimeout, Logger: p.Logger}
	api, err := httpapi.New(cfg.HTTP, httpapi.Parts{
		Spool: spool, Desk: desk, Catalogue: books, Control: controlled, Models: known, Feed: feed, Objects: store, Letters: letters,
		Webhooks: cfg.Webhooks, Version: p.Version, Loopback: cfg.loopback(),
		Logger: p.Logger, Tracers: tracers, Meters: meters, Propagator: propagation.TraceContext{},
	})
	if err != nil {
		return fmt.Errorf("make the API: %w", err)
	}
	defer api.Stop()
	if err := web.Add(api.Engine(), web.Parts{Catalogue: books, Control: controlled, Letters: letters, Models: known, KnowsKey: api.KnowsKey, ShowAbsent: api.ShowAbsent, CookieName: httpapi.KeyCookie, MaxUpload: cfg.HTTP.MaxUpload}); err != nil {
		return fmt.Errorf("make the web pages: %w", err)
	}
	api.AddHealth(p.Health.Routes)
	if !cfg.loopback() && len(cfg.HTTP.APIKeys) == 0 {
		p.Logger.Warn("everybody who reaches the API may use it: LEAFCUTTER_API_KEYS is empty", slog.String("addr", cfg.Addr))
	}

	background, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() { stop(); running.Wait() }()
	running.Go(func() { feed.Run(background) })
	running.Go(func() {
		kafka.Follow(background, cfg.Kafka, schemas.TopicModels, known.Apply, known.CaughtUp, func(err error, pause time.Duration) {
			p.Logger.Debug("models cannot be read yet", slog.Any("error", err), slog.Duration("pause", pause))
		})
	})
	if err := heed(background, &running, p, cfg, asked, store); err != nil {
		return err
	}
	if err := tell(background, &running, p, cfg, asked, db, feed.Ended); err != nil {
		return err
	}
	p.Health.Register("controls", asked.Ready)
	for name, probe := range map[string]func(context.Context) error{
		"kafka": kafka.Probe(cfg.Kafka), "s3": store.Probe,
	} {
		d := newDependency(name, probe)
		p.Health.Register(name, d.state)
		running.Go(func() { d.watch(background) })
	}
	return serve(ctx, api, cfg, p)
}

// serve answers until ctx ends. The requests' own contexts do not end with it: an upload in flight is finished.
func serve(ctx context.Context, api *httpapi.API, cfg Config, p *program.Program) error {
	l, err := listen(cfg.Addr, cfg.MaxConnections, cfg.HTTP.StallTimeout)
	if err != nil {
		return fmt.Errorf("LEAFCUTTER_API_ADDR: %w", err)
	}
	server := &http.Server{
		Handler: api, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:    slog.NewLogLogger(p.Logger.Handler(), slog.LevelDebug),
	}
	server.RegisterOnShutdown(api.Stop)
	p.Health.Register("http", func() error { return nil })
	p.Logger.Info("listening", slog.String("addr", l.Addr().String()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Grace)
	defer cancel()
	err = server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		p.Logger.Warn("requests were cut off", slog.Duration("grace", cfg.Grace))
		err = server.Close()
	}
	if ended := <-ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	if err != nil {
		return fmt.Errorf("stop serving: %w", err)
	}
	return nil
}

// staySmall sets the collector for a process whose live heap is small, unless the operator has.
func staySmall(lookup func(string) (string, bool)) {
	if _, given := lookup("GOGC"); !given {
		debug.SetGCPercent(gcPercent)
	}
	if debug.SetMemoryLimit(-1) == noLimitSet {
		debug.SetMemoryLimit(softLimit)
	}
}
