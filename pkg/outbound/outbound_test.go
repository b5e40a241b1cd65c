package outbound_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
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

// Connections that are forgotten for good: the first of them costs one silence, the idle ones with it nothing more.
func TestForgottenConnections(t *testing.T) {
	const n = 3
	var arrived sync.WaitGroup
	arrived.Add(n)
	var forgotten sync.Map // remote address of a connection
	var forget atomic.Bool
	var met atomic.Int32 // requests by such a connection
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if !forget.Load() {
			forgotten.Store(r.RemoteAddr, true)
			arrived.Done()
			arrived.Wait() // so that each has a connection of its own
		} else if _, is := forgotten.Load(r.RemoteAddr); is {
			met.Add(1)
			<-release
		}
	}))
	defer server.Close()
	defer close(release)
	c := client(t, outbound.Settings{Patience: 2 * time.Second})
	first := make(chan error, n)
	for range n {
		go func() { first <- get(c, server.URL) }()
	}
	for range n {
		if err := <-first; err != nil {
			t.Fatal(err)
		}
	}
	forget.Store(true)
	// What is not sent again by the transport itself, as a GET is, fails by its time.
	response, err := c.Post(server.URL, "text/plain", &slow{left: 1})
	if err == nil {
		_ = response.Body.Close()
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("by a connection that is forgotten: %v", err)
	}
	if err := get(c, server.URL); err != nil || met.Load() != 1 {
		t.Errorf("the next try: %v, and %d met a connection that is forgotten", err, met.Load())
	}
}

// A server that is slower than it is given at first is asked again, with more patience each time, and then left alone.
func TestSlowServerIsWaitedFor(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		time.Sleep(time.Second) // the pace of the server is what is tested, not something waited for
	}))
	defer server.Close()
	c := client(t, outbound.Settings{Patience: 300 * time.Millisecond, Stall: time.Minute})
	given := 0
	for err := get(c, server.URL); err != nil; err = get(c, server.URL) {
		if given++; given > 8 { // by then it had 25 s
			t.Fatal(err)
		}
	}
	if given == 0 {
		t.Error("the first silence was not ended")
	}
	for range 3 {
		if err := get(c, server.URL); err != nil {
			t.Errorf("a server that is known to be slow: %v", err)
		}
	}
}

func get(c *http.Client, url string) error {
	response, err := c.Get(url)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
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
