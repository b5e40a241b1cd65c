package sourcecache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is documents by URI; gate, where set, holds every body back.
type store struct {
	mu      sync.Mutex
	objects map[string][]byte
	fetched map[string]int
	gate    chan struct{}
	err     error
	short   bool
	open    int // bodies
}

// body counts itself while it is open.
type body struct {
	io.Reader
	store *store
}

func (b body) Close() error {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.open--
	return nil
}

func newStore(sizes map[string]int) *store {
	s := &store{objects: map[string][]byte{}, fetched: map[string]int{}}
	for uri, size := range sizes {
		s.objects[uri] = bytes.Repeat([]byte(uri[:1]), size)
	}
	return s
}

func (s *store) fetch(ctx context.Context, uri string) (io.ReadCloser, int64, error) {
	s.mu.Lock()
	s.fetched[uri]++
	gate, err, content := s.gate, s.err, s.objects[uri]
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	if err != nil {
		return nil, 0, err
	}
	size := int64(len(content))
	if s.short {
		content = content[:len(content)/2]
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	return body{bytes.NewReader(content), s}, size, nil
}

func (s *store) put(uri string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[uri] = content
}

func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to that")
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *store) bodies() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *store) count(uri string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched[uri]
}

func open(t *testing.T, s *store, limit, maxDocument int64) *Cache {
	t.Helper()
	c, err := Open(t.TempDir(), limit, maxDocument, s.fetch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// of is a document of the store as its submission knows it.
func (s *store) of(uri string) Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256(s.objects[uri])
	return Document{ID: "d", URI: uri, SHA256: hex.EncodeToString(sum[:])}
}

func get(t *testing.T, c *Cache, want Document) *File {
	t.Helper()
	f, err := c.Get(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// onDisk is the bytes of the documents in the cache's folder.
func onDisk(t *testing.T, c *Cache) int64 {
	t.Helper()
	files, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, f := range files {
		info, err := f.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // evicted since the folder was listed
		}
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

func TestGet(t *testing.T) {
	s := newStore(map[string]int{"a": 1000, "empty": 0})
	c := open(t, s, 5000, 2000)
	for range 3 {
		f := get(t, c, s.of("a"))
		content, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(s.objects["a"])
		if !bytes.Equal(content, s.objects["a"]) || f.Size != 1000 || f.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%d bytes, size %d, digest %s", len(content), f.Size, f.SHA256)
		}
		f.Release()
		f.Release()
	}
	if n := s.count("a"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if f := get(t, c, s.of("empty")); f.Size != 0 {
		t.Errorf("size %d", f.Size)
	}
}

func TestConcurrentCallersShareAFetch(t *testing.T) {
	s := newStore(map[string]int{"a": 1000})
	s.gate = make(chan struct{})
	c := open(t, s, 5000, 2000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			f, err := c.Get(t.Context(), s.of("a"))
			if err != nil {
				t.Error(err)
				return
			}
			f.Release()
		})
	}
	close(s.gate)
	wg.Wait()
	if n := s.count("a"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestLeastRecentlyUsedGoes(t *testing.T) {
	s := newStore(map[string]int{"a": 1000, "b": 1000, "c": 1000, "d": 1000})
	c := open(t, s, 3000, 1000)
	for _, uri := range []string{"a", "b", "c", "a", "d"} { // b is the oldest when d comes
		get(t, c, s.of(uri)).Release()
		if used := onDisk(t, c); used > 3000 {
			t.Fatalf("%d bytes on disk", used)
		}
	}
	for _, uri := range []string{"a", "c", "d", "b"} {
		get(t, c, s.of(uri)).Release()
	}
	for uri, want := range map[string]int{"a": 1, "b": 2, "c": 1, "d": 1} {
		if n := s.count(uri); n != want {
			t.Errorf("%s fetched %d times, want %d", uri, n, want)
		}
	}
}

func TestInUseStaysAndOthersWait(t *testing.T) {
	s := newStore(map[string]int{"a": 1000, "b": 1000, "c": 1500})
	c := open(t, s, 2000, 2000)
	a, b := get(t, c, s.of("a")), get(t, c, s.of("b"))
	got := make(chan *File, 1)
	go func() {
		f, err := c.Get(t.Context(), s.of("c"))
		if err != nil {
			t.Error(err)
		}
		got <- f
	}()
	a.Release()                                                              // not enough yet
	for deadline := time.Now().Add(10 * time.Second); onDisk(t, c) > 1000; { // until c has evicted a
		if time.Now().After(deadline) {
			t.Fatal("a is still there")
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case <-got:
		t.Fatal("c came while there was no room for it")
	default:
	}
	eventually(t, func() bool { return s.bodies() == 0 }) // none stays open with nobody reading
	if n := s.count("c"); n != 1 {
		t.Fatalf("c was asked for %d times while there was no room", n)
	}
	if _, err := os.Stat(b.Path); err != nil {
		t.Fatal(err)
	}
	b.Release()
	f := <-got
	if used := onDisk(t, c); used != 1500 {
		t.Errorf("%d bytes on disk", used)
	}
	if n := s.bodies(); n != 0 {
		t.Errorf("%d bodies are left open", n)
	}
	f.Release()
}

// TestGrownWhileItWaited: what is asked for again once there is room may be larger
// by then, and waits for that much.
func TestGrownWhileItWaited(t *testing.T) {
	s := newStore(map[string]int{"a": 1000, "b": 500, "c": 800})
	c := open(t, s, 2000, 2000)
	a, b := get(t, c, s.of("a")), get(t, c, s.of("b"))
	got := make(chan *File, 1)
	go func() {
		f, err := c.Get(t.Context(), Document{ID: "d", URI: "c"})
		if err != nil {
			t.Error(err)
		}
		got <- f
	}()
	eventually(t, func() bool { return s.count("c") == 1 && s.bodies() == 0 })
	s.put("c", bytes.Repeat([]byte("c"), 1200))
	b.Release()
	eventually(t, func() bool { return s.count("c") == 2 && s.bodies() == 0 })
	select {
	case <-got:
		t.Fatal("c came while there was no room for it")
	default:
	}
	a.Release()
	if f := <-got; f.Size != 1200 || onDisk(t, c) != 1200 {
		t.Errorf("size %d, %d bytes on disk", f.Size, onDisk(t, c))
	}
}

// TestReplaced: an object that its owner replaced. Who knows the digest gets that
// content, whatever is kept, or is told; who does not gets what is there now; who
// has the old one keeps it.
func TestReplaced(t *testing.T) {
	s := newStore(map[string]int{"a": 1000})
	c := open(t, s, 5000, 2000)
	old := s.of("a")
	before := get(t, c, old)
	s.put("a", []byte("another"))
	now := s.of("a")
	if _, err := c.Get(t.Context(), Document{ID: "another", URI: "a", SHA256: old.SHA256}); fault.CodeOf(err) != CodeChanged || fault.ClassOf(err) != fault.Permanent {
		t.Errorf("the old content for another document: %v", err)
	}
	for name, want := range map[string]Document{"pinned": now, "upper case": {ID: "d", URI: "a", SHA256: strings.ToUpper(now.SHA256)}, "any": {ID: "d", URI: "a"}} {
		f := get(t, c, want)
		if f.SHA256 != now.SHA256 || f.Size != 7 {
			t.Errorf("%s: %d bytes with digest %s", name, f.Size, f.SHA256)
		}
		f.Release()
	}
	s.put("a", []byte("a third"))
	third := get(t, c, Document{ID: "d", URI: "a"})
	if third.SHA256 != s.of("a").SHA256 {
		t.Error("what was kept is believed by one who does not know the digest")
	}
	third.Release()
	if content, err := os.ReadFile(before.Path); err != nil || len(content) != 1000 {
		t.Errorf("the old one, still in use: %d bytes, %v", len(content), err)
	}
	if _, err := c.Get(t.Context(), old); fault.CodeOf(err) != CodeChanged {
		t.Errorf("the old content, which is gone: %v", err)
	}
	before.Release()
	if used := onDisk(t, c); used != 14 { // of d and of the other document
		t.Errorf("%d bytes on disk", used)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used != 14 {
		t.Errorf("%d bytes counted", c.used)
	}
}

// TestDiskFull: what is not in use gives way, and the probe fails until there is
// room for what did not fit.
func TestDiskFull(t *testing.T) {
	s := newStore(map[string]int{"a": 10, "b": 3000})
	c := open(t, s, 5000, 4000)
	free := int64(2999)
	c.free = func(string) (int64, error) { return free, nil }
	get(t, c, s.of("a")).Release()
	if err := c.Probe(t.Context()); err != nil {
		t.Errorf("before anything failed: %v", err)
	}
	if _, err := c.Get(t.Context(), s.of("b")); fault.DependencyOf(err) != Dependency {
		t.Errorf("a document for which there is no room: %v", err)
	}
	if used := onDisk(t, c); used != 0 {
		t.Errorf("%d bytes are kept on a full disk", used)
	}
	for range 2 {
		if c.Probe(t.Context()) == nil {
			t.Error("the probe calls a disk fine that has no room for what is waited for")
		}
	}
	free = 3000
	if err := c.Probe(t.Context()); err != nil {
		t.Errorf("once there is room: %v", err)
	}
	get(t, c, s.of("b")).Release()
	free = 0
	if c.Probe(t.Context()) != nil {
		t.Error("the probe remembers what has its room")
	}
}

func TestFaults(t *testing.T) {
	s := newStore(map[string]int{"a": 1000, "large": 3000})
	c := open(t, s, 4000, 2000)
	if _, err := c.Get(t.Context(), s.of("large")); fault.CodeOf(err) != CodeTooLarge || fault.ClassOf(err) != fault.Permanent {
		t.Errorf("large: %v", err)
	}
	s.err = fault.AsUnavailable("s3", errors.New("away"))
	if _, err := c.Get(t.Context(), s.of("a")); !errors.Is(err, s.err) {
		t.Errorf("away: %v", err)
	}
	s.err, s.short = nil, true
	if _, err := c.Get(t.Context(), s.of("a")); fault.ClassOf(err) != fault.Transient || fault.CodeOf(err) != "source-changed" {
		t.Errorf("cut short: %v", err)
	}
	s.short = false
	get(t, c, s.of("a")).Release() // no fault is remembered
	if err := c.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if used := onDisk(t, c); used != 1000 {
		t.Errorf("%d bytes on disk after faults", used)
	}
	if err := os.RemoveAll(c.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), s.of("large")); fault.CodeOf(err) != CodeTooLarge {
		t.Errorf("large: %v", err)
	}
	s.objects["b"] = []byte("b")
	if _, err := c.Get(t.Context(), s.of("b")); fault.DependencyOf(err) != Dependency || c.Probe(t.Context()) == nil {
		t.Errorf("without a folder: %v, probe %v", err, c.Probe(t.Context()))
	}
}

// TestCallersGo: one who gives up does not take the fetch from the others; when
// all have gone it ends, and the next one starts anew.
func TestCallersGo(t *testing.T) {
	s := newStore(map[string]int{"a": 1000})
	s.gate = make(chan struct{})
	c := open(t, s, 5000, 2000)
	why := errors.New("gave up")
	impatient, giveUp := context.WithCancelCause(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := c.Get(impatient, s.of("a"))
		first <- err
	}()
	second := make(chan error, 1)
	patient, stop := context.WithCancel(t.Context())
	go func() {
		f, err := c.Get(patient, s.of("a"))
		if err == nil {
			f.Release()
		}
		second <- err
	}()
	for c.users(s.of("a")) < 2 {
		time.Sleep(time.Millisecond)
	}
	giveUp(why)
	if err := <-first; !errors.Is(err, why) {
		t.Errorf("the first: %v", err)
	}
	close(s.gate)
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}

	s.mu.Lock()
	s.gate = make(chan struct{})
	s.objects["b"] = []byte("b")
	s.mu.Unlock()
	go func() {
		_, err := c.Get(patient, s.of("b"))
		second <- err
	}()
	for s.count("b") < 1 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the last one: %v", err)
	}
	s.mu.Lock()
	s.gate = nil
	s.mu.Unlock()
	get(t, c, s.of("b")).Release()
	if n := s.count("b"); n != 2 {
		t.Errorf("fetched %d times, want 2", n)
	}
}

func (c *Cache) users(d Document) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key{d.ID, d.URI}]; e != nil {
		return e.users
	}
	return 0
}

// TestLeftovers: a folder of a process that is gone is removed, one in use stays.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s := newStore(map[string]int{"a": 10})
	stale := filepath.Join(dir, "sources-stale")
	if err := os.MkdirAll(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stale, "document"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := Open(dir, 100, 50, s.fetch)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Open(dir, 100, 50, s.fetch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the left-over folder: %v", err)
	}
	for _, c := range []*Cache{one, two} {
		get(t, c, s.of("a")).Release()
	}
	if one.dir == two.dir {
		t.Error("two caches share a folder")
	}
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%d folders are left, %v", len(left), err)
	}
	if _, err := Open(dir, 10, 50, s.fetch); err == nil {
		t.Error("a cache smaller than a document was opened")
	}
}

// TestManyAtOnce runs more documents through the cache than it holds.
func TestManyAtOnce(t *testing.T) {
	sizes := map[string]int{}
	for i := range 20 {
		sizes[fmt.Sprintf("%c", 'a'+i)] = 100 + 37*i
	}
	s := newStore(sizes)
	c := open(t, s, 2000, 1000)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 60 {
				uri := fmt.Sprintf("%c", 'a'+(worker*7+i*3)%20)
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 0 {
					cancel()
				}
				f, err := c.Get(ctx, s.of(uri))
				cancel()
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					continue
				}
				content, err := os.ReadFile(f.Path)
				if err != nil || len(content) != sizes[uri] || content[0] != uri[0] {
					t.Errorf("%s: %d bytes, %v", uri, len(content), err)
				}
				f.Release()
			}
		})
	}
	wg.Wait()
	if used := onDisk(t, c); used > 2000 {
		t.Errorf("%d bytes on disk", used)
	}
}
