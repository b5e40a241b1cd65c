package repository

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"leafcutter/pkg/objectstore/objectstoretest"
	"leafcutter/stages/detector/internal/manifest"
)

// A version that was kept is fetched by its digest wherever there is the bucket.
func TestVersions(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := described("good", "1", "weights")
	digest, err := m.Digest()
	if err != nil {
		t.Fatal(err)
	}
	at := file(t, "weights")
	here := OpenVersions(store, t.TempDir())
	if _, err := here.Fetch(t.Context(), "good", digest); !errors.Is(err, ErrAbsent) {
		t.Fatalf("before it was kept: %v", err)
	}
	if err := here.Keep(t.Context(), Fetched{m, digest, file(t, "others")}); !errors.Is(err, ErrDigest) {
		t.Fatalf("kept weights that are another's: %v", err)
	}
	f := Fetched{m, digest, at}
	puts := 0
	server.Fail(func(r *http.Request) (int, string) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, versionWeights) {
			puts++
		}
		return 0, ""
	})
	f.Manifest.Version = "2" // as it is said, and the same
	for _, f := range []Fetched{{m, digest, at}, f} {
		if err := here.Keep(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	if puts != 1 {
		t.Errorf("weights put %d times", puts)
	}
	there := OpenVersions(store, t.TempDir())
	got, err := there.Fetch(t.Context(), "good", digest)
	if err != nil || got.Manifest.Version != "2" || got.Digest != digest {
		t.Fatalf("%+v, %v", got, err)
	}
	if b, err := os.ReadFile(got.Weights); err != nil || string(b) != "weights" {
		t.Errorf("weights %q, %v", b, err)
	}
	for _, odd := range [][2]string{{"good", strings.Repeat("0", 64)}, {"good", "../good"}, {"..", digest}, {"other", digest}} {
		if _, err := there.Fetch(t.Context(), odd[0], odd[1]); !errors.Is(err, ErrAbsent) {
			t.Errorf("%v: %v", odd, err)
		}
	}

	if got, err := there.Lately(t.Context(), "good"); err != nil || !slices.Equal(got, []string{digest}) {
		t.Errorf("versions %v, %v", got, err)
	}
	if got, err := there.Lately(t.Context(), "goo"); err != nil || len(got) != 0 {
		t.Errorf("versions of another model %v, %v", got, err)
	}
	if err := there.Sweep(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Fetch(t.Context(), "good", digest); err != nil {
		t.Errorf("swept while it is of use: %v", err)
	}
	server.Corrupt("leafcutter", versionsPrefix+"good/"+digest+"/"+manifest.File)
	if _, err := there.Fetch(t.Context(), "good", digest); err == nil {
		t.Error("a damaged manifest was taken")
	}
	if err := there.Sweep(t.Context(), -time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Fetch(t.Context(), "good", digest); !errors.Is(err, ErrAbsent) {
		t.Errorf("after its age: %v", err)
	}
	if left, err := there.place.files(t.Context(), "good/"+digest); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A copy that is damaged is there again after the next Keep: one of another size at
// once, one that only its digest gives away once somebody has fetched it.
func TestDamagedVersionIsKeptAgain(t *testing.T) {
	store := objectstoretest.New(t)
	m := described("good", "1", "weights")
	digest, err := m.Digest()
	if err != nil {
		t.Fatal(err)
	}
	f := Fetched{m, digest, file(t, "weights")}
	here := OpenVersions(store, t.TempDir())
	for _, damaged := range []string{"short", "wEIGHTS"} {
		if err := here.Keep(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), here.place.key("good/"+digest, versionWeights), []byte(damaged), ""); err != nil {
			t.Fatal(err)
		}
		there := OpenVersions(store, t.TempDir())
		if len(damaged) == len("weights") {
			if _, err := there.Fetch(t.Context(), "good", digest); !errors.Is(err, ErrDigest) {
				t.Errorf("%q: %v", damaged, err)
			}
		}
		if err := here.Keep(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if _, err := there.Fetch(t.Context(), "good", digest); err != nil {
			t.Errorf("%q: after it was kept again: %v", damaged, err)
		}
	}
}

// Keys that may not list the bucket are refused what is missing: it counts as
// missing, for who looks for it and for who keeps it.
func TestVersionsThatAreRefused(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := described("good", "1", "weights")
	digest, err := m.Digest()
	if err != nil {
		t.Fatal(err)
	}
	kept := false
	server.Fail(func(r *http.Request) (int, string) {
		if r.Method == http.MethodPut || kept {
			return 0, ""
		}
		return http.StatusForbidden, "AccessDenied"
	})
	here := OpenVersions(store, t.TempDir())
	if _, err := here.Fetch(t.Context(), "good", digest); !errors.Is(err, ErrAbsent) {
		t.Errorf("before it was kept: %v", err)
	}
	if err := here.Keep(t.Context(), Fetched{m, digest, file(t, "weights")}); err != nil {
		t.Error(err)
	}
	kept = true
	if _, err := here.Fetch(t.Context(), "good", digest); err != nil {
		t.Error(err)
	}
}

// A detector whose clock is ahead removes nothing that is of use: ages are measured
// by the store's own dates.
func TestSweepGoesByTheClockOfTheStore(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := described("good", "1", "weights")
	digest, err := m.Digest()
	if err != nil {
		t.Fatal(err)
	}
	here := OpenVersions(store, t.TempDir())
	if err := here.Keep(t.Context(), Fetched{m, digest, file(t, "weights")}); err != nil {
		t.Fatal(err)
	}
	if err := here.Sweep(t.Context(), 0); err != nil { // its date is in the past, and nothing was kept since
		t.Fatal(err)
	}
	if _, err := here.Fetch(t.Context(), "good", digest); err != nil {
		t.Errorf("swept: %v", err)
	}
}
