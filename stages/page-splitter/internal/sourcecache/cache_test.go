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
	gate, err, body := s.gate, s.err, s.objects[uri]
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
	size := int64(len(body))
	if s.short {
		body = body[:len(body)/2]
	}
	return io.NopCloser(bytes.NewReader(body)), size, nil
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

func get(t *testing.T, c *Cache, uri string) *File {
	t.Helper()
	f, err := c.Get(t.Context(), uri)
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
		f := get(t, c, "a")
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
	if f := get(t, c, "empty"); f.Size != 0 {
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
			f, err := c.Get(t.Context(), "a")
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
		get(t, c, uri).Release()
		if used := onDisk(t, c); used > 3000 {
			t.Fatalf("%d bytes on disk", used)
		}
	}
	for _, uri := range []string{"a", "c", "d", "b"} {
		get(t, c, uri).Release()
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
	a, b := get(t, c, "a"), get(t, c, "b")
	got := make(chan *File, 1)
	go func() {
		f, err := c.Get(t.Context(), "c")
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
	if _, err := os.Stat(b.Path); err != nil {
		t.Fatal(err)
	}
	b.Release()
	f := <-got
	if used := onDisk(t, c); used != 1500 {
		t.Errorf("%d bytes on disk", used)
	}
	f.Release()
}

func TestFaults(t *testing.T) {
	s := newStore(map[string]int{"a": 1000, "large": 3000})
	c := open(t, s, 4000, 2000)
	if _, err := c.Get(t.Context(), "large"); fault.CodeOf(err) != CodeTooLarge || fault.ClassOf(err) != fault.Permanent {
		t.Errorf("large: %v", err)
	}
	s.err = fault.AsUnavailable("s3", errors.New("away"))
	if _, err := c.Get(t.Context(), "a"); !errors.Is(err, s.err) {
		t.Errorf("away: %v", err)
	}
	s.err, s.short = nil, true
	if _, err := c.Get(t.Context(), "a"); fault.ClassOf(err) != fault.Transient || fault.CodeOf(err) != "source-changed" {
		t.Errorf("cut short: %v", err)
	}
	s.short = false
	get(t, c, "a").Release() // no fault is remembered
	if err := c.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if used := onDisk(t, c); used != 1000 {
		t.Errorf("%d bytes on disk after faults", used)
	}
	if err := os.RemoveAll(c.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "large"); fault.CodeOf(err) != CodeTooLarge {
		t.Errorf("large: %v", err)
	}
	s.objects["b"] = []byte("b")
	if _, err := c.Get(t.Context(), "b"); fault.DependencyOf(err) != Dependency || c.Probe(t.Context()) == nil {
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
		_, err := c.Get(impatient, "a")
		first <- err
	}()
	second := make(chan error, 1)
	patient, stop := context.WithCancel(t.Context())
	go func() {
		f, err := c.Get(patient, "a")
		if err == nil {
			f.Release()
		}
		second <- err
	}()
	for c.users("a") < 2 {
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
		_, err := c.Get(patient, "b")
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
	get(t, c, "b").Release()
	if n := s.count("b"); n != 2 {
		t.Errorf("fetched %d times, want 2", n)
	}
}

func (c *Cache) users(uri string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[uri]; e != nil {
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
		get(t, c, "a").Release()
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
				f, err := c.Get(ctx, uri)
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
