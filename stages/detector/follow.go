package detector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/repository"
)

const (
	// retrying is the pause while a model that is to be served is not: models
	// come by volumes and copies that may be late.
	retrying = 5 * time.Second
	// retryingBroken is the pause after a manifest with faults and what ONNX
	// Runtime does not accept, and longestRetrying what pauses grow to.
	retryingBroken  = 10 * time.Minute
	longestRetrying = time.Hour
	// unused is how long a version stays loaded that no run is planned for any
	// more.
	unused = time.Minute
)

// Follow takes up the models and then looks, every Config.Refresh, what has
// changed in the repository, until ctx ends. tell is called for each model that
// is served from now on, and for each whose manifest or weights are others from
// now on.
func (m *Models) Follow(ctx context.Context, tell func(schemas.ModelAnnounced)) {
	m.look(ctx, tell)
	var tended sync.WaitGroup
	defer tended.Wait()
	tended.Go(func() { m.tend(ctx) })
	for {
		pause := cmp.Or(m.config.Refresh, unused)
		if m.Ready() != nil || m.config.Refresh == 0 && !m.settled() {
			pause = min(pause, retrying)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if m.config.Refresh > 0 || !m.settled() {
			m.look(ctx, tell)
		}
		m.room.tidy(unused, m.isCurrent)
	}
}

// settled says that every model is served as the repository has it, or had it once.
func (m *Models) settled() bool {
	if m.Ready() != nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.served {
		if s.fallen {
			return false
		}
	}
	return true
}

// look takes up what has changed since the last look.
func (m *Models) look(ctx context.Context, tell func(schemas.ModelAnnounced)) {
	changes, err := m.repository.Changes(ctx)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	told := news(m.reading, err)
	m.reading = err
	if err != nil {
		for _, s := range m.served {
			if s.current == nil {
				s.why = err
			}
		}
	}
	m.mu.Unlock()
	if told {
		m.log.Error("models cannot be read, looking again soon", slog.Any("error", err))
	}
	if err != nil {
		return
	}
	if m.config.all() {
		m.forget(changes)
		for name := range changes {
			if schemas.IsModelName(name) {
				m.serve(name)
			}
		}
	}
	for _, name := range m.Names() {
		if ctx.Err() != nil {
			return
		}
		m.lookAt(ctx, name, changes[name], tell)
	}
	m.room.forgo() // what is done seldom, such as this, need not stay mapped
}

// forget removes models that were found, never served, and are there no more.
func (m *Models) forget(there map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.served, func(name string, s *served) bool {
		_, still := there[name]
		return !still && s.current == nil
	})
}

// lookAt takes up one model, if it is another than it was.
func (m *Models) lookAt(ctx context.Context, name, now string, tell func(schemas.ModelAnnounced)) {
	s := m.serve(name)
	m.mu.Lock()
	changed, first := s.seen != now || s.fallen, s.current == nil
	withdrawn := !changed && !first && s.failure != nil
	early, failure := s.tried == now && time.Now().Before(s.again), s.failure
	m.mu.Unlock()
	switch {
	case withdrawn: // what failed may come again, mended
		m.noted(s, now)
		return
	case !changed && !first:
		return
	case early:
		if first {
			m.fallBack(ctx, s, name, failure, tell)
		}
		return
	case now == "" && s.fallen:
		return // it may be on its way
	case now == "" && !first:
		m.log.Warn("a model that is served is no longer in the repository; it is served on", slog.String("model", name))
		m.noted(s, now)
		return
	}
	a, err := m.takeUp(ctx, s, name)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		m.noted(s, now)
		if a != nil {
			tell(*a)
		}
		return
	}
	m.failed(s, name, err)
	if first && now != "" {
		m.fallBack(ctx, s, name, err, tell)
	}
	if errors.Is(err, errNotLoaded) || errors.Is(err, ErrModelInvalid) || errors.Is(err, ErrModelDigest) {
		m.putOff(s, now, err)
	}
}

// failed notes, and logs where it is news, why what the repository has now of a model
// is not served.
func (m *Models) failed(s *served, name string, why error) {
	m.mu.Lock()
	told := news(s.failure, why)
	s.failure = why
	what := "a model has changed and cannot be taken up; the one before is served on"
	if s.current == nil {
		s.why = why
		what = "model not loaded, looking again soon"
	}
	m.mu.Unlock()
	if told {
		m.log.Error(what, slog.String("model", name), slog.Any("error", why))
	}
}

// fallBack serves what was served before the version that lies in the repository
// and does not work, if that is its own fault, and tells it: a process that begins
// after a bad change does what those do that had the version before.
func (m *Models) fallBack(ctx context.Context, s *served, name string, why error, tell func(schemas.ModelAnnounced)) {
	if !aboutModel(why) || time.Now().Before(s.fallAgain) {
		return
	}
	broken := ""
	if errors.Is(why, errNotLoaded) { // else the same may lie elsewhere, whole
		_, broken, _ = m.repository.Manifest(ctx, name) // with an error it is tried in vain
	}
	all, err := m.before(ctx, name, broken)
	for _, f := range all {
		v := newVersion(f)
		var leave func()
		if _, leave, err = m.room.enter(ctx, v); err != nil {
			m.forgo(v, err)
			continue
		}
		leave()
		m.mu.Lock()
		s.why, s.current, s.said, s.versions[f.Digest], s.fallen = nil, v, &f.Manifest, v, true
		m.mu.Unlock()
		m.log.Warn("the version before is served", slog.String("model", name), slog.String("digest", f.Digest))
		tell(announcement(f.Manifest, f.Digest, time.Now()))
		return
	}
	if ctx.Err() == nil && news(s.unfallen, err) {
		m.log.Warn("no version before can be served, looking again soon", slog.String("model", name), slog.Any("error", err))
	}
	s.fallAgain, s.unfallen = time.Now().Add(retryingFallBack), err
}

