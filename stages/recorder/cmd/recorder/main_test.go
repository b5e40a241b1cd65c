package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	ddl "leafcutter/schemas/clickhouse"
)

// asProgram makes a test binary behave as the program itself.
const asProgram = "RECORDER_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func command(t *testing.T, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env = append([]string{asProgram + "=1", "HOME=" + t.TempDir()}, environ...)
	return c
}

func TestConfigVerify(t *testing.T) {
	out, err := command(t, nil, "-config.verify").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, value := range map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092", "CLICKHOUSE_ADDR": "127.0.0.1:8123",
		"LEAFCUTTER_BATCH_SIZE": "1000", "LEAFCUTTER_BATCH_DELAY": "1s", "LEAFCUTTER_BATCH_QUIET": "400ms", "LEAFCUTTER_WORKERS": "1", "LEAFCUTTER_OTLP_ADDR": ""} {
		if line := lineOf(string(out), name); !strings.Contains(line, name) || !strings.Contains(line, value) {
			t.Errorf("%s: %q, want %q", name, line, value)
		}
	}
	out, err = command(t, []string{"CLICKHOUSE_DATABASE=a b", "LEAFCUTTER_BATCH_SIZE=-1"}, "-config.verify").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Fatalf("%v, want exit code 2\n%s", err, out)
	}
	for _, fault := range []string{"CLICKHOUSE_DATABASE", "LEAFCUTTER_BATCH_SIZE"} {
		if !bytes.Contains(out, []byte(fault)) {
			t.Errorf("%s is not told:\n%s", fault, out)
		}
	}
}

func lineOf(out, name string) string {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, name+" ") {
			return line
		}
	}
	return ""
}

// process is a running recorder.
type process struct {
	cmd   *exec.Cmd
	admin string
	log   *bytes.Buffer
}

func startProcess(t *testing.T, environ ...string) *process {
	t.Helper()
	file := filepath.Join(t.TempDir(), "admin")
	p := &process{log: &bytes.Buffer{}}
	p.cmd = command(t, append(environ, "LEAFCUTTER_ADMIN_ADDR=127.0.0.1:0", "LEAFCUTTER_ADMIN_FILE="+file))
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	eventually(t, "the recorder is ready", func() error {
		addr, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		p.admin = strings.TrimSpace(string(addr))
		resp, err := http.Get("http://" + p.admin + "/readyz")
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return errors.Join(errors.New(resp.Status), resp.Body.Close())
		}
		return resp.Body.Close()
	})
	return p
}

func (p *process) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	err := p.cmd.Wait()
	if sig == syscall.SIGTERM && err != nil {
		t.Errorf("a stop is not a failure: %v\n%s", err, p.log)
	}
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not yet: %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond) // a poll with a deadline
	}
}

// bench is the servers that a recorder works between.
type bench struct {
	kafka    kafka.Config
	environ  []string
	db       *clickhouse.DB
	producer *stage.Producer
	events   *kgo.Client
	otlp     string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	broker, server := localtest.StartBroker(t), localtest.StartSQL(t)
	ctx := context.Background()
	b := &bench{kafka: kafka.Config{Brokers: []string{broker.Addr}, SessionTimeout: 6 * time.Second}, otlp: localtest.FreeAddr(t)}
	if _, err := kafka.Apply(ctx, b.kafka, schemas.Topics("layout_cdla"), 4); err != nil {
		t.Fatal(err)
	}
	cfg := clickhouse.Config{Addr: []string{server.Addr}, Database: server.Database, User: server.User, Password: server.Password, Timeout: 30 * time.Second}
	if err := clickhouse.Migrate(ctx, cfg, ddl.Migrations, nil); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.db, err = clickhouse.Open(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if b.producer, err = stage.NewProducer(b.kafka, nil); err != nil {
		t.Fatal(err)
	}
	if b.events, err = kafka.NewClient(b.kafka, kgo.ConsumeTopics(schemas.TopicDocumentEvents), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.events.Close()
		b.producer.Close()
		if err := b.db.Close(); err != nil {
			t.Error(err)
		}
	})
	b.environ = []string{"KAFKA_BROKERS=" + broker.Addr, "KAFKA_SESSION_TIMEOUT=6s", "CLICKHOUSE_ADDR=" + server.Addr,
		"CLICKHOUSE_DATABASE=" + server.Database, "CLICKHOUSE_USER=" + server.User, "CLICKHOUSE_PASSWORD=" + server.Password,
		"LEAFCUTTER_OTLP_ADDR=" + b.otlp, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + b.otlp + "/v1/traces", "OTEL_BSP_SCHEDULE_DELAY=200"}
	return b
}

