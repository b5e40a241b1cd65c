package sqlserver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"go.uber.org/goleak"

	"leafcutter/deploy/local/internal/sqlserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "test-password"

// library finds libchdb in the build folder beside go.work.
func library(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err != nil {
			continue
		}
		file := filepath.Join(dir, "build", "lib", "libchdb.so")
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%v: run `make deps`", err)
		}
		return file
	}
	t.Fatal("no go.work above this folder")
	return ""
}

// start runs a server on dir until the test ends, or until the returned function is called.
func start(t testing.TB, dir string) (addr string, stop func()) {
	t.Helper()
	return startWith(t, dir, func(*config) {})
}

type config = sqlserver.Config

func startWith(t testing.TB, dir string, change func(*config)) (addr string, stop func()) {
	t.Helper()
	cfg := config{Addr: "127.0.0.1:0", Library: library(t), Dir: dir, Password: password}
	change(&cfg)
	server, err := sqlserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping the server: %v", err)
		}
	}
	t.Cleanup(stop)
	return server.Addr(), stop
}

func connect(t testing.TB, addr string, compression clickhouse.CompressionMethod) clickhouse.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{addr}, Protocol: clickhouse.HTTP,
		Auth:        clickhouse.Auth{Database: "leafcutter", Username: "leafcutter", Password: password},
		Compression: &clickhouse.Compression{Method: compression, Level: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestClickhouseGo(t *testing.T) {
	addr, _ := start(t, t.TempDir())
	ctx := context.Background()
	for name, method := range map[string]clickhouse.CompressionMethod{
		"none": clickhouse.CompressionNone, "lz4": clickhouse.CompressionLZ4, "zstd": clickhouse.CompressionZSTD,
		"gzip": clickhouse.CompressionGZIP, "deflate": clickhouse.CompressionDeflate, "br": clickhouse.CompressionBrotli,
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, addr, method)
			if err := conn.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			table := "rows_" + name
			if err := conn.Exec(ctx, "CREATE TABLE "+table+" (n UInt32, text String, boxes Nested(class LowCardinality(String), x Float32), at DateTime64(3, 'UTC'), id UUID) ENGINE = MergeTree ORDER BY n"); err != nil {
				t.Fatal(err)
			}
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+table+" (n, text, boxes.class, boxes.x)")
			if err != nil {
				t.Fatal(err)
			}
			// Every byte value, and what separates statements and lines, inside binary data.
			all := make([]byte, 256)
			for i := range all {
				all[i] = byte(i)
			}
			const rows = 3000
			for i := range uint32(rows) {
				if err := batch.Append(i, fmt.Sprintf("%s;\n\n'%d", all, i), []string{"title", "table"}, []float32{1, float32(i)}); err != nil {
					t.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
			var count, bytes uint64
			if err := conn.QueryRow(ctx, "SELECT count(), sum(length(text)) FROM "+table+" WHERE n < {limit:UInt32}", clickhouse.Named("limit", "2000")).Scan(&count, &bytes); err != nil {
				t.Fatal(err)
			}
			if count != 2000 {
				t.Fatalf("count = %d, want 2000", count)
			}
			result, err := conn.Query(ctx, "SELECT n, text, boxes.class FROM "+table+" ORDER BY n")
			if err != nil {
				t.Fatal(err)
			}
			var seen uint32
			for result.Next() {
				var n uint32
				var text string
				var classes []string
				if err := result.Scan(&n, &text, &classes); err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprintf("%s;\n\n'%d", all, seen); n != seen || text != want || strings.Join(classes, ",") != "title,table" {
					t.Fatalf("row %d reads as %d %q %v", seen, n, text, classes)
				}
				seen++
			}
			if err := result.Err(); err != nil {
				t.Fatal(err)
			}
			if err := result.Close(); err != nil {
				t.Fatal(err)
			}
			if seen != rows {
				t.Fatalf("read %d rows, want %d", seen, rows)
			}
			empty, err := conn.Query(ctx, "SELECT n FROM "+table+" WHERE n > 1000000")
			if err != nil {
				t.Fatal(err)
			}
			if empty.Next() {
				t.Fatal("a row where there is none")
			}
			_ = empty.Close()
		})
	}
}
