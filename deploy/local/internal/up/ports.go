package up

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
)

// Ports are where the pipeline listens, all on 127.0.0.1.
type Ports struct {
	API, Kafka, S3, SQL, OTLP int
}

// DefaultPorts are those that users of each protocol expect. Spans are the pipeline's own affair: any port does.
func DefaultPorts() Ports { return Ports{API: 8090, Kafka: 9092, S3: 9000, SQL: 8123} }

// held are ports that nobody else can be given until they are let go.
type held map[int]net.Listener

// release lets ports go, just before their own process listens there.
func (h held) release(ports ...int) {
	for _, port := range ports {
		if l := h[port]; l != nil {
			_ = l.Close()
		}
		delete(h, port)
	}
}

// choose replaces each port that is 0 by a free one and, with anyPort, each that is taken. Without it, every port that
// is taken is named in one error. The caller releases what is held.
func (p Ports) choose(anyPort bool) (Ports, held, error) {
	var faults []error
	hold := held{}
	for _, one := range []struct {
		name string
		port *int
	}{{"UI and API", &p.API}, {"Kafka", &p.Kafka}, {"S3", &p.S3}, {"ClickHouse", &p.SQL}, {"OTLP", &p.OTLP}} {
		l, err := listen(*one.port)
		for tries := 0; err != nil && (anyPort || *one.port == 0) && tries < 100; tries++ {
			l, err = listen(firstFree + rand.IntN(countFree))
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("port %d (%s) is taken", *one.port, one.name))
			continue
		}
		*one.port = l.Addr().(*net.TCPAddr).Port
		hold[*one.port] = l
	}
	if len(faults) > 0 {
		hold.release(slices.Collect(maps.Keys(hold))...)
		return p, nil, fmt.Errorf("%w\nstop what listens there, or let free ports be chosen with --any-port", errors.Join(faults...))
	}
	return p, hold, nil
}

// Free ports are taken from below those that the system gives to outgoing connections. A child that was killed must find
// its port free again, and the clients that look for it meanwhile may be given any of the others.
const firstFree, countFree = 20000, 12000

// listen listens on a port of this machine; 0 is refused.
func listen(port int) (net.Listener, error) {
	if port == 0 {
		return nil, errors.New("no port given")
	}
	return net.Listen("tcp", local(port))
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Free is nil where every port can be listened on now.
func (p Ports) Free() error {
	p, hold, err := p.choose(false)
	hold.release(p.API, p.Kafka, p.S3, p.SQL, p.OTLP)
	return err
}
