package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"leafcutter/pkg/fault"
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

// retryingCopy is the pause after a copy that could not be kept. It grows to
// longestRetrying: each try reads all of the weights and may send them.
const retryingCopy = time.Minute

// copied is what is known of a version's copy in the store that all detectors have.
// Its fields are guarded by Models.mu.
type copied struct {
	repository.Fetched               // as it was last announced
	used               time.Time     // last, here
	kept               time.Time     // last; zero where it never was
	err                error         // why it could not be
	pause              time.Duration // between that try and the next
	again              time.Time
}

// due says that the copy is to be kept: for the first time, or anew because it was
// of use since and a day ago, so that it is not taken for one that is of none.
func (c *copied) due(now time.Time) bool {
	return !now.Before(c.again) && c.used.After(c.kept) && now.Sub(c.kept) > sweepEvery
}

func nameOf(f repository.Fetched) string { return f.Manifest.Name + "/" + f.Digest }

// share has a version kept in the store that all detectors have, before it is
// announced as it is described here. Where that fails or takes long it is served all
// the same.
func (m *Models) share(ctx context.Context, f repository.Fetched) {
	if m.shared == nil {
		return
	}
	c := &copied{Fetched: f, used: time.Now()}
	m.mu.Lock()
	m.copies[nameOf(f)] = c
	m.mu.Unlock()
	kept := make(chan struct{})
	m.copying.Go(func() {
		defer close(kept)
		m.copy(ctx, c)
	})
	select {
	case <-kept:
	case <-ctx.Done():
	case <-time.After(m.sharing):
		m.log.Warn("version of the model announced before it is in S3, its upload goes on", slog.String("model", f.Manifest.Name), slog.String("digest", f.Digest))
	}
}

// useCopy notes that the copy of a version is of use.
func (m *Models) useCopy(f repository.Fetched) {
	if m.shared == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.copies[nameOf(f)]
	if c == nil { // of a run that was planned before this process began
		c = &copied{Fetched: f}
		m.copies[nameOf(f)] = c
	}
	c.used = time.Now()
}

// copyAgain keeps the copies that are due. Those of the versions that runs are planned
// for are of use.
func (m *Models) copyAgain(ctx context.Context) {
	for _, f := range m.current() {
		m.useCopy(f)
	}
	m.mu.Lock()
	maps.DeleteFunc(m.copies, func(_ string, c *copied) bool { return time.Since(c.used) > archivedFor })
	all := slices.Collect(maps.Values(m.copies))
	m.mu.Unlock()
	for _, c := range all {
		m.copy(ctx, c)
	}
}

// copy keeps a version's copy, if it is due.
func (m *Models) copy(ctx context.Context, c *copied) {
	m.uploading.Lock()
	defer m.uploading.Unlock()
	m.mu.Lock()
	f, due := c.Fetched, c.due(time.Now()) && m.copies[nameOf(c.Fetched)] == c // else it is described anew
	m.mu.Unlock()
	if !due || ctx.Err() != nil {
		return
	}
	err := m.shared.Keep(ctx, f)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	told := news(c.err, err)
	c.err = err
	if err == nil {
		c.kept, c.pause = time.Now(), 0
	} else {
		c.pause = min(max(2*c.pause, retryingCopy), longestRetrying)
		c.again = time.Now().Add(c.pause)
	}
	m.mu.Unlock()
	if told {
		m.log.Warn("version of the model not kept in S3, trying again: a detector with a new cache cannot do its pages once it has been replaced",
			slog.String("model", f.Manifest.Name), slog.String("digest", f.Digest), slog.Any("error", err))
	}
}

// news says whether an error is another than the one before it. What is classed is
// known by its class and code: the text of S3's has the number of each request.
func news(before, now error) bool {
	switch {
	case now == nil:
		return false
	case before == nil || fault.CodeOf(before) != fault.CodeOf(now) || fault.ClassOf(before) != fault.ClassOf(now):
		return true
	}
	var classed *fault.Error
	return !errors.As(now, &classed) && before.Error() != now.Error()
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
	return m.fromShared(ctx, v.Manifest.Name, v.Digest)
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
			all = append(all, f)
		}
	}
	return all
}

// fromShared gives a version that the store has, kept here from now on, or an error
// that is aboutModel where it has none.
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
	f, _ = m.keep(f) // an error is logged, and the file is still there
	return f, nil
}
