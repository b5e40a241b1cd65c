package realservers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Network is the ways of a test, each between one stage and one server: what goes one of them can be slowed, cut and
// swallowed without anybody else noticing.
type Network struct {
	server *toxiproxy.ApiServer

	mu   sync.Mutex
	ways map[string]*way
}

// way is a relay, which stages connect to, and behind it a toxiproxy, which leads to the server.
type way struct {
	address  string
	upstream string
	relay    *relay
	proxy    *toxiproxy.Proxy
}

// NewNetwork makes one without ways.
func NewNetwork() *Network {
	return &Network{server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), ways: map[string]*way{}}
}

// Reserve gives the address of a way that leads nowhere yet: a broker has to be told of it before it can be started.
func (n *Network) Reserve(name string) (address string, err error) {
	ports, err := Ports(1)
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ways[name] = &way{address: local(ports[0])}
	return n.ways[name].address, nil
}

// Lead has a way lead to a server, host:port or a URL, from now on.
func (n *Network) Lead(name, upstream string) error {
	w, err := n.way(name)
	if err != nil {
		return err
	}
	w.upstream = strings.TrimPrefix(upstream, "http://")
	if w.proxy, err = n.sound(name, w.upstream); err != nil {
		return err
	}
	w.relay, err = newRelay(w.address, w.proxy.Listen)
	return err
}

// sound is a proxy without a fault.
func (n *Network) sound(name, upstream string) (*toxiproxy.Proxy, error) {
	ports, err := Ports(1)
	if err != nil {
		return nil, err
	}
	proxy := toxiproxy.NewProxy(n.server, name, local(ports[0]), upstream)
	if err := proxy.Start(); err != nil {
		return nil, fmt.Errorf("start the proxy %s: %w", name, err)
	}
	return proxy, nil
}

func (n *Network) way(name string) (*way, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.ways[name]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("there is no way %s", name)
}

// Toxic is a fault of a way, as toxiproxy names it: latency, bandwidth, timeout, reset_peer, slicer and others.
type Toxic struct {
	Type       string         `json:"type"`
	Stream     string         `json:"stream"` // upstream or downstream
	Attributes map[string]int `json:"attributes"`
}

// Poison adds a fault to both directions of a way.
func (n *Network) Poison(name, kind string, attributes map[string]int) error {
	w, err := n.way(name)
	if err != nil {
		return err
	}
	for _, stream := range []string{"upstream", "downstream"} {
		b, err := json.Marshal(Toxic{kind, stream, attributes})
		if err != nil {
			return fmt.Errorf("describe a fault: %w", err)
		}
		if _, err := w.proxy.Toxics.AddToxicJson(bytes.NewReader(b)); err != nil {
			return fmt.Errorf("add %s to %s: %w", kind, name, err)
		}
	}
	return nil
}

// Heal takes all faults off a way. The connections that had them are closed: to take a bandwidth off one that is full may
// hang for ever.
func (n *Network) Heal(name string) error {
	w, err := n.way(name)
	if err != nil {
		return err
	}
	faulty := w.proxy
	if w.proxy, err = n.sound(name, w.upstream); err != nil {
		return err
	}
	w.relay.lead(w.proxy.Listen)
	faulty.Stop()
	return nil
}

// Cut refuses connections on a way and closes those that are open; Join undoes it.
func (n *Network) Cut(name string) error {
	w, err := n.way(name)
	if err != nil {
		return err
	}
	w.proxy.Stop()
	return nil
}

// Join undoes Cut.
func (n *Network) Join(name string) error {
	w, err := n.way(name)
	if err != nil {
		return err
	}
	if err := w.proxy.Start(); err != nil {
		return fmt.Errorf("start the proxy %s: %w", name, err)
	}
	return nil
}

// Forget leaves the connections that are open on a way half open for good, and says how many: neither end hears of it.
func (n *Network) Forget(name string) (int, error) {
	w, err := n.way(name)
	if err != nil {
		return 0, err
	}
	return w.relay.forget(), nil
}

// Close ends all ways.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var faults []error
	for _, w := range n.ways {
		if w.relay != nil {
			faults = append(faults, w.relay.close())
		}
		if w.proxy != nil {
			w.proxy.Stop()
		}
	}
	return errors.Join(faults...)
}