func (b *bench) produce(t *testing.T, records ...schemas.Result) {
	t.Helper()
	for _, r := range records {
		out, err := stage.Emit(schemas.TopicResults, r.Document(), r)
		if err == nil {
			err = b.producer.Produce(context.Background(), out)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// text gives a query's only value.
func (b *bench) text(query string) (string, error) {
	var s string
	err := b.db.QueryRow(context.Background(), query).Scan(&s)
	return s, err
}

func (b *bench) await(t *testing.T, query, want string) {
	t.Helper()
	eventually(t, want, func() error {
		got, err := b.text(query)
		if err == nil && got != want {
			err = fmt.Errorf("%q", got)
		}
		return err
	})
}

// ends reads what has been said on document-events since then, until n different ends have been seen.
func (b *bench) ends(t *testing.T, n int, since time.Time) map[string]schemas.RunEnded {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ends := map[string]schemas.RunEnded{}
	for len(ends) < n {
		fetches := b.events.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("%d of %d ends: %v", len(ends), n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			e, err := schemas.Unmarshal[schemas.RunEnded](r.Value)
			if err != nil || string(r.Key) != e.DocumentID {
				t.Fatalf("%v: %s", err, r.Value)
			}
			if !r.Timestamp.Before(since) {
				ends[e.ID] = e
			}
		})
	}
	return ends
}

const document = "0198a000-0000-7000-8000-%012d"

func runOf(n, pages int) schemas.Run {
	o := schemas.RunOptions{Model: "layout_cdla", ModelDigest: "d", DPI: 108, Thresholds: map[string]float64{"*": 0.4}, Renderer: "r"}
	id := fmt.Sprintf(document, n)
	return schemas.Run{DocumentID: id, RunID: schemas.RunID(id, o), SubmittedAt: time.Now().UTC(), Source: "s3://b/x",
		ContentType: "application/pdf", PagesSelected: pages, Options: o}
}

func opening(r schemas.Run) []schemas.Result {
	return []schemas.Result{
		schemas.DocumentAccepted{DocumentID: r.DocumentID, Title: "T", Source: r.Source, SubmittedAt: r.SubmittedAt, PageCount: r.PagesSelected},
		schemas.RunPlanned{Run: r, PlannedAt: r.SubmittedAt},
	}
}

func page(r schemas.Run, n int) schemas.PageDone {
	return schemas.PageDone{RenderedPage: schemas.RenderedPage{Run: r, Page: n, ImageKey: "k", Width: 10, Height: 10, DPI: 108},
		Boxes: []schemas.CutBox{{Box: schemas.Box{Class: "title", Score: 0.9, Rect: [4]float64{1, 2, 3, 4}}}}}
}

func TestRecorderProcess(t *testing.T) {
	b := newBench(t)
	p := startProcess(t, b.environ...)

	// Nobody serves the model yet.
	one := runOf(1, 2)
	b.produce(t, opening(one)...)
	state := "SELECT state FROM document_status WHERE document_id = '" + one.DocumentID + "'"
	b.await(t, state, "waiting-for-model")

	// A record that comes alone can be read before its run's next one comes.
	began := time.Now().Truncate(time.Millisecond)
	b.produce(t, page(one, 1))
	b.await(t, state, "running")
	t.Logf("a lone page took %s to land", time.Since(began))
	b.produce(t, page(one, 2))
	for _, e := range b.ends(t, 1, began) {
		// The event comes after the rows: what it says can be read at once.
		got, err := b.text("SELECT concat(state, ' ', toString(boxes), ' ', toString((SELECT count() FROM detections))) FROM document_status WHERE document_id = '" + e.DocumentID + "'")
		if err != nil || got != "completed 2 2" {
			t.Errorf("%q %v", got, err)
		}
		if e.RunID != one.RunID || e.State != schemas.Completed || e.Title != "T" {
			t.Errorf("%+v", e)
		}
	}

	// Killed in the middle of many, and started again.
	const documents, pages = 30, 8
	for n := range documents {
		run := runOf(100+n, pages)
		b.produce(t, opening(run)...)
		for i := range pages {
			b.produce(t, page(run, i+1))
		}
		if n == documents/2 {
			p.end(t, syscall.SIGKILL)
			p = startProcess(t, b.environ...)
		}
	}
	b.ends(t, documents, began)
	b.await(t, "SELECT toString((countIf(state = 'completed'), sum(pages_done), sum(boxes))) FROM runs FINAL", fmt.Sprintf("(%d,%d,%d)", documents+1, documents*pages+2, documents*pages+2))
	before := b.fingerprints(t)

	// Spans of all that are beside the results.
	eventually(t, "spans of the recorder", func() error {
		n, err := b.text("SELECT toString(count()) FROM otel_traces WHERE ServiceName = 'recorder'")
		if err == nil && n == "0" {
			err = errors.New("none")
		}
		return err
	})
	p.end(t, syscall.SIGTERM)

	// Another group reads the topic from its start, into the same tables.
	restarted := time.Now().Truncate(time.Millisecond)
	// Its spans are all sent at its end, into its own receiver, which must be there still.
	spans := "SELECT toString(count()) FROM otel_traces WHERE ServiceName = 'recorder' AND Timestamp >= fromUnixTimestamp64Milli(" + fmt.Sprint(restarted.UnixMilli()) + ")"
	replay := startProcess(t, append(b.environ, "LEAFCUTTER_GROUP_PREFIX=replay-", "OTEL_BSP_SCHEDULE_DELAY=600000")...)
	again := b.ends(t, documents+1, restarted)
	for _, e := range again {
		if e.State != schemas.Completed {
			t.Errorf("%+v", e)
		}
	}
	replay.end(t, syscall.SIGTERM)
	if n, err := b.text(spans); err != nil || n == "0" {
		t.Errorf("%s spans of the last recorder, %v", n, err)
	}
	for _, one := range []*process{p, replay} {
		if strings.Contains(one.log.String(), "connection refused") {
			t.Errorf("its last spans found nobody:\n%s", one.log)
		}
	}
	if after := b.fingerprints(t); after != before {
		t.Errorf("%v became %v by a replay", before, after)
	}
}

// fingerprints stand for all that the tables answer, but for the versions of rows.
func (b *bench) fingerprints(t *testing.T) (sums [3]string) {
	t.Helper()
	for i, table := range []string{"documents", "runs", "page_results"} {
		var err error
		sums[i], err = b.text("SELECT toString((sum(cityHash64(toString(tuple(* EXCEPT version)))), count())) FROM " + table + " FINAL")
		if err != nil {
			t.Fatal(err)
		}
	}
	return sums
}
