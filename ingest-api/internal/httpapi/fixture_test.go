package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"leafcutter/ingest-api/internal/catalogue"
	"leafcutter/ingest-api/internal/control"
	"leafcutter/ingest-api/internal/httpapi"
	"leafcutter/ingest-api/internal/models"
	"leafcutter/ingest-api/internal/progress"
	"leafcutter/ingest-api/internal/query"
	"leafcutter/ingest-api/internal/submission"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bucket is an object store in memory.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func missing(key string) error {
	return fault.Permanentf(objectstore.CodeMissing, "%s is not there", key)
}

func (b *bucket) PutReader(_ context.Context, key string, r io.ReadSeeker, size int64, _ string) error {
	body, err := io.ReadAll(r)
	if err == nil && int64(len(body)) != size {
		err = fmt.Errorf("%d bytes instead of %d", len(body), size)
	}
	if err != nil {
		return err
	}
	return b.Put(context.Background(), key, body, "")
}

func (b *bucket) Put(_ context.Context, key string, body []byte, _ string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[key] = bytes.Clone(body)
	return nil
}

func (b *bucket) Get(_ context.Context, key string, _ int64) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.objects[key]
	if !ok {
		return nil, missing(key)
	}
	return body, nil
}

func (b *bucket) Open(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	body, err := b.Get(ctx, key, 0)
	return io.NopCloser(bytes.NewReader(body)), objectstore.Info{Size: int64(len(body)), ETag: `"tag"`, ContentType: "text/html"}, err
}

func (b *bucket) OpenURI(ctx context.Context, uri string) (io.ReadCloser, objectstore.Info, error) {
	return b.Open(ctx, strings.TrimPrefix(uri, "s3://bucket/"))
}

func (b *bucket) Delete(_ context.Context, keys ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		delete(b.objects, key)
	}
	return nil
}

func (b *bucket) URI(key string) string { return "s3://bucket/" + key }

func (b *bucket) PresignGet(_ context.Context, key string, ttl time.Duration) (string, error) {
	return fmt.Sprintf("https://s3.example.org/%s?ttl=%s", key, ttl), nil
}

// topic keeps what was produced.
type topic struct {
	mu   sync.Mutex
	outs []stage.Out
	err  error
}

func (p *topic) Produce(_ context.Context, outs ...stage.Out) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.outs = append(p.outs, outs...)
	}
	return p.err
}

// nothing is a database without rows; err, where it is set, is its answer to everything.
type nothing struct {
	catalogue.Results
	err     error
	explode bool
}

func (n nothing) Documents(context.Context, query.Filter) ([]api.Summary, *query.Place, error) {
	if n.explode {
		panic("exploded")
	}
	return nil, nil, n.err
}
func (n nothing) Document(context.Context, string) (*api.Document, error) { return nil, n.err }
func (n nothing) Source(context.Context, string) (string, string, error)  { return "", "", n.err }
func (n nothing) Run(context.Context, string, string) (*query.Run, error) { return nil, n.err }
func (n nothing) Select(context.Context, any, string, ...any) error       { return n.err }
func (n nothing) Summaries(context.Context, []string) (map[string]api.Summary, error) {
	return nil, n.err
}
func (n nothing) Progress(context.Context, []string) (map[string]api.Progress, error) {
	return nil, n.err
}

// served is an API at work on these.
type served struct {
	*testing.T
	*httptest.Server
	store   *bucket
	records *topic
	asked   *controls.Set
	control *control.Desk
	logs    *lockedBuffer
	rows    *nothing
}

func serve(t *testing.T, change func(*httpapi.Config, *httpapi.Parts)) *served {
	t.Helper()
	s := &served{T: t, store: &bucket{objects: map[string][]byte{}}, records: &topic{}, asked: controls.New(nil), logs: &lockedBuffer{}, rows: &nothing{}}
	log := slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	spool, err := upload.NewSpool(t.TempDir(), 1<<30, 8, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	desk := submission.NewDesk(s.store, s.records, s.asked, 1<<20, time.Second, time.Now)
	s.asked.CaughtUp()
	books := &catalogue.Catalogue{Results: s.rows, Markers: desk, Asked: s.asked, Timeout: time.Second}
	s.control = &control.Desk{Catalogue: books, Asked: s.asked, DB: s.rows, Producer: s.records, Patience: time.Second, Timeout: time.Second,
		Now: time.Now, Logger: log}
	known := models.New("layout_cdla", log)
	known.CaughtUp()
	cfg := httpapi.Config{RateBurst: 1, MaxUpload: 1 << 20, UploadTimeout: time.Minute, StallTimeout: 10 * time.Second, ObjectLinks: "stream"}
	parts := httpapi.Parts{
		Spool: spool, Desk: desk, Catalogue: books, Models: known,
		Control: s.control,
		Feed:    &progress.Feed{Source: s.rows.Progress, Every: time.Millisecond, Max: 1, Logger: log},
		Objects: s.store, Version: "test", Logger: log, Tracers: tracenoop.NewTracerProvider(), Meters: noop.NewMeterProvider(),
		Propagator: propagation.TraceContext{},
	}
	if change != nil {
		change(&cfg, &parts)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	a, err := httpapi.New(cfg, parts)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(a)
	t.Cleanup(func() { a.Stop(); a.Stop(); s.Close() })
	return s
}

// do sends a request and returns its answer with the body read. headers are name, value, name, value …
func (s *served) do(method, path, body string, headers ...string) (reply, string) {
	s.Helper()
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	client := s.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{StatusCode: response.StatusCode, Header: response.Header}, string(answer)
}

// reply is the head of an answer.
type reply struct {
	StatusCode int
	Header     http.Header
}

// code is the code of the problem that an answer is; it checks the problem's form on the way. "" for no problem.
func (s *served) code(response reply, body string) string {
	s.Helper()
	if response.StatusCode < 400 {
		return ""
	}
	var p api.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || response.Header.Get("Content-Type") != "application/problem+json" ||
		p.Status != response.StatusCode || p.Code == "" || p.Detail == "" || p.Title == "" || p.Type != "/docs#"+p.Code ||
		p.RequestID == "" || p.RequestID != response.Header.Get("X-Request-Id") {
		s.Errorf("not a proper problem: %d %v %s", response.StatusCode, response.Header, body)
	}
	return p.Code
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
