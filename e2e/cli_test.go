package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"leafcutter/e2e/corpus"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// The command line puts documents through, answers questions and says what it did by its exit status.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	dir := t.TempDir()
	good, bad, text := filepath.Join(dir, "good.pdf"), filepath.Join(dir, "bad.pdf"), filepath.Join(dir, "text.pdf")
	ok(t, os.WriteFile(good, corpus.Report(2, 6), 0o600))
	ok(t, os.WriteFile(bad, corpus.NoPages(), 0o600))
	ok(t, os.WriteFile(text, []byte("no document"), 0o600))
	run := func(want int, args ...string) (string, string) {
		t.Helper()
		out, code, err := p.CLI(ctx, nil, args...)
		ok(t, err)
		if code != want {
			t.Errorf("leafcutter %s: exit status %d, want %d\n%s", strings.Join(args, " "), code, want, out)
		}
		return string(out.Stdout), string(out.Stderr)
	}
	on := []string{"--data-dir", p.Data}
	with := func(args ...string) []string { return append(args, on...) }

	out, _ := run(0, with("submit", "--wait", "--json", "--title", "By hand", good)...)
	var d api.Document
	ok(t, json.Unmarshal([]byte(out), &d))
	if d.State != schemas.Completed || d.Title != "By hand" || d.PagesDone != 2 {
		t.Errorf("submit --wait --json: %s", out)
	}
	out, _ = run(0, with("submit", "--json", good)...)
	var a api.Accepted
	ok(t, json.Unmarshal([]byte(out), &a))
	if a.State != schemas.Queued || !schemas.IsUUID(a.DocumentID) {
		t.Errorf("submit --json: %s", out)
	}
	if out, errs := run(1, with("submit", "--wait", bad, good)...); !strings.Contains(errs, "no-pages") || !strings.Contains(out, "completed") {
		t.Errorf("submit of a bad and a good file: %s%s", out, errs)
	}
	if _, errs := run(1, with("submit", text)...); !strings.Contains(errs, "unsupported-file-type") {
		t.Errorf("submit of text: %s", errs)
	}
	run(1, with("submit", filepath.Join(dir, "nowhere.pdf"))...)
	run(2, with("submit", "--threshold", "title=high", good)...)

	count := "SELECT count() FROM page_results FINAL WHERE document_id = '" + d.DocumentID + "'"
	if out, _ := run(0, with("query", "-f", "TSV", count)...); out != "2\n" {
		t.Errorf("query: %q", out)
	}
	piped, code, err := p.CLI(ctx, strings.NewReader(count), with("query", "-f", "TSV")...)
	ok(t, err)
	if code != 0 || string(piped.Stdout) != "2\n" {
		t.Errorf("query from standard input: %d %s", code, piped)
	}
	if _, errs := run(1, with("query", "SELECT nothing FROM nowhere")...); errs == "" {
		t.Error("a faulty query says nothing")
	}
	if _, errs := run(1, with("query", "INSERT INTO runs (run_id) VALUES (generateUUIDv4())")...); errs == "" {
		t.Error("a query that writes says nothing")
	}
	run(2, with("query", "")...)

	out, _ = run(0, with("status", d.DocumentID, "-o", "json")...)
	var again api.Document
	ok(t, json.Unmarshal([]byte(out), &again))
	if again.DocumentID != d.DocumentID || again.State != schemas.Completed {
		t.Errorf("status of a document: %s", out)
	}
	run(1, with("status", "00000000-0000-7000-8000-000000000000")...)
	out, _ = run(0, with("status", "-o", "env")...)
	shell := exec.CommandContext(ctx, "sh", "-c", out+`printf %s "$KAFKA_BROKERS $AWS_ENDPOINT_URL $CLICKHOUSE_ADDR $S3_BUCKET"`)
	said := must(shell.Output())(t)
	if want := p.Kafka + " " + p.S3 + " " + strings.TrimPrefix(p.SQL, "http://") + " " + p.S3Bucket; string(said) != want {
		t.Errorf("status -o env in a shell: %q, want %q", said, want)
	}
	out, _ = run(0, with("status")...)
	if at := must(url.Parse(p.API))(t); !strings.Contains(out, at.Host) {
		t.Errorf("status: %s", out)
	}
	if out, _ = run(0, with("doctor")...); strings.Contains(out, "BAD") {
		t.Errorf("doctor: %s", out)
	}

	elsewhere := []string{"--data-dir", filepath.Join(dir, "no-pipeline")}
	run(1, append([]string{"status"}, elsewhere...)...)
	run(1, append([]string{"submit", "--api", "http://127.0.0.1:1", good}, elsewhere...)...)
	run(2, "up", "--ephemeral", "--data-dir", dir)
	if _, errs := run(1, "up", "--any-port", "--data-dir", p.Data); !strings.Contains(errs, "--data-dir") {
		t.Errorf("a second up on the same data: %s", errs)
	}
	run(2, "no-such-command")
	run(0, "version")
	run(0, "--help")
}

// A wait that is interrupted ends with the status that a shell gives to what Ctrl-C ended: nothing was seen to complete.
func TestInterruptedWaitIsNoSuccess(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	file := filepath.Join(t.TempDir(), "long.pdf")
	ok(t, os.WriteFile(file, corpus.Report(20, 8), 0o600))
	cmd := exec.CommandContext(ctx, p.Binary("leafcutter"), "submit", "--wait", "--json", "--data-dir", p.Data, file)
	said := must(cmd.StderrPipe())(t)
	ok(t, cmd.Start())
	must(said.Read(make([]byte, 1)))(t) // a state, so it was accepted and is followed
	ok(t, cmd.Process.Signal(os.Interrupt))
	must(io.Copy(io.Discard, said))(t)
	var ended *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &ended) || ended.ExitCode() != 130 {
		t.Errorf("ends with %v, want exit status 130", err)
	}
}

// `up --submit FILE --exit` is the whole of it in one command: rows on the screen, and everything ends.
func TestUpSubmitExit(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "short.pdf")
	ok(t, os.WriteFile(file, corpus.Report(1, 1), 0o600))
	cmd := exec.CommandContext(ctx, p.Binary("leafcutter"), "up", "--ephemeral", "--any-port", "--api-port", "0", "--kafka-port", "0", "--s3-port", "0", "--clickhouse-port", "0", "--submit", file, "--exit")
	cmd.Env = append(os.Environ(), "CLICKHOUSE_USER=another-servers", "CLICKHOUSE_PASSWORD=x", "LEAFCUTTER_API=http://elsewhere")
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"class", "boxes", "text", "/documents/", "short.pdf", "ClickHouse", "detector"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("%v, and nothing of %q in:\n%s", err, want, out)
		}
	}
}