// before are the versions of a model that may be served in the place of one that does
// not work, the best first: the one that was announced last and no other, so that one
// detector that begins with an old cache does not have all runs planned for what that
// has; where none was announced, those that were served lately.
func (m *Models) before(ctx context.Context, name, broken string) ([]repository.Fetched, error) {
	var last schemas.ModelAnnounced
	if m.announced != nil {
		var err error
		if last, err = m.announced(ctx, name); err != nil {
			return nil, fmt.Errorf("read what was announced last: %w", err)
		}
	}
	switch last.Digest {
	case "":
		all := slices.DeleteFunc(m.lately(ctx, name, broken), func(f repository.Fetched) bool { return f.Digest == broken })
		return all[:min(len(all), fallBacks)], nil
	case broken:
		return nil, nil
	}
	f, err := m.archive.find(name, last.Digest)
	if err != nil {
		if f, err = m.fromShared(ctx, name, last.Digest); err != nil {
			return nil, err
		}
	}
	f.Manifest.Version, f.Manifest.Thresholds = last.Version, last.Thresholds // of which the digest says nothing
	return []repository.Fetched{f}, nil
}

const (
	// fallBacks is how many versions are tried for one that works, and
	// retryingFallBack the pause until they are again.
	fallBacks        = 3
	retryingFallBack = 30 * time.Second
)

func (m *Models) noted(s *served, seen string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.seen, s.tried, s.pause, s.failure, s.fallen = seen, "", 0, nil, false
}

// putOff has what does not work left alone for longer each time: a try hashes, fetches
// and prepares it, and sends those away that are served. A manifest that has faults, or
// a model that ONNX Runtime does not accept, is as good as known to be so for ever; but
// where memory was wanting it looks the same, and then nobody is to have to touch the
// manifest. Weights that are others may be half of those that are coming.
func (m *Models) putOff(s *served, seen string, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.tried != seen {
		s.pause = 0
	}
	least, longest := retrying, longestRetrying
	switch {
	case errors.Is(why, ErrModelInvalid):
		least = retryingBroken
	case errors.Is(why, ErrModelDigest):
		longest = retryingBroken
	}
	s.tried, s.pause = seen, min(max(2*s.pause, least), longest)
	s.again = time.Now().Add(s.pause)
}

// errNotLoaded is a version that was had, but could not be loaded.
var errNotLoaded = errors.New("not loaded")

// takeUp serves what the repository has now of a model: its runs are planned for
// it from then on. The version before answers until this one has been loaded and
// tried; what was planned for it is still done by it. What is returned is to be
// told; nil where nothing changed.
func (m *Models) takeUp(ctx context.Context, s *served, name string) (*schemas.ModelAnnounced, error) {
	f, err := m.repository.Fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	before, said := s.current, s.said
	known := s.versions[f.Digest]
	m.mu.Unlock()
	if said != nil && reflect.DeepEqual(*said, f.Manifest) {
		return nil, nil
	}
	kept, err := m.keep(f)
	if err != nil && known != nil {
		kept.Weights = known.Weights
	}
	v := newVersion(kept)
	if known != nil && known.Manifest.Provider == kept.Manifest.Provider && known.Manifest.Batching == kept.Manifest.Batching && known.Weights == kept.Weights {
		v = known // it computes the same in the same way, and may be loaded: only labels or thresholds are new
	}
	if v != before {
		// While it is prepared, which may take minutes, the others stay loaded.
		ahead := &loader{config: m.config, manifest: v.Manifest, weights: v.Weights, log: m.log}
		for _, option := range m.options {
			option(ahead)
		}
		unprepared := ahead.ahead(ctx)
		m.mu.Lock()
		v.unprepared, v.tried = unprepared, time.Now()
		m.mu.Unlock()
		_, leave, err := m.room.enter(ctx, v)
		if err != nil {
			m.forgo(v, err)
			return nil, fmt.Errorf("%w: %w", errNotLoaded, err)
		}
		leave()
	}
	m.share(ctx, kept) // before runs can be planned for it
	m.mu.Lock()
	s.why, s.current, s.said = nil, v, &f.Manifest
	s.versions[f.Digest] = v
	clear(s.unknown)
	m.mu.Unlock()
	if before != nil {
		m.used(before.Fetched)
		m.log.Info("model changed", slog.String("model", name), slog.String("digest", f.Digest), slog.String("before", before.Digest))
	}
	if !m.Alone() && v != before {
		// It is known to work. It is loaded again when its first page comes.
		m.room.tidy(0, func(other *version) bool { return other != v })
	}
	a := announcement(f.Manifest, f.Digest, time.Now())
	return &a, nil
}

// keep has a version archived and gives it as it lies there. With an error, which
// is logged, it is as it was fetched: a file that the next version may replace.
func (m *Models) keep(f repository.Fetched) (repository.Fetched, error) {
	m.keeping.Lock()
	defer m.keeping.Unlock()
	kept, err := m.archive.keep(f)
	if err != nil {
		m.log.Warn("version of the model not kept: should it change, pages queued for it fail", slog.String("model", f.Manifest.Name), slog.Any("error", err))
		return f, err
	}
	return kept, nil
}

func (m *Models) isCurrent(v *version) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.served[v.Manifest.Name]
	return s != nil && s.current == v
}

// aboutModel says whether an error is the model's own, and not of the disk, the
// memory or the library.
func aboutModel(err error) bool {
	return errors.Is(err, ErrModelInvalid) || errors.Is(err, ErrModelDigest) || errors.Is(err, ErrModelAbsent)
}
