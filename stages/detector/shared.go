package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"leafcutter/pkg/objectstore"
	"leafcutter/stages/detector/internal/repository"
)

// Share keeps each version of a model in this store too before it is announced, and
// looks there for those that pages name and that neither the cache nor the models'
// folder has. It is to be called before Follow; store stays the caller's to close.
func (m *Models) Share(store *objectstore.Store) {
	if m.config.CacheDir != "" { // else there is no place for what comes from there
		m.shared = repository.OpenVersions(store, m.config.CacheDir)
	}
}

// sharing is how long a version's announcement waits for the store at most.
const sharing = 2 * time.Minute

// share has the current version of a model, f, kept in the store that all detectors
// have. Where that fails it is served all the same, and each look tries again.
func (m *Models) share(ctx context.Context, s *served, f repository.Fetched) {
	if m.shared == nil {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, sharing)
	defer cancel()
	err := m.shared.Keep(bounded, f)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	news := err != nil && (s.unshared == nil || s.unshared.Error() != err.Error())
	s.unshared = err
	if err == nil {
		s.shared = time.Now()
	}
	m.mu.Unlock()
	if news {
		m.log.Warn("version of the model not kept in S3, trying again soon: a detector with a new cache cannot do its pages once it has been replaced",
			slog.String("model", f.Manifest.Name), slog.String("digest", f.Digest), slog.Any("error", err))
	}
}

// shareAgain keeps those that could not be kept, and each once a day, so that it is
// not taken for one that is of no use.
func (m *Models) shareAgain(ctx context.Context) {
	m.mu.Lock()
	due := map[*served]repository.Fetched{}
	for _, s := range m.served {
		if s.current != nil && (s.unshared != nil || time.Since(s.shared) > sweepEvery) {
			due[s] = s.current.Fetched
		}
	}
	m.mu.Unlock()
	for s, f := range due {
		m.share(ctx, s, f)
	}
}

// sweepShared removes versions of which no page can be queued any more.
func (m *Models) sweepShared(ctx context.Context) {
	if m.shared == nil {
		return
	}
	if err := m.shared.Sweep(ctx, archivedFor); err != nil && ctx.Err() == nil {
		m.log.Warn("versions of models that are of no use stay in S3 for another day", slog.Any("error", err))
	}
}

// elsewhere is where a version lies that could not be loaded from v: what was to be
// loaded may have been the repository's, which has another now, or be damaged. Its
// error is the store's, or says that there is no such place.
func (m *Models) elsewhere(ctx context.Context, v *version) (repository.Fetched, error) {
	f, err := m.archive.find(v.Manifest.Name, v.Digest)
	if err == nil && f.Weights != v.Weights {
		return f, nil
	}
	if f, err = m.fromShared(ctx, v.Manifest.Name, v.Digest); err != nil {
		return f, err
	}
	f, _ = m.keep(f) // an error is logged, and the file is still there
	return f, nil
}

// lately are versions of a model that were served, the last one first: of this cache,
// or where it has no other than the broken one, of those that all detectors have.
func (m *Models) lately(ctx context.Context, name, broken string) (all []repository.Fetched) {
	other := func(f repository.Fetched) bool { return f.Digest != broken }
	if all = m.archive.lately(name); slices.ContainsFunc(all, other) || m.shared == nil {
		return all
	}
	digests, err := m.shared.Lately(ctx, name)
	if err != nil {
		m.log.Warn("versions of the model in S3 cannot be listed", slog.String("model", name), slog.Any("error", err))
	}
	for _, digest := range digests[:min(len(digests), fallBacks)] {
		if f, err := m.fromShared(ctx, name, digest); err == nil {
			f, _ = m.keep(f) // an error is logged, and the file is still there
			all = append(all, f)
		}
	}
	return all
}

// fromShared gives a version that the store has, or an error that is aboutModel.
func (m *Models) fromShared(ctx context.Context, name, digest string) (repository.Fetched, error) {
	if m.shared == nil {
		return repository.Fetched{}, ErrModelAbsent
	}
	f, err := m.shared.Fetch(ctx, name, digest)
	switch {
	case err == nil:
		m.log.Info("version of the model fetched from S3", slog.String("model", name), slog.String("digest", digest))
	case objectstore.IsDenied(err):
		m.denied.Do(func() {
			m.log.Warn("versions of models may not be read from S3, or not be listed there: one that is missing here counts as gone", slog.String("model", name), slog.String("digest", digest), slog.Any("error", err))
		})
	case !errors.Is(err, ErrModelAbsent) && aboutModel(err):
		m.log.Error("version of the model is damaged in S3", slog.String("model", name), slog.String("digest", digest), slog.Any("error", err))
	}
	if err != nil {
		return f, fmt.Errorf("fetch the version from S3: %w", err)
	}
	return f, nil
}
