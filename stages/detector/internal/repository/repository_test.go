package repository

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/objectstore/objectstoretest"
	"leafcutter/stages/detector/internal/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// described is a manifest that nothing is wrong with, of these weights.
func described(name, version, weights string) manifest.Manifest {
	sum := sha256.Sum256([]byte(weights))
	return manifest.Manifest{
		Name: name, Version: version, File: "model.onnx", SHA256: hex.EncodeToString(sum[:]), Family: "yolo",
		Input:   manifest.Input{Name: "images", Width: 32, Height: 32, Channels: "rgb"},
		Classes: []string{"title"}, ScoreFloor: 0.1, Thresholds: map[string]float64{"*": 0.4},
		NMS:     manifest.NMS{IoU: 0.5, CrossClassIoU: 1, Candidates: 10, MaxBoxes: 10},
		Options: []byte(`{"output":"output0"}`), Provider: manifest.CPU,
	}
}

func text(t *testing.T, m manifest.Manifest) string {
	t.Helper()
	b, err := m.Text()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// file is one with this content.
func file(t *testing.T, content string) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "best.onnx")
	if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

// ground is a place for models, and how to put files there and take them away
// behind the repository's back.
type ground struct {
	*Repository
	write  func(t *testing.T, path, content string)
	remove func(t *testing.T, path string)
	cache  string // "" for a folder
}

func grounds(t *testing.T) map[string]ground {
	t.Helper()
	root := t.TempDir()
	folder := ground{
		write: func(t *testing.T, path, content string) {
			t.Helper()
			at := filepath.Join(root, path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		remove: func(t *testing.T, path string) {
			t.Helper()
			if err := os.Remove(filepath.Join(root, path)); err != nil {
				t.Fatal(err)
			}
		},
	}
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	bucket := ground{
		cache: t.TempDir(),
		write: func(t *testing.T, path, content string) {
			t.Helper()
			if err := store.Put(t.Context(), "some/models/"+path, []byte(content), ""); err != nil {
				t.Fatal(err)
			}
		},
		remove: func(t *testing.T, path string) {
			t.Helper()
			if err := store.Delete(t.Context(), "some/models/"+path); err != nil {
				t.Fatal(err)
			}
		},
	}
	s3 := server.Config()
	s3.Bucket = "another" // the location names the bucket
	var err error
	if folder.Repository, err = Open(t.Context(), root, s3, ""); err != nil {
		t.Fatal(err)
	}
	if bucket.Repository, err = Open(t.Context(), "s3://leafcutter/some/models/", s3, bucket.cache); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bucket.Close)
	t.Cleanup(folder.Close)
	return map[string]ground{"folder": folder, "bucket": bucket}
}

// everywhere runs a test on a folder and on S3, which must not differ.
func everywhere(t *testing.T, test func(t *testing.T, g ground)) {
	t.Helper()
	for name, g := range grounds(t) {
		t.Run(name, func(t *testing.T) { test(t, g) })
	}
}

func TestABrokenModelHidesNoOther(t *testing.T) {
	everywhere(t, func(t *testing.T, g ground) {
		good := described("good", "1", "weights")
		g.write(t, "good/model.onnx", "weights")
		g.write(t, "good/manifest.json", text(t, good))
		g.write(t, "README.md", "about these models")
		g.write(t, "notes/of/mine.txt", "no model")
		g.write(t, "late/manifest.json", text(t, described("late", "1", "later weights")))
		g.write(t, "bare/best.onnx", "weights")
		g.write(t, "mistyped/manifest.json", `{"score_flor": 0.1}`)
		g.write(t, "renamed/manifest.json", text(t, good))
		g.write(t, "Not A Name/manifest.json", text(t, good))
		g.write(t, "huge/manifest.json", strings.Repeat(" ", 2<<20))
		list, err := g.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]error{"good": nil, "late": ErrAbsent, "bare": ErrAbsent, "mistyped": ErrInvalid, "renamed": ErrInvalid,
			"Not A Name": ErrInvalid, "huge": ErrInvalid}
		var names []string
		for _, m := range list {
			names = append(names, m.Name)
			if !errors.Is(m.Err, want[m.Name]) {
				t.Errorf("%s: %v, want %v", m.Name, m.Err, want[m.Name])
			}
			if (m.Digest == "") != (m.Err != nil) || m.Err == nil && m.Manifest.SHA256 != good.SHA256 {
				t.Errorf("%s: %+v", m.Name, m)
			}
			if _, err := g.Fetch(t.Context(), m.Name); !errors.Is(err, want[m.Name]) {
				t.Errorf("fetch %s: %v, want %v", m.Name, err, want[m.Name])
			}
		}
		if got := slices.Sorted(maps.Keys(want)); !slices.Equal(names, got) {
			t.Errorf("%v are listed, want %v", names, got)
		}
		if _, err := g.Fetch(t.Context(), "nobody"); !errors.Is(err, ErrAbsent) {
			t.Errorf("fetch what is not there: %v", err)
		}
	})
}

