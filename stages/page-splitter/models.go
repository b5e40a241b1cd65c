package pagesplitter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// modelDependency is the name under which a model that is still to be announced
// is waited for.
const modelDependency = "model"

// Models knows what detectors have announced: the digest and the thresholds that
// a run is resolved with.
type Models struct {
	standard string
	logger   *slog.Logger

	mu        sync.Mutex
	announced map[string]schemas.ModelAnnounced
	reminded  time.Time // when the log last said that documents wait
	caughtUp  chan struct{}
	once      sync.Once
}

// NewModels knows no model yet. The standard model is waited for, any other that
// was never announced is unknown.
func NewModels(standard string, logger *slog.Logger) *Models {
	return &Models{standard: standard, logger: logger, announced: map[string]schemas.ModelAnnounced{}, caughtUp: make(chan struct{})}
}

// Follow reads the topic of models until ctx ends. A broker that is away, or a
// topic that is still to be made, is waited for.
func (m *Models) Follow(ctx context.Context, k kafka.Config) {
	kafka.Follow(ctx, k, schemas.TopicModels, m.Apply, m.CaughtUp, func(err error, pause time.Duration) {
		m.logger.Warn("models cannot be read yet", slog.Any("error", err), slog.Duration("pause", pause))
	})
}

// Apply takes one record of the topic; a nil value takes the model away.
func (m *Models) Apply(key string, value []byte) {
	if value == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.announced, key)
		return
	}
	announced, err := schemas.Unmarshal[schemas.ModelAnnounced](value)
	if err != nil || !schemas.IsModelName(announced.Model) {
		m.logger.Warn("model announcement cannot be read", slog.String("key", key), slog.Any("error", err))
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.announced[announced.Model] = announced
}

// CaughtUp says that every model announced before now has been applied.
func (m *Models) CaughtUp() { m.once.Do(func() { close(m.caughtUp) }) }

// Await returns once the topic has been read to its end: before that, a model
// that is not known may be one that was not read yet.
func (m *Models) Await(ctx context.Context) error {
	select {
	case <-m.caughtUp:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Probe tells whether the standard model has been announced.
func (m *Models) Probe(context.Context) error {
	_, err := m.lookup(m.standard)
	return err
}

// Ready tells what documents that name no model would wait for.
func (m *Models) Ready() error {
	select {
	case <-m.caughtUp:
		_, err := m.lookup(m.standard)
		return err
	default:
		return errors.New("the topic of models is still to be read")
	}
}

// want is lookup for a document. Documents that wait for a model say so in the log
// once a minute: a detector that nobody started does not show otherwise.
func (m *Models) want(name string) (schemas.ModelAnnounced, error) {
	announced, err := m.lookup(name)
	if fault.ClassOf(err) == fault.Unavailable && m.reminds(time.Now()) {
		m.logger.Warn("documents wait for a model that no detector has announced yet: start one that serves it", slog.String("model", name))
	}
	return announced, err
}

// Shadow is a model that documents are not to wait for: where nobody has announced
// it the log says so, once a minute.
func (m *Models) Shadow(name string) (schemas.ModelAnnounced, bool) {
	m.mu.Lock()
	announced, ok := m.announced[name]
	m.mu.Unlock()
	if !ok && m.reminds(time.Now()) {
		m.logger.Warn("no detector has announced the shadow model: documents are planned without it", slog.String("model", name))
	}
	return announced, ok
}

// reminds reports whether the last reminder was a minute ago, and takes now for the
// time of the next.
func (m *Models) reminds(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.reminded) < time.Minute {
		return false
	}
	m.reminded = now
	return true
}

// lookup returns what was announced of a model.
func (m *Models) lookup(name string) (schemas.ModelAnnounced, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	announced, ok := m.announced[name]
	switch {
	case ok:
		return announced, nil
	case name == m.standard:
		return announced, fault.AsUnavailable(modelDependency, fmt.Errorf("no detector has announced the model %s yet: start one", name))
	default:
		return announced, fault.Permanentf(CodeUnknownModel, "no detector has announced a model %s", name)
	}
}
