// Package sourcecache keeps documents on the local disk while their pages are
// rendered, so that the ranges of one document fetch it from the object store
// once. The planner and the splitter share one cache.
//
// The cache is bounded in bytes: what is not in use goes, least recently used
// first, and a document that does not fit waits until others are released. It
// starts empty; nothing that an earlier process left behind is believed.
package sourcecache

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"leafcutter/pkg/fault"
)

// Dependency is the name under which the cache's disk is probed and its fullness
// is classed.
const Dependency = "cache-disk"

// CodeTooLarge refuses a document above the bound on one document's size.
const CodeTooLarge = "document-too-large"

// Fetch starts to read the document that a URI names and tells its size in bytes.
type Fetch func(ctx context.Context, uri string) (body io.ReadCloser, size int64, err error)

// Cache is safe for concurrent use.
type Cache struct {
	dir         string
	lock        *os.File
	limit       int64
	maxDocument int64
	fetch       Fetch

	mu      sync.Mutex
	entries map[string]*entry
	unused  *list.List    // of *entry, complete and not in use, most recently used first
	used    int64         // bytes that all entries take or are about to take
	room    chan struct{} // closed and replaced whenever bytes may have become free
}

// entry is a document that is here or on its way.
type entry struct {
	uri   string
	path  string
	ready chan struct{} // closed when the fetch has ended
	stop  context.CancelFunc

	// Written before ready is closed, read after.
	err    error
	size   int64
	sha256 string

	// Guarded by Cache.mu.
	users int
	bytes int64         // of Cache.used
	place *list.Element // in unused
}

// File is a document on the disk, kept there until Release.
type File struct {
	Path   string
	Size   int64  // bytes
	SHA256 string // hexadecimal

	cache *Cache
	entry *entry
	once  sync.Once
}

// Open makes a cache of at most limit bytes, for documents of at most maxDocument
// bytes, in a folder of its own below dir. Folders there whose process is gone
// are removed.
func Open(dir string, limit, maxDocument int64, fetch Fetch) (*Cache, error) {
	if limit < maxDocument {
		return nil, fmt.Errorf("source cache: %d bytes cannot hold a document of %d", limit, maxDocument)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("source cache: %w", err)
	}
	if err := sweep(dir); err != nil {
		return nil, fmt.Errorf("source cache: removing what is left over: %w", err)
	}
	own, err := os.MkdirTemp(dir, "sources-")
	if err != nil {
		return nil, fmt.Errorf("source cache: %w", err)
	}
	lock, err := acquire(own)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("source cache: %w", err), os.RemoveAll(own))
	}
	return &Cache{
		dir: own, lock: lock, limit: limit, maxDocument: maxDocument, fetch: fetch,
		entries: map[string]*entry{}, unused: list.New(), room: make(chan struct{}),
	}, nil
}

// Close removes the cache. Files still in use stay readable to whoever has them
// open.
func (c *Cache) Close() error {
	return errors.Join(os.RemoveAll(c.dir), c.lock.Close())
}

// acquire locks a folder for the life of this process: the kernel gives the lock
// up with it, however it ends.
func acquire(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", lock.Name(), err), lock.Close())
	}
	return lock, nil
}

// sweep removes the folders of processes that are gone. One that has been made
// this moment and is not locked yet may be taken for such; its process then fails
// to start and says so.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "sources-*"))
	if err != nil {
		return err
	}
	var faults []error
	for _, folder := range left {
		lock, err := acquire(folder)
		if err != nil {
			continue // in use by another process
		}
		faults = append(faults, os.RemoveAll(folder), lock.Close())
	}
	return errors.Join(faults...)
}

// Get returns the document that uri names, fetching it if it is not here.
// Callers that ask for one at the same time share a fetch. Errors are those of
// the fetch; a document that is too large is a permanent fault, a full disk the
// unavailability of [Dependency].
func (c *Cache) Get(ctx context.Context, uri string) (*File, error) {
	for {
		e := c.enter(ctx, uri)
		select {
		case <-e.ready:
		case <-ctx.Done():
			c.leave(e)
			return nil, fmt.Errorf("waiting for %s: %w", uri, context.Cause(ctx))
		}
		if e.err == nil {
			return &File{Path: e.path, Size: e.size, SHA256: e.sha256, cache: c, entry: e}, nil
		}
		c.leave(e)
		// The fetch belongs to all who wait for it and ends when the last one
		// goes. Whoever comes just then starts another.
		if errors.Is(e.err, errAbandoned) && ctx.Err() == nil {
			continue
		}
		return nil, e.err
	}
}

// Release says that the document is not needed any more. It is legal to call it
// twice.
func (f *File) Release() { f.once.Do(func() { f.cache.leave(f.entry) }) }

var errAbandoned = errors.New("nobody waits for the document any more")

