package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
)

// Versions are the versions of models that detectors have announced, by digest,
// in the bucket that they all have: runs are planned for a version as soon as it
// is announced, and whichever detector gets their pages must be able to have it,
// though the repository has another one by then and its own cache is new.
//
//	model-versions/headings/{digest}/manifest.json
//	model-versions/headings/{digest}/weights.onnx
type Versions struct{ place *bucket }

const (
	versionsPrefix = "model-versions/"
	versionWeights = "weights.onnx"
)

// OpenVersions are those in a bucket; fetched weights are kept in the folder
// cache. The store stays the caller's to close.
func OpenVersions(store *objectstore.Store, cache string) *Versions {
	return &Versions{&bucket{store: store, prefix: versionsPrefix, cache: filepath.Join(cache, CachedFolder)}}
}

// Keep makes sure that a version is there, and that Sweep takes it for used now.
func (v *Versions) Keep(ctx context.Context, f Fetched) error {
	at := f.Manifest.Name + "/" + f.Digest
	there, err := v.holds(ctx, at, f.Weights)
	if err != nil {
		return err
	}
	if !there {
		// A file may be replaced at any time.
		if sum, err := manifest.FileDigest(f.Weights); err != nil {
			return fmt.Errorf("read weights: %w", err)
		} else if sum != f.Manifest.SHA256 {
			return fmt.Errorf("%w: %s is %s, its manifest says %s", ErrDigest, f.Weights, sum, f.Manifest.SHA256)
		}
		if err := v.place.put(ctx, at, versionWeights, f.Weights); err != nil {
			return err
		}
	}
	// Last: what has a manifest is looked for by others.
	b, err := f.Manifest.Text()
	if err != nil {
		return err
	}
	return v.place.store.Put(ctx, v.place.key(at, manifest.File), b, "application/json")
}

// holds says whether a version's weights are there, as large as these.
func (v *Versions) holds(ctx context.Context, at, weights string) (bool, error) {
	want, err := os.Stat(weights)
	if err != nil {
		return false, fmt.Errorf("read weights: %w", err)
	}
	there, err := v.place.store.Head(ctx, v.place.key(at, versionWeights))
	if fault.CodeOf(err) == objectstore.CodeMissing || objectstore.IsDenied(err) { // the latter is what may not be listed and is not there
		return false, nil
	}
	return err == nil && there.Size == want.Size(), err
}

// Fetch gives a version with its weights on this machine, or an ErrAbsent, which
// is also what this detector may not read: Amazon S3 answers no more than that of
// what is not there, where the bucket may not be listed. One that is damaged is an
// ErrInvalid or ErrDigest.
func (v *Versions) Fetch(ctx context.Context, name, digest string) (f Fetched, err error) {
	// Both come from a record, and are about to be part of a key.
	if !schemas.IsModelName(name) || !schemas.IsDigest(digest) {
		return f, ErrAbsent
	}
	at := name + "/" + digest
	defer func() {
		if objectstore.IsDenied(err) {
			err = fmt.Errorf("%w: %w", ErrAbsent, err)
		}
	}()
	b, err := v.place.manifest(ctx, at)
	if err != nil {
		return f, err
	}
	m, err := manifest.Parse(b)
	if err != nil {
		return f, fmt.Errorf("%w: %s: %w", ErrInvalid, v.place.uri(at, manifest.File), err)
	}
	if known, err := m.Digest(); err != nil || known != digest || m.Name != name {
		return f, fmt.Errorf("%w: %s describes another version", ErrInvalid, v.place.uri(at, manifest.File))
	}
	weights, err := v.place.weights(ctx, at, versionWeights, m.SHA256)
	if errors.Is(err, ErrDigest) {
		// So that the next Keep stores them again, whoever's it is. The manifest it
		// stores in any case; one that is ErrInvalid may be of a later release.
		err = errors.Join(err, v.place.remove(ctx, at, versionWeights))
	}
	if err != nil {
		return f, err
	}
	return Fetched{Manifest: m, Digest: digest, Weights: weights}, nil
}

// Lately are the digests of the versions of a model that are there, the one that
// was kept last first.
func (v *Versions) Lately(ctx context.Context, name string) ([]string, error) {
	used, err := v.used(ctx, name+"/")
	if err != nil {
		return nil, err
	}
	var digests []string
	for at := range used {
		digests = append(digests, strings.TrimPrefix(at, name+"/"))
	}
	slices.SortFunc(digests, func(a, b string) int { return used[name+"/"+b].Compare(used[name+"/"+a]) })
	return digests, nil
}

// used are the versions below a prefix, as model/digest, and when each was kept last.
func (v *Versions) used(ctx context.Context, below string) (map[string]time.Time, error) {
	used := map[string]time.Time{}
	err := v.place.store.List(ctx, v.place.prefix+below, func(o objectstore.Info) error {
		parts := strings.Split(strings.TrimPrefix(o.Key, v.place.prefix), "/")
		if len(parts) == 3 {
			if at := parts[0] + "/" + parts[1]; o.Modified.After(used[at]) {
				used[at] = o.Modified
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list versions of models: %w", err)
	}
	return used, nil
}

// Sweep removes versions that nobody has kept anew for age, by the clock of the
// store: the last one that was kept tells what that says. One that is kept in that
// very moment may lose its weights; the next Keep stores them again.
func (v *Versions) Sweep(ctx context.Context, age time.Duration) error {
	used, err := v.used(ctx, "")
	if err != nil {
		return err
	}
	var newest time.Time
	for _, last := range used {
		if last.After(newest) {
			newest = last
		}
	}
	var faults []error
	for at, last := range used {
		if newest.Sub(last) > age { // the manifest first, so that what it names is there
			faults = append(faults, errors.Join(v.place.remove(ctx, at, manifest.File), v.place.remove(ctx, at, versionWeights)))
		}
	}
	return errors.Join(faults...)
}
