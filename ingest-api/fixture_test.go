package ingestapi_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"

	"leafcutter/deploy/local/localtest"
	ingestapi "leafcutter/ingest-api"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/program"
	"leafcutter/pkg/telemetry"
	"leafcutter/schemas"
	tables "leafcutter/schemas/clickhouse"
)

// world is the API at work on real servers: the embedded Kafka, S3 and ClickHouse, each a process of its own.
type world struct {
	*testing.T
	broker  *localtest.Broker
	objects *localtest.Objects
	sql     *localtest.SQL

	cfg   ingestapi.Config
	store *objectstore.Store
	db    *clickhouse.DB
	base  string
	api   *client.Client
	asked int // how often records was called
	stop  func()
}

// start starts the servers and the API; change may alter its configuration.
func start(t *testing.T, change func(*ingestapi.Config)) *world {
	t.Helper()
	w := &world{T: t, broker: localtest.StartBroker(t), objects: localtest.StartObjects(t), sql: localtest.StartSQL(t)}
	if err := env.ParseWithOptions(&w.cfg, env.Options{Environment: map[string]string{
		"LEAFCUTTER_API_ADDR": localtest.FreeAddr(t), "LEAFCUTTER_SPOOL_DIR": t.TempDir(), "KAFKA_BROKERS": w.broker.Addr,
		"AWS_ENDPOINT_URL": w.objects.URL, "AWS_ACCESS_KEY_ID": w.objects.AccessKey, "AWS_SECRET_ACCESS_KEY": w.objects.SecretKey,
		"S3_FORCE_PATH_STYLE": "true", "S3_BUCKET": w.objects.Bucket,
		"CLICKHOUSE_ADDR": w.sql.Addr, "CLICKHOUSE_USER": w.sql.User, "CLICKHOUSE_PASSWORD": w.sql.Password,
		"LEAFCUTTER_PRODUCE_TIMEOUT": "3s", "LEAFCUTTER_QUERY_TIMEOUT": "10s",
		"LEAFCUTTER_WEBHOOK_SECRET": webhookSecret, "LEAFCUTTER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.1/32",
		"LEAFCUTTER_WEBHOOK_TIMEOUT": "3s", "LEAFCUTTER_WEBHOOK_RETRIES": "100ms,100ms",
	}}); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&w.cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if _, err = kafka.Apply(ctx, w.cfg.Kafka, schemas.Topics(), 0); err != nil {
		t.Fatal(err)
	}
	if err = clickhouse.Migrate(ctx, w.cfg.ClickHouse, tables.Migrations, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if w.store, err = objectstore.Open(ctx, w.cfg.S3); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	if w.db, err = clickhouse.Open(ctx, w.cfg.ClickHouse); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	w.base = "http://" + w.cfg.Addr
	w.run()
	transport := &http.Transport{ExpectContinueTimeout: time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	w.api, err = client.New(w.base, client.WithHTTPClient(&http.Client{Transport: transport}), client.WithPolling(50*time.Millisecond), client.WithRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	w.until("the API is ready", func() bool { return w.status("/readyz") == http.StatusOK })
	return w
}

// run runs the API until the test ends.
func (w *world) run() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	t, err := telemetry.Start(ctx, "ingest-api", "test", telemetry.Config{LogLevel: "info", LogFormat: "text"}, os.Stderr)
	if err != nil {
		w.Fatal(err)
	}
	p := &program.Program{Name: "ingest-api", Version: "test", Logger: slog.New(slog.DiscardHandler), Telemetry: t, Health: program.NewHealth()}
	ended := make(chan error, 1)
	go func() { ended <- ingestapi.Run(ctx, p, w.cfg) }()
	w.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.Errorf("the API ended with %v", err)
		}
		if err := t.Shutdown(context.Background()); err != nil {
			w.Error(err)
		}
	})
}

func (w *world) until(what string, ok func() bool) {
	w.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.Fatalf("30 s passed before %s", what)
		}
		time.Sleep(20 * time.Millisecond) // between two looks, not to synchronise
	}
}

// get asks for path and returns the answer with its body read.
func (w *world) get(path string, headers ...string) (reply, []byte) {
	w.Helper()
	r, err := http.NewRequest(http.MethodGet, w.base+path, nil)
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.Fatal(err)
	}
	return reply{StatusCode: response.StatusCode, Header: response.Header}, body
}

// reply is the head of an answer.
type reply struct {
	StatusCode int
	Header     http.Header
}

func (w *world) status(path string) int {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequest(http.MethodGet, w.base+path, nil)
	if err != nil {
		w.Fatal(err)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}