// enter adds a user to an entry, making it if there is none.
func (c *Cache) enter(ctx context.Context, uri string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[uri]; ok {
		e.users++
		if e.place != nil {
			c.unused.Remove(e.place)
			e.place = nil
		}
		return e
	}
	name := sha256.Sum256([]byte(uri)) // never a name from outside
	e := &entry{uri: uri, path: filepath.Join(c.dir, hex.EncodeToString(name[:])), ready: make(chan struct{}), users: 1}
	c.entries[uri] = e
	// The trace goes on, the caller's end does not end it: others may wait too.
	var fetching context.Context
	fetching, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		scratch, err := c.fill(fetching, e)
		e.stop()
		c.settle(e, scratch, err)
	}()
	return e
}

// leave takes a user away.
func (c *Cache) leave(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users--
	if e.users > 0 || c.entries[e.uri] != e {
		return
	}
	select {
	case <-e.ready:
		e.place = c.unused.PushFront(e)
		c.freed()
	default:
		e.stop()
		delete(c.entries, e.uri) // the next one to ask starts anew
	}
}

// settle ends a fetch. The file comes to its place and the entry becomes ready as
// one: were the lock given up in between, the last user could leave there, and
// file and bytes would be nobody's.
func (c *Cache) settle(e *entry, scratch string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.entries[e.uri] != e {
		err = errAbandoned
	}
	if err == nil {
		if err = os.Rename(scratch, e.path); err != nil {
			err = diskFault(err)
		}
	}
	if err != nil {
		if scratch != "" {
			_ = os.Remove(scratch) // what cannot be removed now goes with the folder
		}
		c.forget(e)
	}
	e.err = err
	close(e.ready)
}

// forget gives an entry's bytes back. The caller holds the lock.
func (c *Cache) forget(e *entry) {
	if c.entries[e.uri] == e {
		delete(c.entries, e.uri)
	}
	c.used -= e.bytes
	e.bytes = 0
	c.freed()
}

// freed wakes up those who wait for room. The caller holds the lock.
func (c *Cache) freed() {
	close(c.room)
	c.room = make(chan struct{})
}

// reserve waits until size bytes are free for e, evicting what is not in use.
func (c *Cache) reserve(ctx context.Context, e *entry, size int64) error {
	for {
		c.mu.Lock()
		for c.used+size > c.limit && c.unused.Len() > 0 {
			c.evict(c.unused.Back().Value.(*entry))
		}
		if c.used+size <= c.limit {
			c.used += size
			e.bytes = size
			c.mu.Unlock()
			return nil
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return errAbandoned
		}
	}
}

// evict removes an entry that nobody uses. The caller holds the lock.
func (c *Cache) evict(e *entry) {
	c.unused.Remove(e.place)
	e.place = nil
	_ = os.Remove(e.path) // what cannot be removed now goes with the folder
	c.forget(e)
}

// fill fetches a document into a scratch file, which it names even in failure.
func (c *Cache) fill(ctx context.Context, e *entry) (scratch string, err error) {
	body, size, err := c.fetch(ctx, e.uri)
	if err != nil {
		return "", abandoned(ctx, err)
	}
	defer func() { _ = body.Close() }() // read to its end, or of no interest any more
	if size > c.maxDocument {
		return "", fault.Permanentf(CodeTooLarge, "%s: %d bytes, at most %d are allowed", e.uri, size, c.maxDocument)
	}
	if err := c.reserve(ctx, e, size); err != nil {
		return "", err
	}
	file, err := os.CreateTemp(c.dir, "fetch-")
	if err != nil {
		return "", diskFault(err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(fileWriter{file}, sum), io.LimitReader(body, size+1))
	if err == nil && n != size {
		err = fault.AsTransient("source-changed", fmt.Errorf("%s: %d bytes came, %d were announced", e.uri, n, size))
	}
	if closeErr := file.Close(); err == nil && closeErr != nil {
		err = diskFault(closeErr)
	}
	e.size, e.sha256 = size, hex.EncodeToString(sum.Sum(nil))
	return file.Name(), abandoned(ctx, err)
}

// abandoned tells an error that the end of the fetch brought about from one that
// is the store's own.
func abandoned(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errAbandoned
	}
	return err
}

// fileWriter classes the errors of the disk, which io.Copy would mix with those
// of the store.
type fileWriter struct{ file *os.File }

func (w fileWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	if err != nil {
		err = diskFault(err)
	}
	return n, err
}

func diskFault(err error) error {
	return fault.AsUnavailable(Dependency, fmt.Errorf("source cache: %w", err))
}

// Probe tells whether the disk takes a megabyte: whether what failed for want of
// room may be tried again.
func (c *Cache) Probe(context.Context) error {
	file, err := os.CreateTemp(c.dir, "probe-")
	if err != nil {
		return fmt.Errorf("source cache: %w", err)
	}
	_, err = file.Write(make([]byte, 1<<20))
	return errors.Join(err, file.Close(), os.Remove(file.Name()))
}
