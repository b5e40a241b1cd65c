// Package traces receives spans by OTLP over HTTP and lands them in otel_traces, so that a deployment without an
// OpenTelemetry Collector has its traces beside its results. cmd/recorder starts it where LEAFCUTTER_OTLP_ADDR is set; a
// deployment with a collector leaves it off and lets the collector's ClickHouse exporter fill the same table.
//
// Spans are worth less than the work that they tell about: they wait in a bounded queue, and what does not fit, or what
// ClickHouse refuses, is dropped and counted.
package traces

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"leafcutter/pkg/clickhouse"
)

// Config of a Receiver.
type Config struct {
	Addr     string // host:port to listen on
	MaxSpans int    // spans that wait for ClickHouse; 0: 20,000

	// DB is where they go. Open it without tracing: its spans would come back here for ever.
	DB            *clickhouse.DB
	Logger        *slog.Logger
	MeterProvider metric.MeterProvider
}

// Bounds of a request's body, as it comes and unpacked.
const (
	maxBody     = 4 << 20
	maxUnpacked = 16 << 20
)

// Receiver is a server for POST /v1/traces.
type Receiver struct {
	cfg      Config
	insert   func(ctx context.Context, spans []span) error
	listener net.Listener
	queue    *queue
	count    metric.Int64Counter
}

// Listen takes the address; Run serves it.
func Listen(cfg Config) (*Receiver, error) {
	if cfg.MaxSpans <= 0 {
		cfg.MaxSpans = 20_000
	}
	r := &Receiver{cfg: cfg, queue: newQueue(cfg.MaxSpans)}
	r.insert = func(ctx context.Context, spans []span) error { return land(ctx, cfg.DB, spans) }
	var err error
	r.count, err = cfg.MeterProvider.Meter("leafcutter/stages/recorder").Int64Counter("leafcutter.recorder.spans",
		metric.WithUnit("{span}"), metric.WithDescription("spans received by OTLP, by what became of them: landed, or dropped and why"))
	if err != nil {
		return nil, fmt.Errorf("otlp: make meters: %w", err)
	}
	if r.listener, err = net.Listen("tcp", cfg.Addr); err != nil {
		return nil, fmt.Errorf("otlp: %w (LEAFCUTTER_OTLP_ADDR chooses another address)", err)
	}
	return r, nil
}

// Addr is where it listens.
func (r *Receiver) Addr() string { return r.listener.Addr().String() }

// Run serves until ctx ends, then lands what waits, within a few seconds.
func (r *Receiver) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", r.receive)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(r.cfg.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(r.listener) }()
	landed := make(chan struct{})
	work, hard := context.WithCancel(context.WithoutCancel(ctx))
	defer hard()
	go func() {
		defer close(landed)
		r.landAll(work)
	}()

	var err error
	select {
	case err = <-served:
		err = fmt.Errorf("otlp: serve: %w", err)
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(work, lastWords)
		defer cancel()
		if err = server.Shutdown(stop); err != nil {
			err = errors.Join(fmt.Errorf("otlp: stop: %w", err), server.Close())
		}
		if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
			err = errors.Join(err, fmt.Errorf("otlp: serve: %w", ended))
		}
	}
	r.queue.close()
	select {
	case <-landed:
	case <-time.After(lastWords):
		hard()
		<-landed
	}
	return err
}

// lastWords is how long the end may wait for requests, and then for ClickHouse.
const lastWords = 3 * time.Second

// receive answers one export. It is taken as a whole or, where the queue is full, refused in a way that makes the
// client not send it again: it would only be later and more.
func (r *Receiver) receive(w http.ResponseWriter, req *http.Request) {
	if media, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || media != "application/x-protobuf" {
		http.Error(w, "send application/x-protobuf: set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", http.StatusUnsupportedMediaType)
		return
	}
	body, status, err := read(w, req)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	spans, bad, err := decode(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rejected, why := bad, "spans without identity or time"
	r.dropped(req.Context(), bad, "malformed")
	if len(spans) > 0 && !r.queue.put(spans) {
		r.dropped(req.Context(), len(spans), "queue-full")
		rejected, why = rejected+len(spans), "too many spans wait for ClickHouse"
	}
	answer := &collector.ExportTraceServiceResponse{}
	if rejected > 0 {
		answer.PartialSuccess = &collector.ExportTracePartialSuccess{RejectedSpans: int64(rejected), ErrorMessage: why}
	}
	out, err := proto.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(out) // a client that has hung up needs no answer
}

// read gives the body unpacked, or the status that refuses it.
func read(w http.ResponseWriter, req *http.Request) ([]byte, int, error) {
	var from io.Reader = http.MaxBytesReader(w, req.Body, maxBody)
	switch req.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		unpacked, err := gzip.NewReader(from)
		if err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("not gzip: %w", err)
		}
		from = unpacked
	default:
		return nil, http.StatusUnsupportedMediaType, errors.New("only gzip is unpacked")
	}
	body, err := io.ReadAll(io.LimitReader(from, maxUnpacked+1))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), len(body) > maxUnpacked:
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("at most %d bytes, %d unpacked: export smaller batches", maxBody, maxUnpacked)
	case err != nil:
		return nil, http.StatusBadRequest, fmt.Errorf("read the body: %w", err)
	}
	return body, 0, nil
}

func (r *Receiver) dropped(ctx context.Context, n int, why string) {
	if n > 0 {
		r.count.Add(ctx, int64(n), metric.WithAttributes(attribute.String("outcome", "dropped-"+why)))
	}
}
