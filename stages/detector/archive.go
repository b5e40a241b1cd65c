package detector

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/repository"
)

// archive keeps each version of a model that a detector has served, by its
// digest: pages of runs that were planned for one may still be queued when the
// repository has had another in its place for long. It is a folder of the cache.
//
//	versions/headings/{digest}/manifest.json
//	versions/headings/{digest}/weights
type archive struct {
	dir   string // "" keeps nothing
	cache string // folder whose files nobody writes to, so that they may be linked
}

const (
	archivedWeights = "weights"

	// archivedFor is longer than a version's pages are queued: 30 days, the topics'
	// retention, as a range of pages, and 30 more one by one.
	archivedFor = 65 * 24 * time.Hour
)

func newArchive(cache string) archive {
	if cache == "" {
		return archive{}
	}
	return archive{dir: filepath.Join(cache, "versions"), cache: cache}
}

// keep makes sure that a version is there and gives it as it lies there: the
// file in the repository may be overwritten at any time.
func (a archive) keep(f repository.Fetched) (repository.Fetched, error) {
	if a.dir == "" {
		return f, errors.New("there is no cache folder: set LEAFCUTTER_CACHE_DIR")
	}
	if kept, ok := a.has(f); ok {
		if err := a.describe(a.of(f.Manifest.Name, f.Digest), f); err != nil { // labels and thresholds may be new
			return f, err
		}
		kept.Manifest = f.Manifest
		return kept, nil
	}
	models := filepath.Join(a.dir, f.Manifest.Name)
	if err := os.MkdirAll(models, 0o755); err != nil {
		return f, fmt.Errorf("keep the model's version: %w", err)
	}
	staged, err := os.MkdirTemp(models, unfinished)
	if err != nil {
		return f, fmt.Errorf("keep the model's version: %w", err)
	}
	defer os.RemoveAll(staged) // it has another name by the end, or is of no use
	if err := a.take(f.Weights, filepath.Join(staged, archivedWeights)); err != nil {
		return f, fmt.Errorf("keep the model's version: %w", err)
	}
	if err := a.describe(staged, f); err != nil {
		return f, err
	}
	good := func() bool { _, ok := a.has(f); return ok }
	if err := keep(staged, a.of(f.Manifest.Name, f.Digest), good); err != nil {
		return f, fmt.Errorf("keep the model's version: %w", err)
	}
	f.Weights = a.weights(f.Manifest.Name, f.Digest)
	return f, nil
}

// has gives a version as it lies there, if it does.
func (a archive) has(f repository.Fetched) (kept repository.Fetched, ok bool) {
	kept, err := a.find(f.Manifest.Name, f.Digest)
	return kept, err == nil && kept.Manifest.SHA256 == f.Manifest.SHA256
}

// of is a version's folder.
func (a archive) of(name, digest string) string { return filepath.Join(a.dir, name, digest) }

// weights are where a version's lie.
func (a archive) weights(name, digest string) string {
	return filepath.Join(a.of(name, digest), archivedWeights)
}

// describe writes a version's manifest, by a rename, so that who reads it reads
// one or the other.
func (a archive) describe(dir string, f repository.Fetched) error {
	b, err := f.Manifest.Text()
	if err != nil {
		return err
	}
	staged, err := os.CreateTemp(dir, unfinished) // processes that share the cache write one each
	if err != nil {
		return fmt.Errorf("keep the model's manifest: %w", err)
	}
	_, err = staged.Write(b)
	err = errors.Join(err, staged.Chmod(0o644), staged.Close())
	if err == nil {
		err = os.Rename(staged.Name(), filepath.Join(dir, manifest.File))
	}
	if err != nil {
		_ = os.Remove(staged.Name()) // the error that matters is the first
		return fmt.Errorf("keep the model's manifest: %w", err)
	}
	return nil
}

// take links weights that lie in the cache, and copies any others.
func (a archive) take(from, to string) error {
	if below, err := filepath.Rel(a.cache, from); err == nil && filepath.IsLocal(below) && os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	copied, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(copied, source)
	return errors.Join(err, copied.Close())
}

// find gives a version that was kept, or an ErrModelAbsent. Its weights are
// looked into when it is loaded.
func (a archive) find(name, digest string) (repository.Fetched, error) {
	// Both come from a record, and are about to be part of a path.
	if a.dir == "" || !schemas.IsModelName(name) || !schemas.IsDigest(digest) {
		return repository.Fetched{}, ErrModelAbsent
	}
	dir := a.of(name, digest)
	m, err := manifest.Read(dir)
	if err != nil {
		return repository.Fetched{}, fmt.Errorf("%w: %w", ErrModelAbsent, err)
	}
	f := repository.Fetched{Manifest: m, Digest: digest, Weights: a.weights(name, digest)}
	if known, err := m.Digest(); err != nil || known != digest || m.Name != name {
		return repository.Fetched{}, fmt.Errorf("%w: %s is damaged", ErrModelAbsent, dir)
	}
	if _, err := os.Stat(f.Weights); err != nil {
		return repository.Fetched{}, fmt.Errorf("%w: %w", ErrModelAbsent, err)
	}
	return f, nil
}

// lately are the versions of a model, the one used last first.
func (a archive) lately(name string) (kept []repository.Fetched) {
	entries, err := os.ReadDir(filepath.Join(a.dir, name))
	if a.dir == "" || err != nil {
		return nil
	}
	last := map[string]time.Time{}
	for _, e := range entries {
		f, err := a.find(name, e.Name())
		if err != nil {
			continue // unfinished
		}
		if info, err := os.Stat(filepath.Join(a.of(name, f.Digest), manifest.File)); err == nil {
			last[f.Digest] = info.ModTime()
			kept = append(kept, f)
		}
	}
	slices.SortFunc(kept, func(x, y repository.Fetched) int { return last[y.Digest].Compare(last[x.Digest]) })
	return kept
}

// drop removes a version that cannot be served.
func (a archive) drop(name, digest string) {
	if a.dir != "" {
		_ = os.RemoveAll(a.of(name, digest)) // at worst it is tried again
	}
}

// used notes that a version was of use now.
func (a archive) used(name, digest string) {
	if a.dir != "" {
		now := time.Now()
		_ = os.Chtimes(filepath.Join(a.of(name, digest), manifest.File), now, now) // at worst it goes early
	}
}

// sweep removes versions of a model that were of no use for age, and what
// processes left unfinished when they were killed.
func (a archive) sweep(name string, age time.Duration) {
	entries, err := os.ReadDir(filepath.Join(a.dir, name))
	if a.dir == "" || err != nil {
		return // nothing there yet
	}
	for _, e := range entries {
		dir := filepath.Join(a.dir, name, e.Name())
		last, err := os.Stat(filepath.Join(dir, manifest.File))
		if strings.HasPrefix(e.Name(), unfinished) || err != nil {
			last, err = os.Stat(dir)
		}
		if err == nil && time.Since(last.ModTime()) > age {
			_ = os.RemoveAll(dir) // the next start tries again
		}
	}
}
