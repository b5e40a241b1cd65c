package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// asChild makes the test binary stand in for the servers that up starts: it runs until it is told to stop.
const asChild = "LEAFCUTTER_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// interruptedAt runs a command, cancels it once it has said a text, and gives its exit code.
func interruptedAt(t *testing.T, text string, environ []string, args ...string) (int, string) {
	t.Helper()
	out, errs, ended := newHeard(), newHeard(), make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		ended <- (&terminal{version: "test", in: strings.NewReader(""), out: out, err: errs, environ: environ}).run(ctx, args)
	}()
	errs.until(t, text)
	cancel()
	select {
	case code := <-ended:
		return code, errs.String()
	case <-time.After(30 * time.Second):
		t.Fatalf("it goes on:\n%s", errs)
		return 0, ""
	}
}

func TestInterruptedIsNotDone(t *testing.T) {
	t.Run("init", func(t *testing.T) {
		code, said := interruptedAt(t, "waiting for S3", []string{"AWS_ENDPOINT_URL=http://127.0.0.1:1", "S3_FORCE_PATH_STYLE=true", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}, "init", "--wait", "1h")
		if code != exitInterrupted || !strings.HasSuffix(said, "\nleafcutter: interrupted\n") {
			t.Errorf("exit status %d:\n%s", code, said)
		}
	})
	for _, args := range [][]string{{"topics", "apply"}, {"migrate"}, {"query", "SELECT 1"}} {
		t.Run(args[0], func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			errs := newHeard()
			code := (&terminal{out: newHeard(), err: errs, environ: []string{"KAFKA_BROKERS=127.0.0.1:1", "CLICKHOUSE_ADDR=127.0.0.1:1"}}).run(ctx, args)
			if code != exitInterrupted || errs.String() == "" {
				t.Errorf("exit status %d: %q", code, errs)
			}
		})
	}
}

func TestUpInterruptedWhileItStarts(t *testing.T) {
	root := t.TempDir()
	for _, path := range []string{"bin/ingest-api", "bin/page-splitter", "bin/detector", "bin/annotator", "bin/recorder", "onnx", "chdb", "models/m/manifest.json"} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{asChild + "=1", "LEAFCUTTER_BIN_DIR=" + filepath.Join(root, "bin"), "LEAFCUTTER_ONNXRUNTIME_LIB=" + filepath.Join(root, "onnx"),
		"LEAFCUTTER_CHDB_LIB=" + filepath.Join(root, "chdb"), "LEAFCUTTER_MODELS_DIR=" + filepath.Join(root, "models")}
	code, said := interruptedAt(t, "starting servers", environ, "up", "--data-dir", filepath.Join(root, "data"), "--any-port",
		"--api-port", "0", "--kafka-port", "0", "--s3-port", "0", "--clickhouse-port", "0")
	if code != exitInterrupted || said != "starting servers …\nleafcutter: interrupted\n" {
		t.Errorf("exit status %d:\n%s", code, said)
	}
}

func TestFaultsBesideAnInterruptAreTold(t *testing.T) {
	for _, c := range []struct {
		err  error
		only bool
	}{
		{context.Canceled, true},
		{fmt.Errorf("ask: %w", context.Canceled), true},
		{errors.Join(context.Canceled, fmt.Errorf("b: %w", context.Canceled)), true},
		{errors.Join(fmt.Errorf("a.pdf: %w", context.Canceled), errors.New("b.pdf: not found")), false},
		{errors.New("disk full"), false},
		{context.DeadlineExceeded, false},
	} {
		if got := onlyCancelled(c.err); got != c.only {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

func TestWrongUseAndFailure(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
	}{{[]string{"nonsense"}, exitUsage}, {[]string{"submit"}, exitUsage}, {[]string{"version"}, exitDone},
		{[]string{"query", "--clickhouse", "127.0.0.1:1", "SELECT 1"}, exitFailed}} {
		if code := (&terminal{out: io.Discard, err: io.Discard}).run(t.Context(), c.args); code != c.code {
			t.Errorf("%v: exit status %d, want %d", c.args, code, c.code)
		}
	}
}

// A data directory that is named and has no pipeline is not another pipeline's.
func TestNamedDataDirectoryIsNotAnotherOne(t *testing.T) {
	empty := t.TempDir()
	at := func(w where, needs server, environ ...string) (string, error) {
		w, err := (&terminal{environ: append(environ, "XDG_DATA_HOME="+empty)}).resolve(w, needs)
		return *needs.of(&w), err
	}
	for _, args := range [][]string{{"submit", "--data-dir", empty, "x.pdf"}, {"query", "--data-dir", empty, "SELECT 1"}, {"status", "--data-dir", empty, "0195"}} {
		errs := newHeard()
		code := (&terminal{out: newHeard(), err: errs}).run(t.Context(), args)
		if code != exitFailed || !strings.Contains(errs.String(), "no pipeline runs on "+empty) {
			t.Errorf("%v: exit status %d: %s", args, code, errs)
		}
	}
	if got, err := at(where{}, theSQL, "LEAFCUTTER_DATA_DIR="+empty); err == nil || !strings.Contains(err.Error(), empty) {
		t.Errorf("%q %v", got, err)
	}
	if got, err := at(where{data: empty, sql: "h:1"}, theSQL); err != nil || got != "http://h:1" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := at(where{}, theAPI, "LEAFCUTTER_DATA_DIR="+empty, "LEAFCUTTER_API=https://h"); err != nil || got != "https://h" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := at(where{}, theAPI); err != nil || got != theAPI.usual {
		t.Errorf("%q %v", got, err)
	}
}

// Of several documents the failed one is told last, and hides nothing of the others.
func TestOneFailedDocumentHidesNoOther(t *testing.T) {
	dir := t.TempDir()
	good, missing := filepath.Join(dir, "good.pdf"), filepath.Join(dir, "missing.pdf")
	if err := os.WriteFile(good, []byte("%PDF-1.7"), 0o600); err != nil {
		t.Fatal(err)
	}
	const id = "0198a000-0000-7000-8000-00000000000a"
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("POST /v1/documents", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w, http.StatusAccepted, api.Accepted{DocumentID: id, State: schemas.Queued})
	})
	mux.HandleFunc("GET /v1/documents/{id}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, api.Document{Summary: api.Summary{DocumentID: id, State: schemas.Completed}})
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		question, _ := io.ReadAll(r.Body)
		if strings.Contains(string(question), id) {
			_, _ = io.WriteString(w, "a table\n")
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	out := newHeard()
	err := (&terminal{out: out, err: newHeard()}).show(t.Context(), where{api: server.URL, sql: server.URL}, []string{missing, good})
	if err == nil || !strings.Contains(err.Error(), "missing.pdf") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(out.String(), "a table") || !strings.Contains(out.String(), "/documents/"+id) {
		t.Errorf("what was found is hidden:\n%s", out)
	}
}

// The pipeline's own S3 is empty when it starts, so models cannot come from there.
func TestUpTakesModelsFromAFolder(t *testing.T) {
	errs := newHeard()
	term := &terminal{out: newHeard(), err: errs, environ: []string{"LEAFCUTTER_MODELS_DIR=s3://leafcutter/models"}}
	if code := term.run(t.Context(), []string{"up", "--data-dir", t.TempDir()}); code != exitFailed || !strings.Contains(errs.String(), "takes models from a folder") {
		t.Errorf("exit status %d: %s", code, errs)
	}
}
