package up

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are where the pipeline listens, all on 127.0.0.1.
type Ports struct {
	API, Kafka, S3, SQL, OTLP int
}

// DefaultPorts are those that users of each protocol expect. Spans are the pipeline's own affair: any port does.
func DefaultPorts() Ports { return Ports{API: 8090, Kafka: 9092, S3: 9000, SQL: 8123} }

// choose replaces each port that is 0 by a free one and, with anyPort, each that is taken. Without it, every port that
// is taken is named in one error.
func (p Ports) choose(anyPort bool) (Ports, error) {
	var faults []error
	var held []net.Listener // until all are chosen, so that none is chosen twice
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
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
		held = append(held, l)
		*one.port = l.Addr().(*net.TCPAddr).Port
	}
	if len(faults) > 0 {
		return p, fmt.Errorf("%w\nstop what listens there, or let free ports be chosen with --any-port", errors.Join(faults...))
	}
	return p, nil
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
	_, err := p.choose(false)
	return err
}
