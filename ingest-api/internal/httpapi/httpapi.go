// Package httpapi is the HTTP API: gin routes requests, huma validates parameters and writes the OpenAPI document, and
// every error is a problem with a stable code. Package ingestapi serves it.
//
// Uploads and objects stream through plain gin handlers; their operations are added to the document by hand.
package httpapi

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/ingest-api/internal/catalogue"
	"leafcutter/ingest-api/internal/control"
	"leafcutter/ingest-api/internal/deadletters"
	"leafcutter/ingest-api/internal/models"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/progress"
	"leafcutter/ingest-api/internal/submission"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/ingest-api/internal/webhook"
	"leafcutter/pkg/objectstore"
)

// Objects is what is used of the object store to hand objects out.
type Objects interface {
	Open(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error)
	OpenURI(ctx context.Context, uri string) (io.ReadCloser, objectstore.Info, error)
	Put(ctx context.Context, key string, body []byte, contentType string) error
	Delete(ctx context.Context, keys ...string) error
	PresignGet(ctx context.Context, key string, ttl time.Duration) (string, error)
}

// Parts are what the API is made of.
type Parts struct {
	Spool     *upload.Spool
	Desk      *submission.Desk
	Catalogue *catalogue.Catalogue
	Control   *control.Desk
	Models    *models.Registry
	Feed      *progress.Feed
	Objects   Objects
	Letters   *deadletters.Office
	Webhooks  webhook.Config // what may be told to whom

	Version  string
	Loopback bool // it listens on loopback alone
	Logger   *slog.Logger
	Tracers  trace.TracerProvider
	Meters   metric.MeterProvider
	// Propagator reads the trace that a request belongs to from its headers.
	Propagator propagation.TextMapPropagator
}

// API is a handler.
type API struct {
	Parts
	cfg     Config
	guard   *guard
	engine  *gin.Engine
	huma    huma.API
	buffers sync.Pool
	cutting chan struct{} // page images are decoded one at a time

	uploads metric.Int64Counter
	taken   metric.Int64Counter

	stop     chan struct{}
	stopOnce sync.Once
}

// New makes the API with all its routes.
func New(cfg Config, parts Parts) (*API, error) {
	g, err := newGuard(cfg, parts.Loopback)
	if err != nil {
		return nil, err
	}
	gin.SetMode(gin.ReleaseMode)
	a := &API{Parts: parts, cfg: cfg, guard: g, engine: gin.New(), cutting: make(chan struct{}, 1), stop: make(chan struct{})}
	a.buffers.New = func() any { b := make([]byte, upload.Buffer); return &b }
	if err := a.instrument(); err != nil {
		return nil, err
	}
	e := a.engine
	if err := e.SetTrustedProxies(nil); err != nil { // X-Forwarded-For is a claim
		return nil, err
	}
	e.HandleMethodNotAllowed = true
	e.Use(otelgin.Middleware("ingest-api",
		otelgin.WithTracerProvider(parts.Tracers), otelgin.WithMeterProvider(parts.Meters), otelgin.WithPropagators(parts.Propagator)))
	e.Use(envelope(parts.Logger), g.check, a.paceBody)
	a.ShowAbsent(refuse)
	e.NoMethod(func(c *gin.Context) {
		refuse(c, problem.New(problem.MethodNotAllowed, "%.200q does not take %.20q", c.Request.URL.Path, c.Request.Method))
	})

	a.huma = humagin.New(e, a.document())
	a.readRoutes()
	a.controlRoutes()
	a.uploadRoutes()
	a.objectRoutes()
	a.eventRoutes()
	a.createRoutes()
	a.letterRoutes()
	return a, a.docsRoutes()
}

// Engine is the router, for the web pages to add theirs.
func (a *API) Engine() *gin.Engine { return a.engine }

// ShowAbsent has the web pages say to a browser that there is nothing at an address; programs are told by a problem
// document.
func (a *API) ShowAbsent(show func(c *gin.Context, err error)) {
	a.engine.NoRoute(func(c *gin.Context) {
		nothing := problem.New(problem.NotFound, "There is nothing at %.200q", c.Request.URL.Path)
		if wantsPage(c.Request) {
			show(c, nothing)
		} else {
			refuse(c, nothing)
		}
	})
}

// ServeHTTP answers a request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.engine.ServeHTTP(w, r) }

// Stop ends the answers that would last for ever, so that the server can shut down. Twice is legal.
func (a *API) Stop() { a.stopOnce.Do(func() { close(a.stop) }) }

// KnowsKey reports whether key is one of the API keys, for the page that asks for one.
func (a *API) KnowsKey(key string) bool { return a.guard.knows(key) }

func (a *API) instrument() (err error) {
	meter := a.Meters.Meter("leafcutter/ingest-api")
	if a.uploads, err = meter.Int64Counter("leafcutter.submissions", metric.WithDescription("submissions by code; accepted where there was no problem")); err != nil {
		return err
	}
	if a.taken, err = meter.Int64Counter("leafcutter.uploaded", metric.WithUnit("By"), metric.WithDescription("bytes of accepted uploads")); err != nil {
		return err
	}
	used, err := meter.Int64ObservableGauge("leafcutter.spool.used", metric.WithUnit("By"), metric.WithDescription("room on disk that uploads hold or were promised"))
	if err != nil {
		return err
	}
	receiving, err := meter.Int64ObservableGauge("leafcutter.uploads.active", metric.WithDescription("uploads being received or stored"))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(used, a.Spool.Used())
		o.ObserveInt64(receiving, int64(a.Spool.Receiving()))
		return nil
	}, used, receiving)
	return err
}