// Nor does one whose files are not what they are called.
func TestAnOddFolderHidesNoOther(t *testing.T) {
	root := t.TempDir()
	odd := described("odd", "1", "weights")
	odd.File = "manifest.json/model.onnx"
	for path, content := range map[string]string{
		"good/model.onnx": "weights", "good/manifest.json": text(t, described("good", "1", "weights")),
		"odd/manifest.json": text(t, odd), "folder/manifest.json/model.onnx": "weights",
	} {
		at := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	loop := filepath.Join(root, "loop")
	if err := errors.Join(os.Mkdir(loop, 0o700), os.Symlink("manifest.json", filepath.Join(loop, "manifest.json"))); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), root, objectstore.Config{}, "")
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.List(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, m := range list {
		if (m.Err == nil) != (m.Name == "good") {
			t.Errorf("%s: %v", m.Name, m.Err)
		}
	}
	if found, err := r.Changes(t.Context()); err != nil || len(found) != 4 {
		t.Errorf("changes %v, %v", found, err)
	}
}

func TestFetchChecksTheDigest(t *testing.T) {
	everywhere(t, func(t *testing.T, g ground) {
		m := described("mine", "1", "weights")
		g.write(t, "mine/manifest.json", text(t, m))
		g.write(t, "mine/model.onnx", "other weights")
		if _, err := g.Fetch(t.Context(), "mine"); !errors.Is(err, ErrDigest) {
			t.Fatalf("other weights: %v", err)
		}
		g.write(t, "mine/model.onnx", "weights")
		f, err := g.Fetch(t.Context(), "mine")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(f.Weights); err != nil || string(b) != "weights" {
			t.Errorf("%q, %v", b, err)
		}
		if digest, err := m.Digest(); err != nil || f.Digest != digest || f.Manifest.Version != "1" {
			t.Errorf("%+v, want digest %s, %v", f, digest, err)
		}
		if g.cache == "" {
			return
		}
		// From then on the cache has them, until they are damaged there.
		g.remove(t, "mine/model.onnx")
		if f, err = g.Fetch(t.Context(), "mine"); err != nil {
			t.Fatalf("again: %v", err)
		}
		if err := os.WriteFile(f.Weights, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Fetch(t.Context(), "mine"); !errors.Is(err, ErrAbsent) {
			t.Errorf("damaged in the cache and gone from S3: %v", err)
		}
		g.write(t, "mine/model.onnx", "weights")
		if f, err = g.Fetch(t.Context(), "mine"); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(f.Weights); err != nil || string(b) != "weights" {
			t.Errorf("after damage: %q, %v", b, err)
		}
		if left, err := filepath.Glob(filepath.Join(g.cache, "weights", "*")); err != nil || len(left) != 1 {
			t.Errorf("the cache has %v, %v", left, err)
		}
	})
}

func TestChangesTellWhatChanged(t *testing.T) {
	everywhere(t, func(t *testing.T, g ground) {
		for _, name := range []string{"a", "b", "c"} {
			g.write(t, name+"/manifest.json", text(t, described(name, "1", "weights")))
			g.write(t, name+"/model.onnx", "weights")
		}
		before := changes(t, g)
		if again := changes(t, g); !maps.Equal(before, again) {
			t.Errorf("%v, then %v, and nothing was done", before, again)
		}
		g.write(t, "a/manifest.json", text(t, described("a", "2", "weights")))
		g.write(t, "d/manifest.json", "not even JSON")
		g.remove(t, "c/manifest.json")
		g.remove(t, "c/model.onnx")
		after := changes(t, g)
		if after["a"] == before["a"] || after["b"] != before["b"] || after["d"] == "" || len(after) != 3 {
			t.Errorf("%v, then %v", before, after)
		}
	})
}

func changes(t *testing.T, g ground) map[string]string {
	t.Helper()
	c, err := g.Changes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAddStoresAModelThatIsServedAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, g ground) {
		if _, err := g.Add(t.Context(), described("mine", "1", "one"), file(t, "other")); !errors.Is(err, ErrDigest) {
			t.Errorf("other weights: %v", err)
		}
		if list, err := g.List(t.Context()); err != nil || len(list) != 0 {
			t.Fatalf("what was refused left %v, %v", list, err)
		}
		add(t, g, described("mine", "1", "one"), "one")

		// The same model again changes nothing, least of all thresholds that
		// were set since.
		tuned := described("mine", "1", "one")
		tuned.File, tuned.Thresholds = kept(tuned.SHA256), map[string]float64{"*": 0.9}
		g.write(t, "mine/manifest.json", text(t, tuned))
		if m := add(t, g, described("mine", "1", "one"), "one"); m.Thresholds["*"] != 0.9 {
			t.Errorf("thresholds are %v now", m.Thresholds)
		}
		if _, err := g.Add(t.Context(), described("mine", "1", "two"), file(t, "two")); !errors.Is(err, ErrExists) {
			t.Errorf("other weights under the same version: %v", err)
		}
		before, err := g.Fetch(t.Context(), "mine")
		if err != nil {
			t.Fatal(err)
		}
		add(t, g, described("mine", "2", "two"), "two")
		if _, err := os.Stat(before.Weights); err != nil {
			t.Errorf("who has just read the manifest of before: %v", err)
		}
		add(t, g, described("mine", "3", "three"), "three")
		files, err := g.place.files(t.Context(), "mine")
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(files)
		want := []string{manifest.File, kept(described("mine", "", "two").SHA256), kept(described("mine", "", "three").SHA256)}
		if slices.Sort(want); !slices.Equal(files, want) {
			t.Errorf("%v lie there, want %v", files, want)
		}
	})
}

