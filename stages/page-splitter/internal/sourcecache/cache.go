// Package sourcecache keeps documents on the local disk while their pages are
// rendered, so that the ranges of one document fetch it from the object store
// once. The planner and the splitter share one cache.
//
// The cache is bounded in bytes: what is not in use goes, least recently used
// first, and a document that does not fit waits until others are released. It
// starts empty; nothing that an earlier process left behind is believed.
//
// A URI does not say what lies there: its owner may replace it at any time. So a
// document is known by its submission and URI, and who knows its digest gets that
// content or none.
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
	"strings"
	"sync"

	"leafcutter/pkg/fault"
)

// Dependency is the name under which the cache's disk is probed and its fullness
// is classed.
const Dependency = "cache-disk"

// CodeTooLarge refuses a document above the bound on one document's size.
const CodeTooLarge = "document-too-large"

// CodeChanged refuses a document that is not what was submitted or planned.
const CodeChanged = "source-changed"

// Document says what is wanted.
type Document struct {
	ID     string // of the document as it was submitted
	URI    string
	SHA256 string // hexadecimal; empty for whatever is there now
}

// Fetch starts to read the document that a URI names and tells its size in bytes.
type Fetch func(ctx context.Context, uri string) (body io.ReadCloser, size int64, err error)

// Cache is safe for concurrent use.
type Cache struct {
	dir         string
	lock        *os.File
	limit       int64
	maxDocument int64
	fetch       Fetch
	free        func(dir string) (bytes int64, err error)

	mu      sync.Mutex
	entries map[key]*entry
	unused  *list.List    // of *entry, complete and not in use, most recently used first
	used    int64         // bytes that all entries take or are about to take
	room    chan struct{} // closed and replaced whenever bytes may have become free
	lacking int64         // bytes that the disk did not take; 0 where it took all since the last probe
}

type key struct{ document, uri string }

// entry is a document that is here or on its way.
type entry struct {
	key   key
	ready chan struct{} // closed when the fetch has ended
	stop  context.CancelFunc

	// Written before ready is closed, read after.
	err    error
	path   string
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
		dir: own, lock: lock, limit: limit, maxDocument: maxDocument, fetch: fetch, free: freeBytes,
		entries: map[key]*entry{}, unused: list.New(), room: make(chan struct{}),
	}, nil
}

// Close removes the cache. Files still in use stay readable to whoever has them
// open.
func (c *Cache) Close() error {
	return errors.Join(os.RemoveAll(c.dir), c.lock.Close())
}

// Get returns a document, fetching it if it is not here. Callers that ask for one
// at the same time share a fetch. Where the digest is not known, what is kept is
// not believed: its owner may have replaced it. Errors are those of the fetch;
// too large a document, or one with another digest, is a permanent fault, a full
// disk the unavailability of [Dependency].
func (c *Cache) Get(ctx context.Context, want Document) (*File, error) {
	for {
		e, mine := c.enter(ctx, want)
		select {
		case <-e.ready:
		case <-ctx.Done():
			c.leave(e)
			return nil, fmt.Errorf("waiting for %s: %w", want.URI, context.Cause(ctx))
		}
		if e.err == nil && want.takes(e.sha256) {
			return &File{Path: e.path, Size: e.size, SHA256: e.sha256, cache: c, entry: e}, nil
		}
		c.leave(e)
		switch {
		case e.err == nil && mine:
			return nil, fault.Permanentf(CodeChanged, "%s: its sha256 is %s, that of the document was %.64s", want.URI, e.sha256, want.SHA256)
		case e.err == nil:
			continue // what another one fetched for an earlier submission
		case errors.Is(e.err, errAbandoned) && ctx.Err() == nil:
			// The fetch belongs to all who wait for it and ends when the last
			// one goes. Whoever comes just then starts another.
			continue
		}
		return nil, e.err
	}
}

// takes reports whether content of that digest is what is wanted.
func (d Document) takes(digest string) bool {
	return d.SHA256 == "" || strings.EqualFold(d.SHA256, digest)
}

// Release says that the document is not needed any more. It is legal to call it
// twice.
func (f *File) Release() { f.once.Do(func() { f.cache.leave(f.entry) }) }

var errAbandoned = errors.New("nobody waits for the document any more")

// enter adds a user to an entry, making it if there is none that will do; mine
// tells which.
func (c *Cache) enter(ctx context.Context, want Document) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := key{want.ID, want.URI}
	if e, ok := c.entries[k]; ok && c.mayDo(e, want) {
		e.users++
		if e.place != nil {
			c.unused.Remove(e.place)
			e.place = nil
		}
		return e, false
	} else if ok {
		// Its users keep it; the last one takes it away.
		delete(c.entries, k)
		if e.place != nil {
			c.evict(e)
		}
	}
	e = &entry{key: k, ready: make(chan struct{}), users: 1}
	c.entries[k] = e
	// The trace goes on, the caller's end does not end it: others may wait too.
	var fetching context.Context
	fetching, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		err := c.fill(fetching, e)
		e.stop()
		c.settle(e, err)
	}()
	return e, true
}

