package up

import (
	"errors"
	"fmt"
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
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(*one.port)))
		if err != nil && anyPort {
			l, err = net.Listen("tcp", "127.0.0.1:0")
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

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Free is nil where every port can be listened on now.
func (p Ports) Free() error {
	_, err := p.choose(false)
	return err
}
