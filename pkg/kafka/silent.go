package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// siblings are the connections of one client. What the network between has forgotten one of, it has mostly forgotten all
// of, and each would be found out only by the time limit of the next request over it: 10 s for a heartbeat, then 25 s for
// joining the group again, 20 s for a record. So when one has been silent for its limit, those to the same broker that
// were as silent meanwhile are closed with it, and what comes next is asked over new ones.
//
// Some silence is no fault: joining a group is answered once all of its members have joined or are given up. Where another
// request to that broker passes its limit meanwhile, the connection of the one who joins is closed as well, and it joins again.
type siblings struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu   sync.Mutex
	open map[*sibling]struct{}
}

func newSiblings(config *tls.Config) *siblings {
	plain := &net.Dialer{Timeout: 10 * time.Second}
	s := &siblings{dial: plain.DialContext, open: map[*sibling]struct{}{}}
	if config != nil {
		s.dial = (&tls.Dialer{NetDialer: plain, Config: config}).DialContext
	}
	return s
}

// connect is for kgo.Dialer.
func (s *siblings) connect(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := s.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	one := &sibling{Conn: c, all: s, address: address}
	one.heard.Store(time.Now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[one] = struct{}{}
	return one, nil
}

// closeSilent closes the siblings of a connection that have heard nothing since then either.
func (s *siblings) closeSilent(of *sibling, since time.Time) {
	s.mu.Lock()
	var silent []*sibling
	for one := range s.open {
		if one != of && one.address == of.address && one.heard.Load() < since.UnixNano() {
			silent = append(silent, one)
		}
	}
	s.mu.Unlock()
	for _, one := range silent {
		_ = one.Close() // whoever uses it hears of that
	}
}

// sibling is one of the connections.
type sibling struct {
	net.Conn
	all         *siblings
	address     string
	heard       atomic.Int64 // when the last byte came, or the connection was opened, in Unix nanoseconds
	interrupted atomic.Bool  // a deadline in the past: how the client calls a read back
}

// Read reads until the deadline, which is the limit of a request.
func (c *sibling) Read(p []byte) (int, error) {
	began := time.Now()
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.interrupted.Load() {
		c.all.closeSilent(c, began)
	}
	return n, err
}

// SetReadDeadline tells a limit from an interruption.
func (c *sibling) SetReadDeadline(t time.Time) error {
	c.interrupted.Store(past(t))
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline interrupts what goes on when the client is closed.
func (c *sibling) SetDeadline(t time.Time) error {
	c.interrupted.Store(past(t))
	return c.Conn.SetDeadline(t)
}

func past(t time.Time) bool { return !t.IsZero() && !t.After(time.Now()) }

// Close closes it and forgets it.
func (c *sibling) Close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}
