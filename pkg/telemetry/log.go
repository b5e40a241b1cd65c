package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
)

// logHandler writes to w, and by OTLP beside it where OTEL_LOGS_EXPORTER is set.
func (t *Telemetry) logHandler(
	ctx context.Context, name, version string, cfg Config, described *resource.Resource, w *os.File,
) (slog.Handler, error) {
	level, err := cfg.level()
	if err != nil {
		return nil, err // validated before
	}
	var local slog.Handler
	if cfg.LogFormat == "text" || cfg.LogFormat == "auto" && terminal(w) {
		local = tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05.000", NoColor: !terminal(w) || os.Getenv("NO_COLOR") != ""})
	} else {
		local = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	}
	local = spanned{local}.WithAttrs([]slog.Attr{slog.String("service", name)})

	if exporter := os.Getenv("OTEL_LOGS_EXPORTER"); exporter == "" || exporter == "none" || disabled() {
		return local, nil
	}
	exporter, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("OTEL_LOGS_EXPORTER=%s: %w", os.Getenv("OTEL_LOGS_EXPORTER"), err)
	}
	provider := sdklog.NewLoggerProvider(
		sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter)),
		sdklog.WithResource(described))
	t.shutdown = append(t.shutdown, provider.Shutdown)
	remote := otelslog.NewHandler(scope, otelslog.WithLoggerProvider(provider), otelslog.WithVersion(version))
	return slog.NewMultiHandler(local, atLeast{remote, level}), nil
}

// terminal tells whether somebody is looking.
func terminal(w *os.File) bool {
	info, err := w.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// spanned adds the ids of the span that a record was logged in, so that a log line leads to its trace.
type spanned struct{ slog.Handler }

// Handle adds trace_id and span_id where the context has them.
func (h spanned) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps the ids being added.
func (h spanned) WithAttrs(attrs []slog.Attr) slog.Handler {
	return spanned{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the ids being added, inside the group.
func (h spanned) WithGroup(name string) slog.Handler { return spanned{h.Handler.WithGroup(name)} }

// atLeast drops what is below a level; the bridge to OpenTelemetry has no level of its own.
type atLeast struct {
	slog.Handler
	level slog.Level
}

// Enabled is also what the handler beneath says.
func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

// WithAttrs keeps the level.
func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(attrs), h.level}
}

// WithGroup keeps the level.
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}
