// Package outbound is the HTTP transport by which the object store and ClickHouse are reached, and webhooks are sent: a
// bounded pool of connections, a span for each request, and connections that fail when nothing moves instead of hanging
// for ever.
package outbound

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
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
	connections := or(s.Connections, 32)
	pool := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer(or(s.DialTimeout, 5*time.Second), or(s.Stall, time.Minute), s.Guard),
		TLSClientConfig:       s.TLS,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConns:          connections,
		MaxIdleConnsPerHost:   connections,
		IdleConnTimeout:       30 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     false, // one object a connection: streams of one connection share its fate and its window
		DisableCompression:    true,  // objects are images and are to arrive as they lie; ClickHouse is asked explicitly
	}
	if s.Guard != nil {
		pool.Proxy = nil
	}
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

// dialer connects within timeout; what it returns breaks after stall without progress.
func dialer(timeout, stall time.Duration, guard *Guard) func(context.Context, string, string) (net.Conn, error) {
	d := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
	if guard != nil {
		d.ControlContext = guard.control
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &stallConn{Conn: c, stall: stall}, nil
	}
}

// stallConn breaks when no byte has moved for a while. A write puts off the deadline of reads too: while a large body is
// sent, http.Transport already waits in Read for the answer, and that wait is no stall as long as the body moves.
type stallConn struct {
	net.Conn
	stall time.Duration
}

// Read reads within the stall time.
func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write writes within the stall time.
func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func or[T int | time.Duration](given, otherwise T) T {
	if given > 0 {
		return given
	}
	return otherwise
}
