// Package e2e tests the whole product: `leafcutter up` as it is built by `make build`, with documents put in by every
// front door and results read by the clients that users have.
package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// shared is the pipeline of all tests that do no harm to it.
var shared pipeline.Shared

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	// The tests wait for other processes nearly all of their time: how many go side by side is no matter of processors.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shared.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// patience bounds one wait for the pipeline: far above what a busy machine takes, below the suite's own limit.
const patience = 2 * time.Minute

// within is a context that ends with the test, or when patience does.
func within(t testing.TB) context.Context {
	t.Helper()
	return bounded(t, patience)
}

func bounded(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// must is the value of a call that has to succeed: must(os.ReadFile(path))(t).
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// submit uploads a document and gives its id.
func submit(ctx context.Context, t testing.TB, p *pipeline.Pipeline, f corpus.File, o client.Options) string {
	t.Helper()
	accepted, err := p.Client.Submit(ctx, f.Name, bytes.NewReader(f.Data), o)
	if err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
	return accepted.DocumentID
}

// await waits until a document has ended in the state given.
func await(ctx context.Context, t testing.TB, p *pipeline.Pipeline, id string, want schemas.State) *api.Document {
	t.Helper()
	d, err := p.Client.Wait(ctx, id, nil)
	if err != nil {
		t.Fatalf("document %s: %v", id, err)
	}
	if d.State != want {
		t.Fatalf("document %s (%s) is %s (%s: %s; failures %+v), want %s", id, d.Title, d.State, d.Code, d.Error, d.Failures, want)
	}
	return d
}

// eventually waits until a condition holds; it says what does not.
func eventually(ctx context.Context, t testing.TB, what string, holds func() (bool, error)) {
	t.Helper()
	for {
		yes, err := holds()
		if err == nil && yes {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still not so (last error: %v)", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sample is the document of docs/samples.
func sample(t testing.TB) corpus.File {
	t.Helper()
	root := must(pipeline.Root())(t)
	return corpus.File{Name: "leafcutter.pdf", Data: must(os.ReadFile(filepath.Join(root, "docs", "samples", "leafcutter.pdf")))(t)}
}
