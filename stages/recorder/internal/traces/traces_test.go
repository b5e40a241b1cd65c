package traces

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/metric/noop"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/fault"
	ddl "leafcutter/schemas/clickhouse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func str(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: value}}}
}

// request is an export of the service with a full span and as many bare ones as asked for.
func request(service string, bare int) *collector.ExportTraceServiceRequest {
	list := &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: []*common.AnyValue{
		{Value: &common.AnyValue_IntValue{IntValue: 7}}, {Value: &common.AnyValue_BoolValue{BoolValue: true}}}}}}
	full := &trace.Span{
		TraceId: bytes.Repeat([]byte{0xab}, 16), SpanId: bytes.Repeat([]byte{0x01}, 8), ParentSpanId: bytes.Repeat([]byte{0x02}, 8),
		TraceState: "k=v", Name: "recorder handle", Kind: trace.Span_SPAN_KIND_CONSUMER,
		StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(start.Add(1500 * time.Microsecond).UnixNano()),
		Attributes: []*common.KeyValue{str("messaging.system", "kafka"), {Key: "list", Value: list},
			{Key: "ratio", Value: &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: 0.25}}}},
		Status: &trace.Status{Code: trace.Status_STATUS_CODE_ERROR, Message: "it broke"},
		Events: []*trace.Span_Event{{TimeUnixNano: uint64(start.UnixNano()), Name: "exception", Attributes: []*common.KeyValue{str("type", "x")}}},
		Links:  []*trace.Span_Link{{TraceId: bytes.Repeat([]byte{0xcd}, 16), SpanId: bytes.Repeat([]byte{0x03}, 8), Attributes: []*common.KeyValue{str("a", "b")}}},
	}
	spans := []*trace.Span{full}
	for i := range bare {
		spans = append(spans, &trace.Span{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{byte(i + 1)}, 8),
			Name: "bare", StartTimeUnixNano: uint64(start.UnixNano())})
	}
	return &collector.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{str("service.name", service)}},
		ScopeSpans: []*trace.ScopeSpans{{Scope: &common.InstrumentationScope{Name: "leafcutter", Version: "1"},
			Spans: spans}}}}}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	r := request("recorder", 0)
	spans := r.ResourceSpans[0].ScopeSpans[0]
	spans.Spans = append(spans.Spans,
		&trace.Span{TraceId: []byte{1}, SpanId: bytes.Repeat([]byte{1}, 8), StartTimeUnixNano: 1},
		&trace.Span{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{1}, 8)},
		&trace.Span{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{1}, 8), StartTimeUnixNano: 1 << 63})
	got, bad, err := decode(marshal(t, r))
	if err != nil || bad != 3 {
		t.Fatalf("%d bad, %v", bad, err)
	}
	want := []span{{
		Timestamp: start, TraceID: strings.Repeat("ab", 16), SpanID: strings.Repeat("01", 8), ParentSpanID: strings.Repeat("02", 8),
		TraceState: "k=v", Name: "recorder handle", Kind: "Consumer", Service: "recorder",
		ResourceAttributes: map[string]string{"service.name": "recorder"}, ScopeName: "leafcutter", ScopeVersion: "1",
		Attributes: map[string]string{"messaging.system": "kafka", "list": "[7,true]", "ratio": "0.25"},
		Duration:   1_500_000, StatusCode: "Error", StatusMessage: "it broke",
		EventTimes: []time.Time{start}, EventNames: []string{"exception"}, EventAttributes: []map[string]string{{"type": "x"}},
		LinkTraceIDs: []string{strings.Repeat("cd", 16)}, LinkSpanIDs: []string{strings.Repeat("03", 8)}, LinkTraceStates: []string{""},
		LinkAttributes: []map[string]string{{"a": "b"}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(marshal(f, request("recorder", 2)))
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		spans, _, err := decode(body)
		if err != nil {
			return
		}
		for _, s := range spans {
			if len(s.TraceID) != 32 || len(s.SpanID) != 16 || s.Timestamp.Year() < 1970 || s.Timestamp.Year() > 2262 || s.Duration > maxNanos {
				t.Fatalf("%+v", s)
			}
		}
	})
}

