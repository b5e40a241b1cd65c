// Package models knows which models a submission may name: the deployment's default, and every one that a detector has
// announced on the compacted topic models. ingest-api asks it before it accepts a document.
package models

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// Registry is the models known so far. Apply and CaughtUp are what kafka.Tail wants.
type Registry struct {
	standard string
	log      *slog.Logger

	mu        sync.RWMutex
	announced map[string]schemas.ModelAnnounced
	caughtUp  bool
}

// New makes a registry that knows the standard model alone.
func New(standard string, log *slog.Logger) *Registry {
	return &Registry{standard: standard, log: log, announced: map[string]schemas.ModelAnnounced{}}
}

// Apply takes one record of the topic; a nil value takes the model away. What cannot be read is said and passed over: a
// model that nobody can describe is no reason to refuse documents for others.
func (r *Registry) Apply(key string, value []byte) {
	if value == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.announced, key)
		return
	}
	m, err := schemas.Unmarshal[schemas.ModelAnnounced](value)
	if err != nil || !schemas.IsModelName(m.Model) {
		r.log.Warn("model announcement cannot be read", slog.String("key", key), slog.Any("error", err))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.announced[m.Model] = m
}

// CaughtUp says that every model announced before now has been applied.
func (r *Registry) CaughtUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.caughtUp = true
}

// Complete reports whether a model that is not known is unknown, rather than not read yet.
func (r *Registry) Complete() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.caughtUp
}

// Knows reports whether a submission may name the model.
func (r *Registry) Knows(name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.announced[name]
	return ok || name == r.standard
}

// Names are the models known, sorted.
func (r *Registry) Names() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := slices.Collect(maps.Keys(r.announced))
	if _, ok := r.announced[r.standard]; !ok {
		names = append(names, r.standard)
	}
	slices.Sort(names)
	return names
}

// List describes the models known, the default one first, the others by name.
func (r *Registry) List() []api.Model {
	var list []api.Model
	for _, name := range r.Names() {
		r.mu.RLock()
		a, ok := r.announced[name]
		r.mu.RUnlock()
		m := api.Model{Name: name, Default: name == r.standard, Announced: ok, Version: a.Version, Digest: a.Digest,
			Family: a.Family, Classes: a.Classes, ScoreFloor: a.ScoreFloor, Thresholds: a.Thresholds}
		if ok {
			m.AnnouncedAt = present(a.AnnouncedAt)
		}
		list = append(list, m)
	}
	slices.SortStableFunc(list, func(a, b api.Model) int { return cmp.Compare(rank(a), rank(b)) })
	return list
}

func rank(m api.Model) int {
	if m.Default {
		return 0
	}
	return 1
}

func present(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
