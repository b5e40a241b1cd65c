package ingestapi

import (
	"net"
	"time"

	"golang.org/x/net/netutil"
)

// listen accepts up to max connections at once on addr. On each, a write that moves nothing for the stall time breaks
// the connection: a client that asks and never takes the answer holds its place for a bounded time. Reads have their
// deadlines from the server and from package httpapi.
func listen(addr string, max int, stall time.Duration) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return netutil.LimitListener(stallListener{Listener: l, stall: stall}, max), nil
}

type stallListener struct {
	net.Listener
	stall time.Duration
}

// Accept waits for the next connection.
func (l stallListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &stallConn{Conn: c, stall: l.stall}, nil
}

type stallConn struct {
	net.Conn
	stall time.Duration
}

// Write writes within the stall time.
func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// CloseWrite ends our half of the connection; the server does that first, so that a client which is still sending gets
// to read the answer.
func (c *stallConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
