package annotator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/annotator"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a store whose objects lie in memory. It counts what goes on at once.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	puts    int
	putting int
	most    int // puts at once
	fail    func(key string) error
	blocked chan struct{} // while it is open, puts wait for it or for their context
}

func newMemory() *memory { return &memory{objects: map[string][]byte{}} }

func (m *memory) Open(_ context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(key); err != nil {
			return nil, objectstore.Info{}, err
		}
	}
	body, ok := m.objects[key]
	if !ok {
		return nil, objectstore.Info{}, fault.AsPermanent(objectstore.CodeMissing, errors.New("no such object: "+key))
	}
	return io.NopCloser(bytes.NewReader(body)), objectstore.Info{Key: key, Size: int64(len(body))}, nil
}

func (m *memory) Put(ctx context.Context, key string, body []byte, contentType string) error {
	m.mu.Lock()
	m.putting++
	m.most = max(m.most, m.putting)
	blocked, fail := m.blocked, m.fail
	m.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.putting--
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if fail != nil {
		if err := fail(key); err != nil {
			return err
		}
	}
	if contentType != "image/png" {
		return errors.New("content type " + contentType)
	}
	m.puts++
	m.objects[key] = bytes.Clone(body)
	return nil
}

func (m *memory) Delete(_ context.Context, keys ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.objects, key)
	}
	return nil
}

func (m *memory) snapshot() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.objects)
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// page is the record of testdata: page 4 of docs/samples/leafcutter.pdf at 72 dpi, with the boxes that layout_cdla finds
// from its score floor of 0.25 on.
func page(t testing.TB) schemas.PageDetected {
	t.Helper()
	p, err := schemas.Unmarshal[schemas.PageDetected](testdata(t, "detected.json"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// splitterDid puts what the stages before have stored for p.
func splitterDid(t testing.TB, m *memory, p schemas.PageDetected) {
	t.Helper()
	m.objects[p.ImageKey] = testdata(t, "page.png")
	m.objects[p.TextKey] = testdata(t, "lines.json")
}

func config() annotator.Config {
	return annotator.Config{Crops: annotator.Eager, MaxPixels: 40_000_000, Uploads: 8}
}

func newAnnotator(t testing.TB, cfg annotator.Config, store annotator.Store) *annotator.Annotator {
	t.Helper()
	a, err := annotator.New(cfg, store, controls.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func in(t testing.TB, p schemas.PageDetected) stage.In {
	t.Helper()
	value, err := schemas.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return stage.In{Topic: schemas.TopicDetections, Key: p.Key(), Value: value, Attempt: 1}
}

// handle gives the PageDone of p.
func handle(t testing.TB, a *annotator.Annotator, p schemas.PageDetected) schemas.PageDone {
	t.Helper()
	result := a.Handle(t.Context(), in(t, p))
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return pageDone(t, result)
}

func pageDone(t testing.TB, result stage.Result) schemas.PageDone {
	t.Helper()
	if len(result.Out) != 1 || len(result.Failures) != 0 {
		t.Fatalf("%d records and %d failures", len(result.Out), len(result.Failures))
	}
	out := result.Out[0]
	done, err := schemas.Unmarshal[schemas.PageDone](out.Value)
	if err != nil {
		t.Fatal(err)
	}
	if out.Topic != schemas.TopicResults || out.Key != done.DocumentID || out.Headers[schemas.HeaderSchema] != "PageDone.v1" {
		t.Fatalf("to %s with key %s and schema %s", out.Topic, out.Key, out.Headers[schemas.HeaderSchema])
	}
	return done
}

// golden compares got with a file of testdata, or writes it.
func golden(t *testing.T, name string, got []byte) (want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", name), got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return testdata(t, name)
}

func indented(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}
