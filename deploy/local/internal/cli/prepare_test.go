package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/config"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
)

// heard is an output that a test waits on: each write is announced.
type heard struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func newHeard() *heard { return &heard{wrote: make(chan struct{}, 1)} }

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.wrote <- struct{}{}:
	default:
	}
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// until waits for a text.
func (h *heard) until(t *testing.T, text string) {
	t.Helper()
	for deadline := time.After(20 * time.Second); !strings.Contains(h.String(), text); {
		select {
		case <-h.wrote:
		case <-deadline:
			t.Fatalf("%q was not said:\n%s", text, h)
		}
	}
}

// run is one call of the command line with an environment of its own.
func run(t *testing.T, out, errs *heard, environ []string, args ...string) error {
	term := &terminal{version: "test", in: strings.NewReader(""), out: out, err: errs, environ: environ}
	root := term.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	return root.ExecuteContext(t.Context())
}

func TestInitMakesWhatStagesNeed(t *testing.T) {
	broker, objects, sql := localtest.StartBroker(t), localtest.StartObjects(t), localtest.StartSQL(t)
	s := servers{
		Kafka: kafka.Config{Brokers: []string{broker.Addr}, SessionTimeout: 10 * time.Second},
		Objects: objectstore.Config{Endpoint: objects.URL, Region: objects.Region, AccessKeyID: objects.AccessKey, SecretAccessKey: objects.SecretKey,
			Bucket: "made-by-init", ForcePathStyle: true, Checksum: "when-supported", Connections: 4},
		ClickHouse: clickhouse.Config{Addr: []string{sql.Addr}, Database: "made_by_init", User: sql.User, Password: sql.Password, Timeout: time.Minute},
	}
	environ := []string{
		"KAFKA_BROKERS=" + broker.Addr, "CLICKHOUSE_ADDR=" + sql.Addr, "CLICKHOUSE_USER=" + sql.User, "CLICKHOUSE_PASSWORD=" + sql.Password,
		"CLICKHOUSE_DATABASE=made_by_init", "AWS_ENDPOINT_URL=" + objects.URL, "AWS_REGION=" + objects.Region, "S3_FORCE_PATH_STYLE=true",
		"AWS_ACCESS_KEY_ID=" + objects.AccessKey, "AWS_SECRET_ACCESS_KEY=" + objects.SecretKey, "S3_BUCKET=made-by-init",
	}

	// The first call finds no S3 and waits for it.
	objects.Stop()
	out, errs, ended := newHeard(), newHeard(), make(chan error, 1)
	go func() { ended <- run(t, out, errs, environ, "init", "--partitions", "3") }()
	errs.until(t, "waiting for S3")
	objects.Restart()
	if err := <-ended; err != nil {
		t.Fatalf("init: %v\n%s", err, errs)
	}
	for _, part := range []string{"bucket made-by-init is there\n", "made documents\n", "made pages.layout_cdla.bulk\n", "tables of database made_by_init"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not in:\n%s", part, out)
		}
	}

	store, err := objectstore.Open(t.Context(), s.Objects)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Put(t.Context(), "documents/one", []byte("here"), "text/plain"); err != nil {
		t.Error(err)
	}
	if made, err := kafka.Apply(t.Context(), s.Kafka, schemas.Topics("layout_cdla"), 3); err != nil || len(made) > 0 {
		t.Errorf("topics still missing: %v, %v", made, err)
	}
	db, err := clickhouse.Open(t.Context(), s.ClickHouse)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, table := range []string{"documents", "runs", "page_results", "detections", "document_status", "otel_traces"} {
		if err := db.Exec(t.Context(), "SELECT * FROM "+table+" LIMIT 0"); err != nil {
			t.Errorf("%s: %v", table, err)
		}
	}

	// The second call has nothing to do, and harms nothing.
	again := newHeard()
	if err := run(t, again, errs, environ, "init", "--partitions", "3"); err != nil {
		t.Fatalf("init again: %v", err)
	}
	if strings.Contains(again.String(), "made documents") {
		t.Errorf("made again:\n%s", again)
	}
	if kept, err := store.Get(t.Context(), "documents/one", 100); err != nil || string(kept) != "here" {
		t.Errorf("the object is now %q, %v", kept, err)
	}
}

func TestInitGivesUpAndSaysOnWhat(t *testing.T) {
	environ := []string{"AWS_ENDPOINT_URL=http://127.0.0.1:1", "S3_FORCE_PATH_STYLE=true", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}
	out, errs := newHeard(), newHeard()
	err := run(t, out, errs, environ, "init", "--wait", "300ms")
	if err == nil || !strings.Contains(err.Error(), "S3 is not there") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root := (&terminal{out: out, err: errs, environ: environ}).root()
	root.SetArgs([]string{"init", "--wait", "1h"})
	if err := root.ExecuteContext(ctx); err == nil {
		t.Error("a cancelled init is done")
	}
}

func TestInitTellsItsVariables(t *testing.T) {
	out, errs := newHeard(), newHeard()
	if err := run(t, out, errs, nil, "init", "--config.list"); err != nil {
		t.Fatal(err)
	}
	var listed []config.Variable
	if err := json.Unmarshal(out.text.Bytes(), &listed); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	names := map[string]bool{}
	for _, v := range listed {
		names[v.Name] = true
	}
	for _, name := range []string{"KAFKA_BROKERS", "S3_BUCKET", "AWS_SECRET_ACCESS_KEY", "CLICKHOUSE_ADDR"} {
		if !names[name] {
			t.Errorf("%s is not listed", name)
		}
	}
	out = newHeard()
	if err := run(t, out, errs, []string{"CLICKHOUSE_PASSWORD=hunter2"}, "init", "--config.verify"); err != nil || strings.Contains(out.String(), "hunter2") {
		t.Errorf("verified: %v\n%s", err, out)
	}
	if err := run(t, out, errs, []string{"S3_BUCKET=Not A Bucket"}, "init", "--config.verify"); err == nil || !strings.Contains(err.Error(), "S3_BUCKET") {
		t.Errorf("a bad bucket: %v", err)
	}
}