// running is a receiver whose inserts go where the test says.
func running(t *testing.T, maxSpans int, insert func(context.Context, []span) error) (url string, stop func()) {
	t.Helper()
	r, err := Listen(Config{Addr: "127.0.0.1:0", MaxSpans: maxSpans, Logger: slog.New(slog.DiscardHandler), MeterProvider: noop.NewMeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	r.insert = insert
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return "http://" + r.Addr() + "/v1/traces", stop
}

func post(t *testing.T, url, contentType, encoding string, body []byte) (int, *collector.ExportTraceServiceResponse) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	answer := &collector.ExportTraceServiceResponse{}
	if resp.StatusCode == http.StatusOK {
		if err := proto.Unmarshal(out, answer); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, answer
}

func zip(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const protobuf = "application/x-protobuf"

func TestReceiveRefuses(t *testing.T) {
	url, _ := running(t, 100, func(context.Context, []span) error { return nil })
	good := marshal(t, request("x", 0))
	for name, c := range map[string]struct {
		media, encoding string
		body            []byte
		status          int
	}{
		"protobuf":       {protobuf, "", good, 200},
		"gzip":           {protobuf, "gzip", zip(t, good), 200},
		"empty":          {protobuf, "", nil, 200},
		"JSON":           {"application/json", "", []byte("{}"), 415},
		"no media type":  {"", "", good, 415},
		"zstd":           {protobuf, "zstd", good, 415},
		"not gzip":       {protobuf, "gzip", good, 400},
		"cut gzip":       {protobuf, "gzip", zip(t, good)[:20], 400},
		"not protobuf":   {protobuf, "", []byte("hello"), 400},
		"large":          {protobuf, "", make([]byte, maxBody+1), 413},
		"large unpacked": {protobuf, "gzip", zip(t, make([]byte, maxUnpacked+1)), 413},
	} {
		if status, _ := post(t, url, c.media, c.encoding, c.body); status != c.status {
			t.Errorf("%s: %d, want %d", name, status, c.status)
		}
	}
}

func TestQueueIsBoundedWhileClickHouseIsAway(t *testing.T) {
	asked := make(chan struct{}, 100)
	release := make(chan struct{})
	var mu sync.Mutex
	var landed []span
	url, stop := running(t, 10, func(ctx context.Context, spans []span) error {
		asked <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		landed = append(landed, spans...)
		return nil
	})
	// The first export is taken out of the queue and held by the insert that hangs.
	if status, answer := post(t, url, protobuf, "", marshal(t, request("x", 3))); status != 200 || answer.PartialSuccess != nil {
		t.Fatalf("%d %v", status, answer)
	}
	<-asked
	taken, rejected := 0, int64(0)
	for range 5 {
		status, answer := post(t, url, protobuf, "", marshal(t, request("x", 3)))
		if status != 200 {
			t.Fatal(status)
		}
		if n := answer.GetPartialSuccess().GetRejectedSpans(); n > 0 {
			rejected += n
		} else {
			taken += 4
		}
	}
	if taken != 8 || rejected != 12 {
		t.Errorf("%d taken and %d rejected, want 8 and 12", taken, rejected)
	}
	close(release)
	stop()
	if len(landed) != 4+8 {
		t.Errorf("%d landed, want 12", len(landed))
	}
}

func TestStopDoesNotWaitForClickHouse(t *testing.T) {
	asked := make(chan struct{}, 100)
	url, stop := running(t, 10, func(ctx context.Context, _ []span) error {
		asked <- struct{}{}
		return fault.AsUnavailable("clickhouse", errors.New("away"))
	})
	post(t, url, protobuf, "", marshal(t, request("x", 0)))
	<-asked
	began := time.Now()
	stop()
	if took := time.Since(began); took > 2*lastWords+time.Second {
		t.Errorf("the stop took %s", took)
	}
}

func TestRefusedSpansDoNotTakeOthersDown(t *testing.T) {
	var landed []string
	r := &Receiver{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
	r.count, _ = noop.NewMeterProvider().Meter("").Int64Counter("x")
	r.insert = func(_ context.Context, spans []span) error {
		for _, s := range spans {
			if s.Service == "bad" {
				return fault.AsPermanent("row-rejected", errors.New("no"))
			}
		}
		for _, s := range spans {
			landed = append(landed, s.Service)
		}
		return nil
	}
	if err := r.land(context.Background(), [][]span{{{Service: "a"}}, {{Service: "bad"}}, {{Service: "b"}}}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(landed, []string{"a", "b"}) {
		t.Errorf("landed %v", landed)
	}
}

func TestSpansLandInClickHouse(t *testing.T) {
	server := localtest.StartSQL(t)
	cfg := clickhouse.Config{Addr: []string{server.Addr}, Database: server.Database, User: server.User, Password: server.Password, Timeout: 30 * time.Second}
	ctx := context.Background()
	if err := clickhouse.Migrate(ctx, cfg, ddl.Migrations, nil); err != nil {
		t.Fatal(err)
	}
	db, err := clickhouse.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	url, stop := running(t, 100, func(ctx context.Context, spans []span) error { return land(ctx, db, spans) })
	if status, _ := post(t, url, protobuf, "gzip", zip(t, marshal(t, request("recorder", 2)))); status != 200 {
		t.Fatal(status)
	}
	stop()
	var rows []struct {
		At       string            `ch:"at"`
		Service  string            `ch:"ServiceName"`
		Name     string            `ch:"SpanName"`
		Kind     string            `ch:"SpanKind"`
		Duration uint64            `ch:"Duration"`
		Status   string            `ch:"StatusCode"`
		Attrs    map[string]string `ch:"SpanAttributes"`
		Events   []string          `ch:"events"`
		Links    []string          `ch:"links"`
		N        uint64            `ch:"n"`
	}
	err = db.Select(ctx, &rows, `SELECT toString(Timestamp, 'UTC') AS at, ServiceName, SpanName, SpanKind, Duration, StatusCode, SpanAttributes,
		Events.Name AS events, Links.TraceId AS links, (SELECT count() FROM otel_traces) AS n FROM otel_traces WHERE ParentSpanId != ''`)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	r := rows[0]
	if r.At != "2026-03-01 12:00:00.123456789" || r.Service != "recorder" || r.Name != "recorder handle" || r.Kind != "Consumer" ||
		r.Duration != 1_500_000 || r.Status != "Error" || r.Attrs["messaging.system"] != "kafka" || r.N != 3 ||
		!slices.Equal(r.Events, []string{"exception"}) || !slices.Equal(r.Links, []string{strings.Repeat("cd", 16)}) {
		t.Errorf("%+v", r)
	}
}
