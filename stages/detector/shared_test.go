package detector

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/objectstore/objectstoretest"
	"leafcutter/schemas"
)

// openShared are models that share their versions by a bucket.
func openShared(t *testing.T, c Config, store *objectstore.Store) *models {
	t.Helper()
	log := &bytes.Buffer{}
	m, err := OpenModels(t.Context(), c, objectstore.Config{}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	m.Share(store)
	all := &models{Models: m, log: log}
	all.look(t)
	return all
}

func bucket(t *testing.T) (*objectstoretest.Server, *objectstore.Store) {
	t.Helper()
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	return server, store
}

// A detector that has never seen a version, and whose repository has it no more,
// does its pages: a new replica, or a new machine.
func TestVersionBeforeIsHadByANewDetector(t *testing.T) {
	server, store := bucket(t)
	c := families(t, "yolo")
	m := openShared(t, c, store)
	first := m.digest("yolo")
	want, err := m.detected(t, "yolo", first)
	if err != nil || len(want) == 0 {
		t.Fatalf("%d boxes, %v", len(want), err)
	}
	give(t, c.ModelsDir, "yolo", floor(0.95))
	elsewhere := c
	elsewhere.CacheDir = t.TempDir()
	m = openShared(t, elsewhere, store)
	if m.digest("yolo") == first {
		t.Fatal("not changed")
	}
	// A server that is away says nothing: pages wait, and are done when it is back.
	server.Fail(func(*http.Request) (int, string) { return http.StatusServiceUnavailable, "ServiceUnavailable" })
	if _, err := m.detected(t, "yolo", first); fault.DependencyOf(err) != objectstore.Dependency {
		t.Fatalf("while S3 is away: %v", err)
	}
	server.Fail(nil)
	got, err := m.detected(t, "yolo", first)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d boxes, want %d: %v", len(got), len(want), err)
	}
	if _, err := m.detected(t, "yolo", strings.Repeat("0", 64)); fault.CodeOf(err) != CodeModelChanged || fault.ClassOf(err) != fault.Permanent {
		t.Errorf("a digest that nobody knows: %v", err)
	}
}

// Where S3 refuses, as Amazon does for what is missing where the bucket may not be
// listed, or is away, the repository is asked: it may have the version. What neither
// has is given up where S3 refuses, and waited for by S3's own probe while it is away.
func TestVersionWhileS3Refuses(t *testing.T) {
	server, store := bucket(t)
	c := families(t, "yolo")
	m := openShared(t, c, store)
	for _, refusal := range []struct {
		status     int
		code       string
		class      fault.Class
		dependency string
	}{
		{http.StatusForbidden, "AccessDenied", fault.Permanent, ""},
		{http.StatusServiceUnavailable, "ServiceUnavailable", fault.Unavailable, objectstore.Dependency},
	} {
		server.Fail(func(*http.Request) (int, string) { return refusal.status, refusal.code })
		for _, digest := range []string{strings.Repeat("0", 64), strings.Repeat("1", 64)} {
			_, err := m.detected(t, "yolo", digest)
			if fault.ClassOf(err) != refusal.class || fault.DependencyOf(err) != refusal.dependency {
				t.Errorf("%s: %v", refusal.code, err)
			}
			m.served["yolo"].unknown = map[string]asking{}
		}
		give(t, c.ModelsDir, "yolo", floor(0.95+float64(refusal.status)/1e5))
		other := c
		other.CacheDir = t.TempDir()
		if boxes, err := m.detected(t, "yolo", openModels(t, other).digest("yolo")); err != nil || len(boxes) == 0 {
			t.Errorf("%s, and the repository has it: %d boxes, %v", refusal.code, len(boxes), err)
		}
	}
	if n := strings.Count(m.log.String(), "may not be read from S3"); n != 1 {
		t.Errorf("said %d times: %s", n, m.log)
	}
}