// add adds a model and fetches it.
func add(t *testing.T, g ground, m manifest.Manifest, weights string) manifest.Manifest {
	t.Helper()
	stored, err := g.Add(t.Context(), m, file(t, weights))
	if err != nil {
		t.Fatal(err)
	}
	f, err := g.Fetch(t.Context(), m.Name)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(f.Weights); err != nil || string(b) != weights || f.Manifest.Version != m.Version {
		t.Fatalf("%q of version %s, %v, want %q of %s", b, f.Manifest.Version, err, weights, m.Version)
	}
	return stored
}

// Weights that lie in the model's folder stay there, under their name.
func TestAddTakesWhatLiesThere(t *testing.T) {
	root := t.TempDir()
	r, err := Open(t.Context(), root, objectstoretest.NewServer(t).Config(), "")
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(root, "mine", "best.onnx")
	if err := errors.Join(os.Mkdir(filepath.Dir(at), 0o700), os.WriteFile(at, []byte("weights"), 0o600)); err != nil {
		t.Fatal(err)
	}
	m, err := r.Add(t.Context(), described("mine", "1", "weights"), at)
	if err != nil || m.File != "best.onnx" {
		t.Fatalf("%s, %v", m.File, err)
	}
	if f, err := r.Fetch(t.Context(), "mine"); err != nil || f.Weights != at {
		t.Errorf("%s, %v", f.Weights, err)
	}
}

// What cannot be reached is no fault of a model, and a download that breaks off
// leaves nothing that is taken for weights.
func TestStoreThatIsAway(t *testing.T) {
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	m := described("mine", "1", "weights")
	err := errors.Join(store.EnsureBucket(t.Context()), store.Put(t.Context(), "mine/manifest.json", []byte(text(t, m)), ""),
		store.Put(t.Context(), "mine/model.onnx", []byte("weights"), ""))
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	r, err := Open(t.Context(), "s3://leafcutter/models", server.Config(), cache)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	server.Corrupt("leafcutter", "mine/model.onnx")
	if _, err := r.Fetch(t.Context(), "mine"); err == nil {
		t.Error("weights that broke on their way were taken")
	}
	if left, err := filepath.Glob(filepath.Join(cache, "weights", "*")); err != nil || len(left) != 0 {
		t.Errorf("the cache has %v, %v", left, err)
	}
	url := server.Config()
	url.Endpoint = "http://127.0.0.1:1"
	away, err := Open(t.Context(), "s3://leafcutter/models", url, cache)
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	if list, err := away.List(t.Context()); err == nil || aboutModel(err) {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := away.Fetch(t.Context(), "mine"); err == nil || aboutModel(err) || errors.Is(err, ErrDigest) {
		t.Errorf("fetch: %v", err)
	}
}

func TestOpenRefusesWhatIsNoPlace(t *testing.T) {
	s3 := objectstoretest.NewServer(t).Config()
	for location, want := range map[string]string{
		"": "no folder", "s3://": "no bucket", "s3://B/models": "not a bucket", "s3://leafcutter/../else": "no prefix", "s3://leafcutter": "s3://leafcutter/models", "s3://leafcutter//": "no prefix",
	} {
		if _, err := Open(t.Context(), location, s3, t.TempDir()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", location, err, want)
		}
	}
	if _, err := Open(t.Context(), "s3://leafcutter/models", s3, ""); err == nil || !strings.Contains(err.Error(), "LEAFCUTTER_CACHE_DIR") {
		t.Errorf("without a cache: %v", err)
	}
	r, err := Open(t.Context(), filepath.Join(t.TempDir(), "none"), s3, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.List(t.Context()); !errors.Is(err, ErrAbsent) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
