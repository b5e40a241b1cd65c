// Package outbound is the HTTP transport by which the object store and ClickHouse are reached, and webhooks are sent: a
// bounded pool of connections, a span for each request, and connections that fail when nothing moves instead of hanging
// for ever.
package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Settings of a transport. The zero value is usable.
type Settings struct {
	Connections int           // kept alive to one host; 32 where 0. More are opened when needed and closed after use
	DialTimeout time.Duration // to establish a connection; 5 s where 0
	Stall       time.Duration // without a byte in either direction before a connection is given up; 60 s where 0
	Patience    time.Duration // the same, as long as the server has not been slow lately; Stall where 0 or more than that
	TLS         *tls.Config   // nil for the system's roots
	Guard       *Guard        // asked before each connection, and no proxy is used, which would connect instead; nil: all goes

	// Tracer and Meter providers of the spans and metrics of requests; OpenTelemetry's globals where nil.
	Tracers trace.TracerProvider
	Meters  metric.MeterProvider
}

// Transport is an [http.RoundTripper] for any number of goroutines.
type Transport struct {
	http.RoundTripper
	pool *http.Transport
}

// New makes a transport. It opens no connection.
func New(s Settings) *Transport {
	connections, stall := or(s.Connections, 32), or(s.Stall, time.Minute)
	wait := &patience{least: min(or(s.Patience, stall), stall), most: stall, now: time.Now}
	pool := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       s.TLS,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConns:          connections,
		MaxIdleConnsPerHost:   connections,
		IdleConnTimeout:       min(30*time.Second, wait.least*3/4), // before its silence could be taken for a stall
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     false, // one object a connection: streams of one connection share its fate and its window
		DisableCompression:    true,  // objects are images and are to arrive as they lie; ClickHouse is asked explicitly
	}
	if s.Guard != nil {
		pool.Proxy = nil
	}
	// What has befallen one connection has befallen its idle siblings, and the next try would take one of them.
	pool.DialContext = dialer(or(s.DialTimeout, 5*time.Second), wait, pool.CloseIdleConnections, s.Guard)
	var options []otelhttp.Option
	if s.Tracers != nil {
		options = append(options, otelhttp.WithTracerProvider(s.Tracers))
	}
	if s.Meters != nil {
		options = append(options, otelhttp.WithMeterProvider(s.Meters))
	}
	return &Transport{RoundTripper: otelhttp.NewTransport(pool, options...), pool: pool}
}

// CloseIdleConnections closes what is pooled; http.Client finds it by this name.
func (t *Transport) CloseIdleConnections() { t.pool.CloseIdleConnections() }

// dialer connects within timeout. What it returns breaks after a silence that is longer than wait says, and calls stalled
// then.
func dialer(timeout time.Duration, wait *patience, stalled func(), guard *Guard) func(context.Context, string, string) (net.Conn, error) {
	d := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
	if guard != nil {
		d.ControlContext = guard.control
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &stallConn{Conn: c, wait: wait, stalled: stalled, opened: time.Now()}, nil
	}
}

// stallConn breaks when no byte has moved for a while. A write puts off the deadline of reads too: while a large body is
// sent, http.Transport already waits in Read for the answer, and that wait is no stall as long as the body moves.
type stallConn struct {
	net.Conn
	wait    *patience
	stalled func()
	opened  time.Time
	wrote   atomic.Int64 // when, in nanoseconds after opened
	limit   atomic.Int64 // the silence that was allowed last, in nanoseconds: a write puts off the end of a read under way
}

// Read reads within the stall time.
func (c *stallConn) Read(p []byte) (int, error) {
	began, limit := time.Now(), c.wait.limit()
	c.limit.Store(int64(limit))
	if err := c.SetReadDeadline(began.Add(limit)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.wait.answered(min(time.Since(began), time.Since(c.opened)-time.Duration(c.wrote.Load())))
	}
	return n, c.judged(err)
}

// Write writes within the stall time.
func (c *stallConn) Write(p []byte) (int, error) {
	limit := c.wait.limit()
	c.limit.Store(int64(limit))
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	c.wrote.Store(int64(time.Since(c.opened)))
	return n, c.judged(err)
}

// judged tells of an error that is a silence of the server's.
func (c *stallConn) judged(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.wait.exhausted(time.Duration(c.limit.Load()))
		c.stalled()
	}
	return err
}

// buffers are for bodies on their way into a connection.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadFrom writes what r gives. [http.Transport] sends bodies by it where a connection has it, and else makes a buffer
// for each of them.
func (c *stallConn) ReadFrom(r io.Reader) (int64, error) {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c}, r, buffer[:])
}

func or[T int | time.Duration](given, otherwise T) T {
	if given > 0 {
		return given
	}
	return otherwise
}
