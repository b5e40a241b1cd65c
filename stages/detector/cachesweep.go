package detector

import (
	"os"
	"path/filepath"
	"time"

	"leafcutter/stages/detector/internal/repository"
)

// sweepEvery is how often the cache is swept.
const sweepEvery = 24 * time.Hour

// used notes that a version, and what the cache has to load it from, were of use
// now.
func (m *Models) used(f repository.Fetched) {
	m.archive.used(f.Manifest.Name, f.Digest)
	now := time.Now()
	for _, at := range []string{preparedDir(m.config.CacheDir, f.Manifest.SHA256), repository.Cached(m.config.CacheDir, f.Manifest.SHA256)} {
		_ = os.Chtimes(at, now, now) // it may not be there; at worst it is made again
	}
}

// sweepCache removes what was of no use for as long as pages may be queued: the
// versions of all models, those that are served no more too, and what is made
// again where it is missing, prepared models and weights from S3.
func (m *Models) sweepCache() {
	if m.config.CacheDir == "" {
		return
	}
	m.mu.Lock()
	var current []repository.Fetched
	for _, s := range m.served {
		if s.current != nil {
			current = append(current, s.current.Fetched)
		}
	}
	m.mu.Unlock()
	for _, f := range current { // it may have been loaded long ago
		m.used(f)
	}
	names, err := os.ReadDir(m.archive.dir)
	if err == nil { // else nothing is there yet
		for _, e := range names {
			m.archive.sweep(e.Name(), archivedFor)
		}
	}
	for _, folder := range []string{preparedFolder, repository.CachedFolder} {
		sweepOld(filepath.Join(m.config.CacheDir, folder), archivedFor)
	}
}

// sweepOld removes what lies in a folder and was touched last before age.
func sweepOld(dir string, age time.Duration) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // nothing there yet
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > age {
			_ = os.RemoveAll(filepath.Join(dir, e.Name())) // the next sweep tries again
		}
	}
}
