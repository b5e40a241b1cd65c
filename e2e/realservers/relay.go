package realservers

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// relay passes connections on to a server, until it is told to forget them: from then on what comes in by those that are
// open goes nowhere and neither end hears of it, as behind a router that has lost its table. New ones are passed on.
type relay struct {
	listener net.Listener
	done     sync.WaitGroup

	mu       sync.Mutex
	upstream string
	pairs    map[*pair]struct{}
}

// pair is one connection: the client's end and the server's.
type pair struct {
	ends      [2]net.Conn
	forgotten atomic.Bool
}

// newRelay listens on an address and passes on to upstream.
func newRelay(address, upstream string) (*relay, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for a relay: %w", err)
	}
	r := &relay{upstream: upstream, listener: l, pairs: map[*pair]struct{}{}}
	r.done.Go(r.accept)
	return r, nil
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		r.mu.Lock()
		upstream := r.upstream
		r.mu.Unlock()
		server, err := net.Dial("tcp", upstream)
		if err != nil {
			_ = client.Close() // it is told that way that nobody is there
			continue
		}
		p := &pair{ends: [2]net.Conn{client, server}}
		r.mu.Lock()
		r.pairs[p] = struct{}{}
		r.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { p.pass(0, 1) })
		both.Go(func() { p.pass(1, 0) })
		r.done.Go(func() {
			both.Wait()
			if p.forgotten.Load() {
				return // until the relay closes
			}
			r.mu.Lock()
			delete(r.pairs, p)
			r.mu.Unlock()
		})
	}
}

// pass copies from one end to the other until either closes, and closes the other then, unless the pair is forgotten.
func (p *pair) pass(from, to int) {
	_, _ = io.Copy(swallow{p, p.ends[to]}, p.ends[from]) // either end may be reset: it is a network that fails
	if !p.forgotten.Load() {
		_ = p.ends[to].Close() // the other direction may have done so
	}
}

// swallow is an end that takes everything and passes nothing on once its pair is forgotten.
type swallow struct {
	*pair
	end net.Conn
}

func (s swallow) Write(b []byte) (int, error) {
	if s.forgotten.Load() {
		return len(b), nil
	}
	return s.end.Write(b)
}

// lead has new connections passed on to another address.
func (r *relay) lead(upstream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upstream = upstream
}

// forget forgets the connections that are open now, and says how many.
func (r *relay) forget() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for p := range r.pairs {
		if !p.forgotten.Swap(true) {
			n++
		}
	}
	return n
}

// close ends all connections.
func (r *relay) close() error {
	err := r.listener.Close()
	r.mu.Lock()
	for p := range r.pairs {
		for _, end := range p.ends {
			if closing := end.Close(); closing != nil && !errors.Is(closing, net.ErrClosed) {
				err = errors.Join(err, closing)
			}
		}
	}
	r.mu.Unlock()
	r.done.Wait()
	return err
}
