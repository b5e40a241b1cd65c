package chdb_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/deploy/local/internal/chdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// library finds libchdb in the build folder beside go.work.
func library(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return filepath.Join(dir, "build", "lib", "libchdb.so") // Open says what to do where it is missing
		}
	}
	t.Fatal("no go.work above this folder")
	return ""
}

func open(t testing.TB, dir string) *chdb.Engine {
	t.Helper()
	engine, err := chdb.Open(chdb.Config{Library: library(t), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine
}

func connect(t testing.TB, engine *chdb.Engine) *chdb.Conn {
	t.Helper()
	conn, err := engine.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func want(t *testing.T, conn *chdb.Conn, sql, answer string, params ...chdb.Param) {
	t.Helper()
	got, _, err := conn.Query([]byte(sql), "TSV", params...)
	if err != nil || string(got) != answer {
		t.Errorf("%s\nanswers %q (%v), want %q", sql, got, err, answer)
	}
}

func TestStatements(t *testing.T) {
	conn := connect(t, open(t, t.TempDir()))
	want(t, conn, "SELECT 1, 'a\x00b'", "1\ta\\0b\n")
	want(t, conn, "SELECT {n:UInt8} + 1, {s:String}", "42\tit\\'s\\n\n", chdb.Param{Name: "n", Value: "41"}, chdb.Param{Name: "s", Value: `it's\n`})
	want(t, conn, "CREATE TABLE t (n UInt32) ENGINE = MergeTree ORDER BY n", "")
	_, stats, err := conn.Query([]byte("INSERT INTO t SELECT number FROM numbers(1000)"), "Null")
	if err != nil || stats.WrittenRows != 1000 {
		t.Errorf("wrote %d rows (%v), want 1000", stats.WrittenRows, err)
	}
	want(t, conn, "SELECT sum(n) FROM t", "499500\n")
	_, _, err = conn.Query([]byte("SELECT * FROM nope"), "TSV")
	var refused *chdb.Error
	if !errors.As(err, &refused) || !strings.HasPrefix(refused.Text, "Code: 60. DB::Exception: ") {
		t.Errorf("a missing table: %v", err)
	}
	_, _, err = conn.Query([]byte("SELECT {n:UInt8}"), "TSV") // parameters last for one call
	if !errors.As(err, &refused) || !strings.HasPrefix(refused.Text, "Code: 456. ") {
		t.Errorf("a missing parameter: %v", err)
	}
}

func TestSessionsAreSeparate(t *testing.T) {
	engine := open(t, t.TempDir())
	one, two := connect(t, engine), connect(t, engine)
	if err := one.Exec("SET max_threads = 3, readonly = 1"); err != nil {
		t.Fatal(err)
	}
	want(t, one, "SELECT getSetting('max_threads'), getSetting('readonly')", "3\t1\n")
	want(t, two, "SELECT getSetting('readonly')", "0\n")
	if err := one.Exec("CREATE TABLE t (n UInt8) ENGINE = Memory"); err == nil {
		t.Error("a session that only reads made a table")
	}
}

func TestStream(t *testing.T) {
	conn := connect(t, open(t, t.TempDir()))
	stream, err := conn.Stream([]byte("SELECT number FROM numbers({n:UInt32})"), "RowBinary", chdb.Param{Name: "n", Value: "300000"})
	if err != nil {
		t.Fatal(err)
	}
	pieces, size := 0, 0
	for {
		piece, _, err := stream.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Error(err)
			break
		}
		pieces, size = pieces+1, size+len(piece)
	}
	stream.Close()
	if pieces < 2 || size != 8*300000 {
		t.Errorf("%d bytes in %d pieces", size, pieces)
	}
	for range 3 { // left in the middle, and the connection is free again
		stream, err := conn.Stream([]byte("SELECT number FROM numbers(1000000000)"), "TSV")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := stream.Next(); err != nil {
			t.Error(err)
		}
		stream.Close()
		stream.Close()
		want(t, conn, "SELECT 1", "1\n")
	}
	for _, sql := range []string{"SELECT 1 WHERE 0", "SELECT number FROM numbers(0)"} {
		stream, err := conn.Stream([]byte(sql), "JSONEachRow")
		if err != nil {
			t.Fatal(err)
		}
		if piece, _, err := stream.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %q, %v", sql, piece, err)
		}
		stream.Close()
	}
	missing, err := conn.Stream([]byte("SELECT * FROM nope"), "TSV")
	if err == nil {
		_, _, err = missing.Next()
		missing.Close()
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a stream from a missing table: %v", err)
	}
}

// TestGoKeepsItsSignals checks what libchdb takes from a Go program when nobody puts it back.
func TestGoKeepsItsSignals(t *testing.T) {
	engine := open(t, t.TempDir())
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 10 {
				conn, err := engine.Connect()
				if err != nil {
					t.Error(err)
					return
				}
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		first := func(list []*testing.T) string { return list[0].Name() }
		t.Error(first(make([]*testing.T, 1)))
	}()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	defer signal.Stop(asked)
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(5 * time.Second):
		t.Error("SIGTERM did not arrive")
	}
}

func TestOneOpenerAtATime(t *testing.T) {
	dir := t.TempDir()
	engine := open(t, dir)
	cfg := chdb.Config{Library: library(t), Dir: t.TempDir()}
	if _, err := chdb.Open(cfg); err == nil || !strings.Contains(err.Error(), "already has "+dir+" open") {
		t.Errorf("a second directory in this process: %v", err)
	}
	// Another process, which is this test again.
	cmd := exec.Command(os.Args[0], "-test.run=^TestOpenerInAnotherProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "CHDB_TEST_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("%s is in use by process %d: stop it", dir, os.Getpid()); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("another process (%v) says %s\nwant %q", err, out, want)
	}
	conn, err := engine.Connect()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Close(); err == nil {
		t.Error("closed under an open connection")
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Query([]byte("SELECT 1"), "TSV"); err == nil {
		t.Error("a closed connection answers")
	}
}

// TestOpenerInAnotherProcess opens the directory that TestOneOpenerAtATime holds, or one of its own.
func TestOpenerInAnotherProcess(t *testing.T) {
	dir, held := os.LookupEnv("CHDB_TEST_DIR")
	if !held {
		dir = t.TempDir()
	}
	engine, err := chdb.Open(chdb.Config{Library: library(t), Dir: dir})
	if held {
		t.Log(err)
		if err == nil {
			t.Error("opened twice")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Close(); err != nil {
		t.Error(err)
	}
}

func TestDataOutliveTheEngine(t *testing.T) {
	dir := t.TempDir()
	for run := range 3 {
		engine, err := chdb.Open(chdb.Config{Library: library(t), Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := engine.Connect()
		if err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			want(t, conn, "CREATE TABLE default.t (n UInt32) ENGINE = MergeTree ORDER BY n", "")
		}
		want(t, conn, fmt.Sprintf("INSERT INTO default.t SELECT %d", run), "")
		want(t, conn, "SELECT count(), max(n) FROM default.t", fmt.Sprintf("%d\t%d\n", run+1, run))
		if err := errors.Join(conn.Close(), engine.Close(), engine.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWrongLibrary(t *testing.T) {
	file := filepath.Join(t.TempDir(), "libchdb.so")
	if _, err := chdb.Open(chdb.Config{Library: file, Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "run `make deps`") {
		t.Errorf("no library: %v", err)
	}
}
