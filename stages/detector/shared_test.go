package detector

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/objectstore/objectstoretest"
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

// A version that could not be kept is served, and kept as soon as it can be.
func TestVersionIsSharedLater(t *testing.T) {
	server, store := bucket(t)
	server.Fail(func(*http.Request) (int, string) { return http.StatusForbidden, "AccessDenied" })
	c := families(t, "yolo")
	m := openShared(t, c, store)
	m.look(t)
	if err := m.Ready(); err != nil || len(m.told) != 1 || strings.Count(m.log.String(), "not kept in S3") != 1 {
		t.Fatalf("%v, told %+v, log %s", err, m.told, m.log)
	}
	server.Fail(nil)
	m.look(t)
	first := m.digest("yolo")
	if f, err := m.shared.Fetch(t.Context(), "yolo", first); err != nil || f.Digest != first {
		t.Errorf("%+v, %v", f, err)
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
