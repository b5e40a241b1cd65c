package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Shared is a pipeline that the tests of one binary share: started for the first that asks, stopped by TestMain.
type Shared struct {
	once sync.Once
	p    *Pipeline
	dir  string
	err  error
}

// Get gives the pipeline; where the test fails, what the children logged meanwhile is printed.
func (s *Shared) Get(t testing.TB) *Pipeline {
	t.Helper()
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "leafcutter-e2e-"); s.err == nil {
			s.p, s.err = Start(filepath.Join(s.dir, "data"))
		}
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	s.p.Watch(t)
	return s.p
}

// Stop ends the pipeline, where one was started, and removes its data.
func (s *Shared) Stop() error {
	var errs []error
	if s.p != nil {
		errs = append(errs, s.p.Stop())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// Own starts a pipeline for one test, which may harm it. It ends with the test.
func Own(t testing.TB, env ...string) *Pipeline {
	t.Helper()
	return Again(t, filepath.Join(t.TempDir(), "data"), env...)
}

// Again starts a pipeline for one test on a data directory that may have been used before.
func Again(t testing.TB, data string, env ...string) *Pipeline {
	t.Helper()
	p, err := Start(data, env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-p.done: // the test has ended it
		default:
			if err := p.Stop(); err != nil {
				t.Error(fmt.Errorf("stop: %w", err))
			}
		}
	})
	p.Watch(t)
	return p
}
