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
	"leafcutter/stages/detector/internal/repository"
)

// What pages ask of Models: the version that their run was planned for, wherever it
// is to be had, and loaded.

// asking is one look into the repository: when it was, and what was there.
type asking struct {
	at     time.Time
	digest string
}

// recall is the version of a model that is known by a digest, "" for the current
// one; nil where it would have to be looked for.
func (m *Models) recall(name, digest string) *version {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.served[name]
	switch {
	case s == nil:
		return nil
	case digest == "":
		return s.current
	default:
		return s.versions[digest]
	}
}

// find is the version that a run was planned for: one that was served before,
// here or by another detector, or one that the repository has got since the last
// look at it. Errors are classed.
func (m *Models) find(ctx context.Context, name, digest string) (*version, error) {
	if v := m.recall(name, digest); v != nil {
		return v, nil
	}
	m.mu.Lock()
	s := m.served[name]
	m.mu.Unlock()
	if s == nil {
		return nil, fault.Permanentf(CodeModelChanged, "the run is for model %s, which this detector does not serve: submit the document again", name)
	}
	f, err := m.archive.find(name, digest)
	if err != nil {
		select { // one looks for all pages that ask at once
		case s.asking <- struct{}{}:
			defer func() { <-s.asking }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if v := m.recall(name, digest); v != nil {
			return v, nil
		}
		if f, err = m.another(ctx, s, name, digest); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.versions[digest] == nil {
		s.versions[digest] = newVersion(f)
	}
	return s.versions[digest], nil
}

// another looks for a digest that was never served here, in the store that all
// detectors keep theirs in and in the repository. Its error is permanent only where
// the store has none, and the repository's manifest was read and is another's. A
// store that fails has the class of its failure: it is waited for while its own probe
// fails. A manifest that is missing, half copied or away is waited for here.
func (m *Models) another(ctx context.Context, s *served, name, digest string) (repository.Fetched, error) {
	m.mu.Lock()
	asked := s.unknown[digest]
	m.mu.Unlock()
	if time.Since(asked.at) > retrying {
		f, missing := m.fromShared(ctx, name, digest)
		if missing == nil {
			return f, nil
		}
		f, now, err := m.fromRepository(ctx, name, digest)
		switch {
		case err == nil && now == digest:
			return f, nil
		case ctx.Err() != nil:
			return f, ctx.Err()
		case fault.DependencyOf(missing) != "" && !aboutModel(missing):
			return f, missing
		case !aboutModel(missing): // the disk's, perhaps
			return f, m.seek(s, name, digest, missing)
		case err != nil:
			return f, m.seek(s, name, digest, err)
		}
		m.mu.Lock()
		if len(s.unknown) > 100 { // records can name what they like
			clear(s.unknown)
		}
		asked = asking{time.Now(), now}
		s.unknown[digest] = asked
		m.mu.Unlock()
	}
	return repository.Fetched{}, fault.Permanentf(CodeModelChanged, "the run is for model %s, digest %s, which is neither in the repository nor kept in S3 or here; the repository has digest %s: submit the document again",
		name, digest, asked.digest)
}

// fromRepository gives what the repository has of a model if it is this digest, and
// in any case the digest that it has: "" with an error.
func (m *Models) fromRepository(ctx context.Context, name, digest string) (f repository.Fetched, now string, err error) {
	if _, now, err = m.repository.Manifest(ctx, name); err != nil || now != digest {
		return f, now, err
	}
	if f, err = m.repository.Fetch(ctx, name); err != nil {
		return f, "", err
	}
	// The next version may be in its place before this one is taken up.
	f, _ = m.keep(f)        // an error is logged, and the file is still there
	return f, f.Digest, nil // it may have been replaced meanwhile
}

// seek has the probe look for a digest again, until it is known whether it is there.
func (m *Models) seek(s *served, name, digest string, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(s.sought) > 100 { // records can name what they like
		clear(s.sought)
	}
	s.sought[digest] = true
	return fault.AsUnavailable(modelDependency, fmt.Errorf("look for model %s, digest %s: %w", name, digest, err))
}

// forgo drops what is archived of a version whose weights were found to be others.
// Any other error may pass: ONNX Runtime says that it does not accept a model when
// memory or threads are wanting too.
func (m *Models) forgo(v *version, err error) {
	if errors.Is(err, ErrModelDigest) && v.Weights == m.archive.weights(v.Manifest.Name, v.Digest) {
		m.archive.drop(v.Manifest.Name, v.Digest)
	}
}

// enter is the room's. Errors are classed: what could be loaded once is waited
// for, unless its weights are gone, here and wherever else they could be.
func (m *Models) enter(ctx context.Context, v *version) (*Detector, func(), error) {
	name := v.Manifest.Name
	d, leave, err := m.room.enter(ctx, v)
	var missing error
	// Twice: the first may have led from the repository's file to one in the cache
	// that is damaged, and the store has another.
	for try := 0; try < 2 && astray(err) && missing == nil && ctx.Err() == nil; try++ {
		m.forgo(v, err)
		var again *version
		if again, missing = m.again(ctx, v); missing == nil {
			v = again
			d, leave, err = m.room.enter(ctx, v)
		}
	}
	if err == nil || ctx.Err() != nil {
		return d, leave, err
	}
	if fault.DependencyOf(missing) != "" && !aboutModel(missing) {
		return nil, nil, missing // a store that is away says nothing of what it has
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.served[name]
	if astray(err) && (missing == nil || aboutModel(missing)) && s.current != v {
		delete(s.versions, v.Digest)
		return nil, nil, fault.AsPermanent(CodeModelChanged, fmt.Errorf("the run is for model %s, digest %s, which is served no more: submit the document again: %w", name, v.Digest, err))
	}
	s.broken[v] = err
	m.log.Error("model not loaded, its pages wait", slog.String("model", name), slog.String("digest", v.Digest), slog.Any("error", err))
	return nil, nil, fault.AsUnavailable(modelDependency, err)
}

// astray says that weights are not where they were.
func astray(err error) bool { return errors.Is(err, ErrModelDigest) || errors.Is(err, ErrModelAbsent) }

// again is a version whose weights have gone astray, from elsewhere.
func (m *Models) again(ctx context.Context, v *version) (*version, error) {
	f, err := m.elsewhere(ctx, v)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.served[v.Manifest.Name]
	delete(s.broken, v)
	if other := s.versions[v.Digest]; other != nil && other != v {
		return other, nil // another page was first
	}
	found := newVersion(f)
	s.versions[v.Digest] = found
	if s.current == v {
		s.current = found
	}
	return found, nil
}

// modelDependency is the name under which a version that cannot be loaded for
// now is waited for.
const modelDependency = "model"

// probe tries the versions of a model again that could not be looked for or loaded.
func (m *Models) probe(ctx context.Context, name string) error {
	m.mu.Lock()
	sought := slices.Collect(maps.Keys(m.served[name].sought))
	broken := slices.Collect(maps.Keys(m.served[name].broken))
	m.mu.Unlock()
	for _, digest := range sought {
		if _, err := m.find(ctx, name, digest); err != nil && fault.ClassOf(err) != fault.Permanent {
			return err
		}
		m.mu.Lock()
		delete(m.served[name].sought, digest)
		m.mu.Unlock()
	}
	for _, v := range broken {
		_, leave, err := m.enter(ctx, v)
		switch {
		case err == nil:
			leave()
		case fault.ClassOf(err) != fault.Permanent: // else its pages are given up, which they are told
			return err
		}
		m.mu.Lock()
		delete(m.served[name].broken, v)
		m.mu.Unlock()
	}
	return nil
}
