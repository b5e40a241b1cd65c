package objects

import "sync"

// remembered is what was read of files last. The gateway asks for one attribute at a time, a dozen of an object that is got
// and some of its bucket in every request, and reading a file costs more than all else that is done with it.
//
// A change to a file is followed by forget before the caller is told of it. What a reader has read meanwhile may be what was
// there before: it tells keep what changed gave it before it began, and what is not of now is not kept.
type remembered struct {
	mu      sync.Mutex
	files   map[string]map[string][]byte // by path; maps in here are never written to
	changes uint64
}

// maxRemembered is how many files are remembered at most: those of an object have some 300 bytes.
const maxRemembered = 1024

// of gives what is remembered of a file, or says after how many changes it was not.
func (r *remembered) of(file string) (all map[string][]byte, found bool, changes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, found = r.files[file]
	return all, found, r.changes
}

// keep remembers what was read of a file, if nothing has changed since of said so.
func (r *remembered) keep(file string, all map[string][]byte, changes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes != changes {
		return
	}
	if r.files == nil {
		r.files = make(map[string]map[string][]byte, maxRemembered)
	}
	for other := range r.files { // any of them: one that is asked for often comes back at its next reading
		if len(r.files) < maxRemembered {
			break
		}
		delete(r.files, other)
	}
	r.files[file] = all
}

// forget is called after a file has changed, whether or not the change was brought to its end.
func (r *remembered) forget(file string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	delete(r.files, file)
}

// forgetAll is called after folders have changed.
func (r *remembered) forgetAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	clear(r.files)
}
