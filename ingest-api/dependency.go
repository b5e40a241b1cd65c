package ingestapi

import (
	"context"
	"errors"
	"sync"
	"time"
)

// dependency is a server that an upload cannot do without, asked now and then so that /readyz asks nobody.
type dependency struct {
	name  string
	probe func(context.Context) error

	mu  sync.Mutex
	err error
}

func newDependency(name string, probe func(context.Context) error) *dependency {
	return &dependency{name: name, probe: probe, err: errors.New("not asked yet")}
}

// watch asks until ctx ends.
func (d *dependency) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := d.probe(ctx)
		d.mu.Lock()
		d.err = err
		d.mu.Unlock()
		timer.Reset(probeEvery)
	}
}

// state is nil where the server answered the last time.
func (d *dependency) state() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
