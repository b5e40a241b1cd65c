// Package telemetry sets up a process's log, traces and metrics. [leafcutter/pkg/program] starts it in every binary; the
// stages are handed its logger, tracer and meter and know nothing of where these lead.
//
// The OTEL_* variables mean what the OpenTelemetry specification says. Without any of them nothing is sent anywhere:
// there are no spans, and metrics wait at the admin server's /metrics to be fetched.
//
//   - traces go where OTEL_TRACES_EXPORTER says, else by OTLP if an endpoint for them is set, else nowhere;
//   - metrics likewise, and always at /metrics too, in Prometheus's format, unless OTEL_METRICS_EXPORTER is none; its
//     value prometheus means that page alone and opens no port of its own;
//   - logs go to standard error, and by OTLP too if OTEL_LOGS_EXPORTER asks for it.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// scope names the instrumentation in spans and metrics.
const scope = "leafcutter"

// Config is the part of telemetry that is ours; the rest is OTEL_*.
type Config struct {
	LogLevel  string `env:"LEAFCUTTER_LOG_LEVEL" envDefault:"info" desc:"least level that is logged: debug, info, warn or error"`
	LogFormat string `env:"LEAFCUTTER_LOG_FORMAT" envDefault:"auto" desc:"json, text, or auto: text on a terminal and json elsewhere"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	if _, err := c.level(); err != nil {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_LOG_LEVEL: %q is none of debug, info, warn, error", c.LogLevel))
	}
	if c.LogFormat != "auto" && c.LogFormat != "json" && c.LogFormat != "text" {
		faults = append(faults, fmt.Errorf("LEAFCUTTER_LOG_FORMAT: %q is none of auto, json, text", c.LogFormat))
	}
	return errors.Join(faults...)
}

func (c Config) level() (slog.Level, error) {
	var level slog.Level
	err := level.UnmarshalText([]byte(c.LogLevel))
	return level, err
}

// Telemetry is what a process reports by.
type Telemetry struct {
	Logger *slog.Logger

	tracers  trace.TracerProvider
	meters   metric.MeterProvider
	page     http.Handler
	shutdown []func(context.Context) error
}

// Start sets everything up for the service called name. The log goes to w. ctx bounds the setting up alone.
func Start(ctx context.Context, name, version string, cfg Config, w *os.File) (*Telemetry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	t := &Telemetry{tracers: tracenoop.NewTracerProvider(), meters: metricnoop.NewMeterProvider(), page: http.NotFoundHandler()}
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last and win.
	described, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", name), attribute.String("service.version", version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("telemetry: describe the service: %w", err)
	}
	for _, start := range []func(context.Context, *resource.Resource) error{t.startTraces, t.startMetrics} {
		if err := start(ctx, described); err != nil {
			return nil, errors.Join(fmt.Errorf("telemetry: %w", err), t.Shutdown(ctx))
		}
	}
	handler, err := t.logHandler(ctx, name, version, cfg, described, w)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("telemetry: %w", err), t.Shutdown(ctx))
	}
	t.Logger = slog.New(handler)
	return t, nil
}

// Tracer makes the project's spans.
func (t *Telemetry) Tracer() trace.Tracer { return t.tracers.Tracer(scope) }

// Meter makes the project's instruments.
func (t *Telemetry) Meter() metric.Meter { return t.meters.Meter(scope) }

// TracerProvider is for libraries that make spans of their own.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.tracers }

// MeterProvider is for libraries that make instruments of their own.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.meters }

// Propagator carries a span's context from process to process in the W3C's headers.
func (t *Telemetry) Propagator() propagation.TextMapPropagator {
	return propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
}

// MetricsHandler answers /metrics: 404 where OTEL_METRICS_EXPORTER is none.
func (t *Telemetry) MetricsHandler() http.Handler { return t.page }

// FlushTraces sends the spans that have ended so far, until ctx ends. Who takes the spans of its own process calls it
// before it stops taking them.
func (t *Telemetry) FlushTraces(ctx context.Context) error {
	provider, ok := t.tracers.(*sdktrace.TracerProvider)
	if !ok {
		return nil
	}
	if err := provider.ForceFlush(ctx); err != nil {
		return fmt.Errorf("telemetry: flush traces: %w", err)
	}
	return nil
}

// Shutdown sends what is still to be sent, until ctx ends, and stops. It may be called twice.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var faults []error
	for _, stop := range t.shutdown {
		faults = append(faults, stop(ctx))
	}
	t.shutdown = nil
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("telemetry: shut down: %w", err)
	}
	return nil
}

func (t *Telemetry) startTraces(ctx context.Context, described *resource.Resource) error {
	if os.Getenv("OTEL_TRACES_EXPORTER") == "" && !endpointSet("TRACES") || disabled() {
		return nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return fmt.Errorf("OTEL_TRACES_EXPORTER=%s: %w", os.Getenv("OTEL_TRACES_EXPORTER"), err)
	}
	if autoexport.IsNoneSpanExporter(exporter) {
		return nil
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	t.tracers = provider
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

func (t *Telemetry) startMetrics(ctx context.Context, described *resource.Resource) error {
	exporter := os.Getenv("OTEL_METRICS_EXPORTER")
	if exporter == "none" || disabled() {
		return nil
	}
	reader, page, err := prometheusPage()
	if err != nil {
		return fmt.Errorf("metrics page: %w", err)
	}
	t.page = page
	options := []sdkmetric.Option{sdkmetric.WithResource(described), sdkmetric.WithReader(reader)}
	if exporter != "prometheus" && (exporter != "" || endpointSet("METRICS")) {
		pushing, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("OTEL_METRICS_EXPORTER=%s: %w", exporter, err)
		}
		options = append(options, sdkmetric.WithReader(pushing))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	t.meters = provider
	t.shutdown = append(t.shutdown, provider.Shutdown)
	if err := runtime.Start(runtime.WithMeterProvider(provider)); err != nil {
		return fmt.Errorf("runtime metrics: %w", err)
	}
	return nil
}

// endpointSet tells whether OTLP has somewhere to send a signal to.
func endpointSet(signal string) bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

func disabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }
