package sqlserver_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"leafcutter/deploy/local/localtest"
)

func TestTablesOfTheRecorder(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr,
		`CREATE TABLE leafcutter.page_results (submitted_at DateTime64(3, 'UTC'), document_id UUID, page UInt32, version UInt64, state LowCardinality(String),
			boxes Nested(class LowCardinality(String), score Float32, x0 Float32))
			ENGINE = ReplacingMergeTree(version) PARTITION BY toYYYYMM(submitted_at) ORDER BY (submitted_at, document_id, page)`,
		`CREATE VIEW leafcutter.detections AS SELECT document_id, page, k, class, score FROM leafcutter.page_results FINAL
			ARRAY JOIN boxes.class AS class, boxes.score AS score, arrayEnumerate(boxes.class) AS k`)
	row := func(page, version int, classes, scores string) string {
		return fmt.Sprintf("INSERT INTO leafcutter.page_results VALUES ('2026-01-02 03:04:05.678', '0190a0b0-0000-7000-8000-000000000001', %d, %d, 'done', %s, %s, %s)", page, version, classes, scores, scores)
	}
	must(t, addr, row(1, 2, "['title', 'table']", "[0.9, 0.5]"), row(1, 1, "['figure']", "[0.1]"), row(2, 1, "[]", "[]"), row(3, 1, "['title']", "[0.4]"), row(3, 3, "['title']", "[0.8]"))
	want(t, addr, "SELECT page, k, class, round(score, 1) FROM leafcutter.detections ORDER BY page, k", "1\t1\ttitle\t0.9\n1\t2\ttable\t0.5\n3\t1\ttitle\t0.8\n")
	want(t, addr, "SELECT class, count() FROM leafcutter.detections WHERE score >= 0.6 GROUP BY class", "title\t2\n")
	must(t, addr, "OPTIMIZE TABLE leafcutter.page_results FINAL")
	want(t, addr, "SELECT count() FROM leafcutter.page_results", "3\n")
	must(t, addr, "ALTER TABLE leafcutter.page_results DELETE WHERE page = 3 SETTINGS mutations_sync = 2")
	want(t, addr, "SELECT count() FROM leafcutter.detections", "2\n")
}

func TestRepeatedBatchIsInsertedOnce(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr, "CREATE TABLE leafcutter.t (n UInt32) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100")
	conn := connect(t, addr, clickhouse.CompressionLZ4)
	for _, token := range []string{"a", "a", "b", "a"} {
		ctx := clickhouse.Context(context.Background(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": token}))
		batch, err := conn.PrepareBatch(ctx, "INSERT INTO t")
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint32(10) {
			if err := batch.Append(n); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	want(t, addr, "SELECT count() FROM leafcutter.t", "20\n")
}

func TestGooseMigrates(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	db := clickhouse.OpenDB(&clickhouse.Options{Addr: []string{addr}, Protocol: clickhouse.HTTP,
		Auth: clickhouse.Auth{Database: "leafcutter", Username: "leafcutter", Password: password}})
	t.Cleanup(func() { _ = db.Close() })
	files := fstest.MapFS{
		"00001_tables.sql": {Data: []byte("-- +goose Up\nCREATE TABLE a (n UInt8) ENGINE = MergeTree ORDER BY n;\nCREATE VIEW b AS SELECT count() AS c FROM a;\n-- +goose Down\nDROP VIEW b;\nDROP TABLE a;\n")},
		"00002_column.sql": {Data: []byte("-- +goose Up\n-- +goose StatementBegin\nALTER TABLE a ADD COLUMN s String DEFAULT 'x;y';\n-- +goose StatementEnd\n-- +goose Down\nALTER TABLE a DROP COLUMN s;\n")},
	}
	ctx := context.Background()
	for range 2 { // the second run has nothing to do
		provider, err := goose.NewProvider(database.DialectClickHouse, db, files)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := provider.Up(ctx); err != nil {
			t.Fatal(err)
		}
		if version, err := provider.GetDBVersion(ctx); err != nil || version != 2 {
			t.Fatalf("version %d (%v), want 2", version, err)
		}
	}
	must(t, addr, "INSERT INTO leafcutter.a (n) VALUES (1)")
	want(t, addr, "SELECT n, s, c FROM leafcutter.a, leafcutter.b", "1\tx;y\t1\n")
	provider, err := goose.NewProvider(database.DialectClickHouse, db, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.DownTo(ctx, 0); err != nil {
		t.Fatal(err)
	}
	want(t, addr, "SELECT count() FROM system.tables WHERE database = 'leafcutter' AND name IN ('a', 'b')", "0\n")
}

func TestDataOutliveTheServer(t *testing.T) {
	dir := t.TempDir()
	addr, stop := start(t, dir)
	must(t, addr, "CREATE TABLE leafcutter.t (n UInt32) ENGINE = MergeTree ORDER BY n", "INSERT INTO leafcutter.t VALUES (1), (2)")
	stop()
	addr, _ = start(t, dir)
	want(t, addr, "SELECT sum(n) FROM leafcutter.t", "3\n")
}

// TestConcurrentStatements reads, writes, cancels and changes tables at the same time: sessions of libchdb
// share an engine, and must not share anything else.
func TestConcurrentStatements(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr, "CREATE TABLE leafcutter.t (id UInt64, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY id")
	conn := connect(t, addr, clickhouse.CompressionNone)
	ctx := context.Background()
	const writers, batches, rows = 3, 8, 200
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for b := range batches {
				batch, err := conn.PrepareBatch(ctx, "INSERT INTO t (id, v)")
				if err != nil {
					t.Error(err)
					return
				}
				for n := range rows {
					if err := batch.Append(uint64((w*batches+b)*rows+n), uint64(b)); err != nil {
						t.Error(err)
						return
					}
				}
				if err := batch.Send(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 6 {
		running.Go(func() {
			for n := range 15 {
				queryCtx, cancel := context.WithCancel(ctx)
				if n%5 == 4 {
					queryCtx, cancel = context.WithTimeout(ctx, time.Duration(n)*time.Millisecond)
				}
				var session, count uint64
				err := conn.QueryRow(clickhouse.Context(queryCtx, clickhouse.WithSettings(clickhouse.Settings{"max_block_size": 1000 + n})),
					"SELECT toUInt64(getSetting('max_block_size')), count() FROM t FINAL").Scan(&session, &count)
				cancel()
				if err == nil && (session != uint64(1000+n) || count > writers*batches*rows) {
					t.Errorf("setting %d reads as %d, count %d", 1000+n, session, count)
				}
				if err != nil && n%5 != 4 {
					t.Error(err)
				}
			}
		})
	}
	running.Go(func() {
		for n := range 5 {
			name := fmt.Sprintf("leafcutter.side%d", n)
			must(t, addr, "CREATE TABLE "+name+" (a UInt8) ENGINE = MergeTree ORDER BY a", "INSERT INTO "+name+" VALUES (1)", "ALTER TABLE "+name+" ADD COLUMN b String", "DROP TABLE "+name)
		}
	})
	running.Wait()
	want(t, addr, "SELECT count() FROM leafcutter.t FINAL", fmt.Sprintf("%d\n", writers*batches*rows))
}

// TestKillLosesNothingAcknowledged kills the server in the middle of inserts, as a laptop's user does.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	sql := localtest.StartSQL(t)
	as := func(body string) ask { return ask{user: sql.User, pass: sql.Password, body: body} }
	if r := as("CREATE TABLE leafcutter.t (round UInt32, n UInt32) ENGINE = MergeTree ORDER BY (round, n)").send(t, sql.Addr); r.status != 200 {
		t.Fatal(r.body)
	}
	acknowledged := 0
	for round := range 2 {
		var running sync.WaitGroup
		var mu sync.Mutex
		enough := make(chan struct{}, 1)
		for w := range 3 {
			running.Go(func() {
				for n := 0; ; n++ {
					body := fmt.Sprintf("INSERT INTO leafcutter.t SELECT %d, %d FROM numbers(100)", round, n*10+w)
					if err := insert(sql, body); err != nil {
						return // killed: this one was not acknowledged
					}
					mu.Lock()
					acknowledged++
					if n == 5 {
						select {
						case enough <- struct{}{}:
						default:
						}
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		sql.Kill()
		running.Wait()
		sql.Restart()
		r := as("SELECT count(), countIf(c != 100) FROM (SELECT round, n, count() AS c FROM leafcutter.t GROUP BY round, n)").send(t, sql.Addr)
		var whole, partial int
		if _, err := fmt.Sscanf(r.body, "%d\t%d", &whole, &partial); err != nil {
			t.Fatalf("%q: %v", r.body, err)
		}
		// One insert of each writer may have landed without its acknowledgement.
		if whole < acknowledged || whole > acknowledged+3*(round+1) || partial != 0 {
			t.Fatalf("after kill %d: %d inserts of which %d in part, %d acknowledged", round+1, whole, partial, acknowledged)
		}
	}
}

// TestStopEndsWhatRuns stops the server under a statement that would run for hours.
func TestStopEndsWhatRuns(t *testing.T) {
	addr, stop := startWith(t, t.TempDir(), func(c *config) { c.Grace = 100 * time.Millisecond })
	done := make(chan error, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Post("http://"+addr+"/?max_threads=1", "", strings.NewReader("SELECT count() FROM numbers(100000000000000) WHERE number % 7 = 8"))
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err // cut off, or answered that it was killed
	}()
	waitUntil(t, "the statement runs", func() bool {
		return read("SELECT count() FROM system.processes WHERE query LIKE '%100000000000000%' AND query NOT LIKE '%processes%'").send(t, addr).body == "1\n"
	})
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %v", took)
	}
	t.Log("the client sees:", <-done)
}

// TestSlowReadersLeaveRoomForTheWriter fills every slot of the readers.
func TestSlowReadersLeaveRoomForTheWriter(t *testing.T) {
	addr, _ := startWith(t, t.TempDir(), func(c *config) { c.MaxStatements, c.ReadTime = 2, 2*time.Second })
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			read("SELECT count() FROM numbers(100000000000000) WHERE number % 7 = 8").send(t, addr)
		})
	}
	waitUntil(t, "two readers run", func() bool {
		return write("SELECT count() FROM system.processes WHERE query LIKE '%100000000000000%' AND query NOT LIKE '%processes%'").send(t, addr).body == "2\n"
	})
	must(t, addr, "CREATE TABLE leafcutter.t (n UInt8) ENGINE = MergeTree ORDER BY n", "INSERT INTO leafcutter.t VALUES (1)")
	running.Wait()
}

func TestMemoryIsBounded(t *testing.T) {
	addr, _ := startWith(t, t.TempDir(), func(c *config) { c.ReadMemory = 64 << 20 })
	for _, sql := range []string{
		"SELECT length(groupArray(number)) FROM numbers(300000000)", "SELECT uniqExact(number) FROM numbers(300000000)", "SELECT repeat('x', 1000000) FROM numbers(1000) FORMAT JSON",
	} {
		if r := read(sql).send(t, addr); r.status == http.StatusOK {
			t.Errorf("%s\nis answered with %d bytes", sql, len(r.body))
		}
	}
	want(t, addr, "SELECT 1", "1\n")
}

// TestSessionsKeepNothing sends requests that share idle sessions and must not see each other's state.
func TestSessionsKeepNothing(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	must(t, addr, "CREATE TABLE leafcutter.t (n UInt8) ENGINE = MergeTree ORDER BY n")
	seen := func(a ask) string {
		a.body = "SELECT getSetting('max_block_size'), getSetting('readonly'), currentDatabase(), (SELECT count() FROM system.tables WHERE is_temporary)"
		return a.send(t, addr).body
	}
	writer := ask{user: "leafcutter", pass: password}
	for name, a := range map[string]ask{"writer": writer, "reader": {}} {
		before := seen(a)
		for _, other := range []ask{
			write("SET max_block_size = 7"), write("USE system"), write("SET readonly = 1"), write("SET ROLE reader"), write("CREATE TEMPORARY TABLE x (n UInt8)"),
			write("SELECT 1 SETTINGS max_block_size = 7"), write("INSERT INTO leafcutter.t SETTINGS max_block_size = 7 VALUES (1)"), write("SELECT throwIf(1) SETTINGS max_block_size = 7"),
			read("SELECT 1 SETTINGS max_block_size = 7"), read("USE system"),
			{user: "leafcutter", pass: password, query: url.Values{"max_block_size": {"7"}, "database": {"system"}}, body: "SELECT 1"},
			{query: url.Values{"max_block_size": {"7"}, "database": {"system"}}, body: "SELECT 1"},
			{method: "GET", user: "leafcutter", pass: password, query: url.Values{"query": {"SELECT 1"}}},
		} {
			other.send(t, addr)
			if after := seen(a); after != before {
				t.Fatalf("%s: after %q (%v) the session is %q, before %q", name, other.body, other.query, after, before)
			}
		}
		a.query = url.Values{"max_block_size": {"7"}, "database": {"leafcutter"}}
		if got, want := seen(a), "7\t"+strings.Split(before, "\t")[1]+"\tleafcutter\t0\n"; got != want {
			t.Errorf("%s: with settings the session is %q, want %q", name, got, want)
		}
	}
	for n := range 40 { // more setups than are kept
		a := ask{query: url.Values{"max_block_size": {fmt.Sprint(100 + n)}}, body: "SELECT getSetting('max_block_size')"}
		if got := a.send(t, addr).body; got != fmt.Sprintf("%d\n", 100+n) {
			t.Errorf("setting %d reads as %q", 100+n, got)
		}
	}
}

// TestFleetingSettings sends requests that share a session but for the values of some settings: each has its own.
func TestFleetingSettings(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	for _, n := range []string{"7", "7", "9", "", "11"} {
		a := ask{user: "leafcutter", pass: password, body: "SELECT toInt64(getSetting('max_execution_time')), getSetting('insert_deduplication_token')"}
		expected := "0\t\n"
		if n != "" {
			a.query = url.Values{"max_execution_time": {n}, "insert_deduplication_token": {"it's " + n}}
			expected = n + "\tit\\'s " + n + "\n"
		}
		if got := a.send(t, addr).body; got != expected {
			t.Errorf("asked for %q the session has %q, want %q", n, got, expected)
		}
	}
	wrong := ask{user: "leafcutter", pass: password, query: url.Values{"max_execution_time": {"soon"}, "insert_deduplication_token": {"b"}}, body: "SELECT 1"}
	if got := wrong.send(t, addr); got.status == http.StatusOK {
		t.Error("a time that is none was taken")
	}
}
