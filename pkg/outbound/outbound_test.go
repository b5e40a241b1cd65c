package outbound_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"leafcutter/pkg/outbound"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T, s outbound.Settings) *http.Client {
	transport := outbound.New(s)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestSilentServerIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	response, err := client(t, outbound.Settings{Stall: 50 * time.Millisecond}).Get(server.URL)
	if err == nil {
		_ = response.Body.Close()
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}

// slow is a body of which a byte comes now and then, for longer in all than a stall may last.
type slow struct{ left int }

func (s *slow) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	s.left--
	time.Sleep(100 * time.Millisecond) // the pace of the sender is what is tested, not something waited for
	p[0] = 'x'
	return 1, nil
}

// While the body is sent the transport waits for the answer, on the same connection, for longer than the stall time.
func TestSlowUploadIsNoStall(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil || n != 20 {
			t.Errorf("%d bytes, %v", n, err)
		}
	}))
	defer server.Close()
	response, err := client(t, outbound.Settings{Stall: 1500 * time.Millisecond}).Post(server.URL, "text/plain", &slow{left: 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		t.Error(err)
	}
}

func TestSpansAndTheirContext(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	response, err := client(t, outbound.Settings{Tracers: provider}).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err = errors.Join(err, response.Body.Close(), provider.ForceFlush(t.Context())); err != nil {
		t.Fatal(err)
	}
	if spans := exporter.GetSpans(); len(spans) != 1 || spans[0].Name != "HTTP GET" {
		t.Errorf("got %+v", spans)
	}
}
