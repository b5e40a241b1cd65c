package kafka

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// One connection to a broker ends in silence: of the others to that broker those end that heard nothing meanwhile either.
func TestSilentConnectionsEndTogether(t *testing.T) {
	broker, other := listen(t), listen(t)
	all := newSiblings(nil)
	first, idle, lively, elsewhere := connect(t, all, broker), connect(t, all, broker), connect(t, all, broker), connect(t, all, other)

	// Called back by the client, for one request or because it is closed: nothing is known of the network.
	for _, callBack := range []func(time.Time) error{first.SetReadDeadline, first.SetDeadline} {
		called := make(chan error, 1)
		go func() {
			_, err := first.Read(make([]byte, 1))
			called <- err
		}()
		must(t, callBack(time.Now().Add(-time.Second)))
		if err := <-called; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		echoes(t, idle)
		must(t, first.SetDeadline(time.Time{}))
	}

	limit := time.Now().Add(300 * time.Millisecond)
	must(t, first.SetReadDeadline(limit))
	silent := make(chan error, 1)
	go func() {
		_, err := first.Read(make([]byte, 1))
		silent <- err
	}()
	for time.Now().Before(limit.Add(-100 * time.Millisecond)) {
		echoes(t, lively)
	}
	if err := <-silent; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := idle.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection that was as silent: %v", err)
	}
	echoes(t, lively)
	echoes(t, elsewhere)
	must(t, errors.Join(first.Close(), lively.Close(), elsewhere.Close()))
	if len(all.open) != 0 {
		t.Errorf("%d connections are remembered", len(all.open))
	}
}

// listen gives the address of a server that sends back what it is sent.
func listen(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				b := make([]byte, 1)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func connect(t *testing.T, s *siblings, address string) net.Conn {
	t.Helper()
	c, err := s.connect(context.Background(), "tcp", address)
	must(t, err)
	return c
}

func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := c.Write([]byte{1})
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = c.Read(make([]byte, 1))
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
