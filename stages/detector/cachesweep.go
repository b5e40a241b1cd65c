package detector

import (
	"os"
	"path/filepath"
	"time"

	"leafcutter/stages/detector/internal/repository"
)

// used notes that a version, what the cache has to load it from, and its copy in S3
// were of use now.
func (m *Models) used(f repository.Fetched) {
	m.useCopy(f)
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
	for _, f := range m.current() { // it may have been loaded long ago
		m.used(f)
	}
	m.keeping.Lock() // what is found in its place is not to go before it is said to be of use
	defer m.keeping.Unlock()
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

// current are the versions that runs are planned for.
func (m *Models) current() (all []repository.Fetched) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.served {
		if s.current != nil {
			all = append(all, s.current.Fetched)
		}
	}
	return all
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