// mayDo reports whether an entry is what is wanted, or on its way to be. The
// caller holds the lock.
func (c *Cache) mayDo(e *entry, want Document) bool {
	select {
	case <-e.ready:
		return want.SHA256 != "" && want.takes(e.sha256)
	default:
		return true
	}
}

// leave takes a user away.
func (c *Cache) leave(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users--
	if e.users > 0 {
		return
	}
	current := c.entries[e.key] == e
	select {
	case <-e.ready:
		switch {
		case e.err != nil: // nothing is left of it
		case current:
			e.place = c.unused.PushFront(e)
			c.freed()
		default: // replaced while it was in use
			c.remove(e)
		}
	default:
		e.stop()
		if current {
			delete(c.entries, e.key) // the next one to ask starts anew
		}
	}
}

// settle ends a fetch. The entry becomes ready under the lock: were it given up in
// between, the last user could leave there, and file and bytes would be nobody's.
func (c *Cache) settle(e *entry, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.entries[e.key] != e {
		err = errAbandoned
	}
	if err != nil {
		if fault.DependencyOf(err) == Dependency {
			// What is only kept in case makes room for what is needed.
			c.lacking = max(c.lacking, e.bytes)
			for c.unused.Len() > 0 {
				c.evict(c.unused.Back().Value.(*entry))
			}
		}
		c.remove(e)
	}
	e.err = err
	close(e.ready)
}

// remove takes an entry's file away and gives its bytes back. The caller holds the
// lock.
func (c *Cache) remove(e *entry) {
	if c.entries[e.key] == e {
		delete(c.entries, e.key)
	}
	if e.path != "" {
		_ = os.Remove(e.path) // what cannot be removed now goes with the folder
	}
	c.used -= e.bytes
	e.bytes = 0
	c.freed()
}

// evict removes an entry that nobody uses. The caller holds the lock.
func (c *Cache) evict(e *entry) {
	c.unused.Remove(e.place)
	e.place = nil
	c.remove(e)
}

// freed wakes up those who wait for room. The caller holds the lock.
func (c *Cache) freed() {
	close(c.room)
	c.room = make(chan struct{})
}

// reserve takes size bytes for e, evicting what is not in use, or returns a channel
// that is closed when it may be worth while to try again.
func (c *Cache) reserve(e *entry, size int64) (wait <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	others := c.used - e.bytes
	for others+size > c.limit && c.unused.Len() > 0 {
		oldest := c.unused.Back().Value.(*entry)
		others -= oldest.bytes
		c.evict(oldest)
	}
	if others+size > c.limit {
		return c.room
	}
	c.used, e.bytes = others+size, size
	return nil
}

// open starts to read e's document once there is room for it.
func (c *Cache) open(ctx context.Context, e *entry) (body io.ReadCloser, size int64, err error) {
	for {
		if body, size, err = c.fetch(ctx, e.key.uri); err != nil {
			return nil, 0, err
		}
		if size > c.maxDocument {
			_ = body.Close() // none of it was read
			return nil, 0, fault.Permanentf(CodeTooLarge, "%s: %d bytes, at most %d are allowed", e.key.uri, size, c.maxDocument)
		}
		wait := c.reserve(e, size)
		if wait == nil {
			return body, size, nil
		}
		// Room may take long to come, and a body that nobody reads would be
		// given up as stalled. It is asked for again, and may be of another
		// size by then.
		_ = body.Close() // none of it was read
		for wait != nil {
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, 0, errAbandoned
			}
			wait = c.reserve(e, size)
		}
	}
}

// fill fetches a document into a file of its own, which it names in the entry even
// in failure.
func (c *Cache) fill(ctx context.Context, e *entry) error {
	body, size, err := c.open(ctx, e)
	if err != nil {
		return abandoned(ctx, err)
	}
	defer func() { _ = body.Close() }() // read to its end, or of no interest any more
	if err := c.fits(size); err != nil {
		return err
	}
	file, err := os.CreateTemp(c.dir, "document-") // never a name from outside
	if err != nil {
		return diskFault(err)
	}
	e.path = file.Name()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(fileWriter{file}, sum), io.LimitReader(body, size+1))
	if err == nil && n != size {
		err = fault.AsTransient(CodeChanged, fmt.Errorf("%s: %d bytes came, %d were announced", e.key.uri, n, size))
	}
	if closeErr := file.Close(); err == nil && closeErr != nil {
		err = diskFault(closeErr)
	}
	e.size, e.sha256 = size, hex.EncodeToString(sum.Sum(nil))
	return abandoned(ctx, err)
}

// abandoned tells an error that the end of the fetch brought about from one that
// is the store's own.
func abandoned(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errAbandoned
	}
	return err
}