// What is damaged in the cache is had anew, also after a time in which it could not.
func TestDamagedVersionIsFetchedAgain(t *testing.T) {
	server, store := bucket(t)
	c := families(t, "yolo")
	m := openShared(t, c, store)
	first := m.digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	m.look(t)
	m.room.tidy(0, func(*version) bool { return false })
	damaged := filepath.Join(c.CacheDir, "versions", "yolo", first, archivedWeights)
	if err := errors.Join(os.Remove(damaged), os.WriteFile(damaged, []byte("damaged"), 0o600)); err != nil {
		t.Fatal(err)
	}
	server.Fail(func(*http.Request) (int, string) { return http.StatusServiceUnavailable, "ServiceUnavailable" })
	if _, err := m.detected(t, "yolo", first); fault.DependencyOf(err) != objectstore.Dependency {
		t.Fatalf("while S3 is away: %v", err)
	}
	server.Fail(nil)
	if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
}

// The file that a version was loaded from is gone, the one in the cache is damaged:
// the store's is there still.
func TestVersionThatIsDamagedTwice(t *testing.T) {
	_, store := bucket(t)
	c := families(t, "yolo")
	m := openShared(t, c, store)
	first := m.digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	m.look(t)
	m.room.tidy(0, func(*version) bool { return false })
	damaged := m.archive.weights("yolo", first)
	if err := errors.Join(os.Remove(damaged), os.WriteFile(damaged, []byte("damaged"), 0o600)); err != nil {
		t.Fatal(err)
	}
	astray := newVersion(m.recall("yolo", first).Fetched)
	astray.Weights = filepath.Join(t.TempDir(), "gone.onnx")
	m.served["yolo"].versions[first] = astray
	if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
}

// A version that could not be kept is served, which is said once, and kept later,
// after pauses that grow, also where the repository is never looked at again.
func TestVersionIsSharedLater(t *testing.T) {
	server, store := bucket(t)
	var puts atomic.Int32
	server.Fail(func(r *http.Request) (int, string) {
		if r.Method == http.MethodPut {
			puts.Add(1)
		}
		return http.StatusForbidden, "AccessDenied"
	})
	c := families(t, "yolo")
	c.Refresh = 0
	m := openShared(t, c, store)
	m.copyAgain(t.Context()) // it is too early
	if n := puts.Load(); n != 1 {
		t.Errorf("stored %d times without a pause", n)
	}
	first := m.digest("yolo")
	early := func() (pause time.Duration) { // has the next try be due
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, c := range m.copies {
			c.again, pause = time.Time{}, c.pause
		}
		return pause
	}
	if early() != retryingCopy {
		t.Error("no pause")
	}
	m.copyAgain(t.Context())
	if pause := early(); pause != 2*retryingCopy || puts.Load() != 2 {
		t.Errorf("the second pause is %s, stored %d times", pause, puts.Load())
	}
	if err := m.Ready(); err != nil || len(m.told) != 1 || strings.Count(m.log.String(), "not kept in S3") != 1 {
		t.Fatalf("%v, told %+v, log %s", err, m.told, m.log)
	}
	server.Fail(nil)
	m.tending = time.Millisecond
	following, stop := context.WithCancel(t.Context())
	var followed sync.WaitGroup
	followed.Go(func() { m.Follow(following, func(schemas.ModelAnnounced) {}) })
	defer followed.Wait()
	defer stop()
	kept := func() bool {
		_, err := m.shared.Fetch(t.Context(), "yolo", first)
		return err == nil
	}
	for deadline := time.Now().Add(10 * time.Second); !kept(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never kept")
		}
	}
}

