package telemetry_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"leafcutter/pkg/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs telemetry with nothing of OTEL_* but env, and gives the file that it logs to.
func start(t *testing.T, cfg telemetry.Config, env map[string]string) (*telemetry.Telemetry, func() string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), "prog", "v1.2.3", cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := tel.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := tel.Shutdown(ctx); err != nil { // again
			t.Error(err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return tel, func() string {
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func info() telemetry.Config { return telemetry.Config{LogLevel: "info", LogFormat: "auto"} }

func page(tel *telemetry.Telemetry) (int, string) {
	w := httptest.NewRecorder()
	tel.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Code, w.Body.String()
}

func TestWithoutVariablesNothingIsSent(t *testing.T) {
	tel, _ := start(t, info(), nil)
	_, span := tel.Tracer().Start(t.Context(), "work")
	if span.IsRecording() || span.SpanContext().IsValid() {
		t.Error("spans are made for nobody")
	}
	span.End()
	pages, err := tel.Meter().Int64Counter("leafcutter.pages")
	if err != nil {
		t.Fatal(err)
	}
	pages.Add(t.Context(), 3)
	status, text := page(tel)
	for _, part := range []string{"\nleafcutter_pages_total 3\n", "go_goroutine_count", `service_name="prog"`, `service_version="v1.2.3"`, "process_resident_memory_bytes"} {
		if status != http.StatusOK || !strings.Contains(text, part) {
			t.Errorf("%s is not in the %d answer:\n%s", part, status, text)
		}
	}
}

func TestMetricsCanBeSwitchedOff(t *testing.T) {
	for name, env := range map[string]map[string]string{"none": {"OTEL_METRICS_EXPORTER": "none"}, "disabled": {"OTEL_SDK_DISABLED": "true"}} {
		t.Run(name, func(t *testing.T) {
			tel, _ := start(t, info(), env)
			if status, _ := page(tel); status != http.StatusNotFound {
				t.Errorf("the page answers %d", status)
			}
		})
	}
}

func TestWrongExporterIsTold(t *testing.T) {
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "pigeon")
			if _, err := telemetry.Start(t.Context(), "prog", "v1", info(), os.Stderr); err == nil || !strings.Contains(err.Error(), "pigeon") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLogLines(t *testing.T) {
	tel, text := start(t, info(), nil)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	tel.Logger.Debug("not this")
	tel.Logger.InfoContext(trace.ContextWithSpanContext(t.Context(), span), "page done", slog.Int("page", 17))
	tel.Logger.With(slog.String("run", "r")).Warn("no span")
	lines := strings.Split(strings.TrimSpace(text()), "\n")
	if len(lines) != 2 {
		t.Fatalf("logged:\n%s", text())
	}
	var first, second map[string]any
	for i, into := range []*map[string]any{&first, &second} {
		if err := json.Unmarshal([]byte(lines[i]), into); err != nil {
			t.Fatal(err)
		}
	}
	if first["msg"] != "page done" || first["service"] != "prog" || first["page"] != 17.0 ||
		first["trace_id"] != "01000000000000000000000000000000" || first["span_id"] != "0200000000000000" {
		t.Errorf("first line %v", first)
	}
	if _, has := second["trace_id"]; has || second["run"] != "r" || second["level"] != "WARN" {
		t.Errorf("second line %v", second)
	}
}

func TestTextLog(t *testing.T) {
	tel, text := start(t, telemetry.Config{LogLevel: "debug", LogFormat: "text"}, nil)
	tel.Logger.Debug("for people", slog.String("key", "v"))
	if got := text(); !strings.Contains(got, "DBG for people") || !strings.Contains(got, "key=v") || strings.Contains(got, "\x1b") {
		t.Errorf("logged %q", got)
	}
}

func TestConfigFaults(t *testing.T) {
	err := telemetry.Config{LogLevel: "loud", LogFormat: "xml"}.Validate()
	if err == nil || !strings.Contains(err.Error(), "LEAFCUTTER_LOG_LEVEL") || !strings.Contains(err.Error(), "LEAFCUTTER_LOG_FORMAT") {
		t.Errorf("got %v", err)
	}
	if err := (telemetry.Config{LogLevel: "WARN", LogFormat: "json"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestPropagatorSpeaksW3C(t *testing.T) {
	tel, _ := start(t, info(), nil)
	headers := propagation.MapCarrier{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	got := trace.SpanContextFromContext(tel.Propagator().Extract(t.Context(), headers))
	if got.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || !got.IsSampled() {
		t.Errorf("got %v", got)
	}
}

// collector counts what arrives by OTLP over HTTP, by path.
type collector struct {
	mu       sync.Mutex
	received map[string]int
}

func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received[r.URL.Path] += int(n)
}

func TestOTLP(t *testing.T) {
	c := &collector{received: map[string]int{}}
	server := httptest.NewServer(c)
	defer server.Close()
	tel, text := start(t, info(), map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": server.URL, "OTEL_LOGS_EXPORTER": "otlp",
	})
	ctx, span := tel.Tracer().Start(t.Context(), "work")
	tel.Logger.InfoContext(ctx, "inside")
	tel.Logger.DebugContext(ctx, "below the level")
	span.End()
	if !span.IsRecording() && !span.SpanContext().IsSampled() {
		t.Error("spans are not made though there is an endpoint")
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, path := range []string{"/v1/traces", "/v1/metrics", "/v1/logs"} {
		if c.received[path] == 0 {
			t.Errorf("nothing came to %s: %v", path, c.received)
		}
	}
	if !strings.Contains(text(), "inside") || strings.Contains(text(), "below") {
		t.Errorf("local log:\n%s", text())
	}
	if status, _ := page(tel); status != http.StatusOK {
		t.Errorf("/metrics answers %d beside OTLP", status)
	}
}

func TestOnlyTracesWhereOnlyTheyHaveAnEndpoint(t *testing.T) {
	c := &collector{received: map[string]int{}}
	server := httptest.NewServer(c)
	defer server.Close()
	tel, _ := start(t, info(), map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": server.URL + "/traces-here"})
	_, span := tel.Tracer().Start(t.Context(), "work")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.received) != 1 || c.received["/traces-here"] == 0 {
		t.Errorf("received %v", c.received)
	}
}