// A copy is kept anew once a day while its version is of use, the current one or not,
// as it was last described.
func TestCopyIsKeptAnew(t *testing.T) {
	server, store := bucket(t)
	c := families(t, "yolo")
	m := openShared(t, c, store)
	first := m.digest("yolo")
	give(t, c.ModelsDir, "yolo", floor(0.95))
	m.look(t)
	second := m.digest("yolo")
	give(t, c.ModelsDir, "yolo", func(m map[string]any) { floor(0.95)(m); m["thresholds"] = map[string]any{"*": 0.97} })
	m.look(t)
	var described []string
	server.Fail(func(r *http.Request) (int, string) {
		if r.Method == http.MethodPut {
			described = append(described, strings.Split(r.URL.Path, "/")[4])
		}
		return 0, ""
	})
	m.room.tidy(0, func(*version) bool { return false })
	days := func(want ...string) {
		t.Helper()
		m.mu.Lock()
		for _, c := range m.copies {
			c.kept, c.used = c.kept.Add(-sweepEvery), c.used.Add(-sweepEvery)
		}
		m.mu.Unlock()
		described = nil
		m.copyAgain(t.Context())
		m.copyAgain(t.Context())
		if slices.Sort(described); !slices.Equal(described, want) {
			t.Errorf("kept anew %v, want %v", described, want)
		}
	}
	both := []string{first, second}
	slices.Sort(both)
	days(both...) // the first was of use until it was changed
	days(second)
	if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
		t.Fatalf("%d boxes, %v", len(boxes), err)
	}
	days(both...)
	days(second)
	if f, err := m.shared.Fetch(t.Context(), "yolo", second); err != nil || f.Manifest.Thresholds["*"] != 0.97 {
		t.Errorf("described as %+v, %v", f.Manifest, err)
	}
}

// An upload that takes long holds neither the announcement nor what follows up.
func TestSlowUpload(t *testing.T) {
	server, store := bucket(t)
	release := make(chan struct{})
	server.Fail(func(r *http.Request) (int, string) {
		if r.Method == http.MethodPut {
			<-release
		}
		return 0, ""
	})
	m, err := OpenModels(t.Context(), families(t, "yolo"), objectstore.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m.Share(store)
	m.sharing = time.Millisecond
	m.look(t.Context(), func(schemas.ModelAnnounced) {})
	ready := m.Ready()
	close(release)
	m.copying.Wait()
	_, err = m.shared.Fetch(t.Context(), "yolo", m.recall("yolo", "").Digest)
	if err := errors.Join(ready, err, m.Close()); err != nil {
		t.Error(err)
	}
}

// Whether an error is said again does not depend on the number of a request.
func TestNews(t *testing.T) {
	s3 := func(number string) error { return fault.AsUnavailable("s3", errors.New("refused, request "+number)) }
	for i, c := range []struct {
		before, now error
		news        bool
	}{
		{nil, nil, false}, {s3("1"), nil, false}, {nil, s3("1"), true}, {s3("1"), s3("2"), false},
		{errors.New("1"), errors.New("2"), true}, {errors.New("1"), errors.New("1"), false},
		{errors.New("1"), s3("1"), true}, {s3("1"), fault.AsTransient("s3-error", errors.New("1")), true},
	} {
		if news(c.before, c.now) != c.news {
			t.Errorf("%d: %v after %v", i, c.now, c.before)
		}
	}
}

// A version is kept for longer than its pages can be queued, as ranges and then one
// by one.
func TestVersionsOutliveQueues(t *testing.T) {
	var queued time.Duration
	for _, topic := range schemas.Topics("yolo") {
		if topic.Name == schemas.TopicPageRanges || topic.Name == schemas.PagesTopic("yolo") {
			queued += topic.Retention
		}
	}
	if queued == 0 || archivedFor <= queued {
		t.Errorf("kept for %s, queued for %s", archivedFor, queued)
	}
}

// A detector whose cache is new and that begins after a change to what does not work
// serves the version before, as those do that had it.
func TestBeginsWithABrokenChangeAndANewCache(t *testing.T) {
	_, store := bucket(t)
	c := families(t, "yolo")
	first := openShared(t, c, store).digest("yolo")
	give(t, c.ModelsDir, "yolo", func(m map[string]any) { m["classes"] = append(m["classes"].([]any), "stamp") })
	c.CacheDir = t.TempDir()
	m := openShared(t, c, store)
	if err := m.Ready(); err != nil || len(m.told) != 1 || m.told[0].Digest != first {
		t.Fatalf("ready %v, told %+v; %s", err, m.told, m.log)
	}
	if boxes, err := m.detected(t, "yolo", first); err != nil || len(boxes) == 0 {
		t.Errorf("%d boxes, %v", len(boxes), err)
	}
}
