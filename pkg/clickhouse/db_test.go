package clickhouse_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServersWordsAreClassed(t *testing.T) {
	s := newServer(t)
	db := s.open(t)
	for _, c := range []struct {
		code    int
		message string
		class   fault.Class
		name    string
	}{
		{241, "Memory limit (total) exceeded", fault.Unavailable, "clickhouse-unavailable"},
		{159, "Timeout exceeded", fault.Unavailable, "clickhouse-unavailable"},
		{202, "Too many simultaneous queries", fault.Unavailable, "clickhouse-unavailable"},
		{252, "Too many parts (300). Merges are processing significantly slower than inserts", fault.Unavailable, "clickhouse-unavailable"},
		{252, "Too many partitions for single INSERT block (more than 100)", fault.Permanent, "row-rejected"},
		{243, "Cannot reserve 1.00 MiB, not enough space", fault.Unavailable, "clickhouse-unavailable"},
		{60, "Table leafcutter.page_results does not exist", fault.Unavailable, "clickhouse-unavailable"},
		{81, "Database leafcutter does not exist", fault.Unavailable, "clickhouse-unavailable"},
		{516, "tester: Authentication failed", fault.Unavailable, "clickhouse-unavailable"},
		{497, "tester: Not enough privileges", fault.Unavailable, "clickhouse-unavailable"},
		{53, "Type mismatch", fault.Permanent, "row-rejected"},
		{190, "Elements 'boxes.class' and 'boxes.score' of Nested data structure must have equal array sizes", fault.Permanent, "row-rejected"},
		{469, "Constraint violated", fault.Permanent, "row-rejected"},
		{62, "Syntax error", fault.Permanent, "statement-rejected"},
		{47, "Unknown expression identifier", fault.Permanent, "statement-rejected"},
	} {
		t.Run(fmt.Sprint(c.code, " ", c.name), func(t *testing.T) {
			s.answer("", answer{code: c.code, message: c.message})
			_, queryErr := db.Query(t.Context(), "SELECT 1")
			var one int
			for doing, err := range map[string]error{
				"query": queryErr, "exec": db.Exec(t.Context(), "DROP"), "row": db.QueryRow(t.Context(), "SELECT 2").Scan(&one),
				"select": db.Select(t.Context(), &[]struct{ A int }{}, "SELECT 3"),
			} {
				if fault.ClassOf(err) != c.class || fault.CodeOf(err) != c.name || !strings.Contains(fmt.Sprint(err), c.message) {
					t.Errorf("%s: %v is %s %s, want %s %s", doing, err, fault.ClassOf(err), fault.CodeOf(err), c.class, c.name)
				}
				if c.class == fault.Unavailable && fault.DependencyOf(err) != clickhouse.Dependency {
					t.Errorf("%s: %v is the absence of %q", doing, err, fault.DependencyOf(err))
				}
			}
		})
	}
}

func TestProxysWordsAreAnAbsence(t *testing.T) {
	s := newServer(t)
	db := s.open(t)
	for _, status := range []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusForbidden, http.StatusNotFound} {
		s.answer("", answer{status: status, message: "<html>nginx</html>"})
		if err := db.Exec(t.Context(), "OPTIMIZE"); fault.ClassOf(err) != fault.Unavailable {
			t.Errorf("%d: %v is %s", status, err, fault.ClassOf(err))
		}
	}
}

func TestAbsentServer(t *testing.T) {
	cfg := newServer(t).config()
	cfg.Addr = []string{"127.0.0.1:1"} // nobody listens there; a port that was free a moment ago may be anybody's now
	db, err := clickhouse.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err) // opening is lazy
	}
	_, queryErr := db.Query(t.Context(), "SELECT 1")
	_, batchErr := db.PrepareBatch(t.Context(), "INSERT INTO t (a)")
	for doing, err := range map[string]error{
		"query": queryErr, "batch": batchErr, "exec": db.Exec(t.Context(), "DROP"), "probe": db.Probe(t.Context()),
		"migrate": clickhouse.Migrate(t.Context(), cfg, fstest.MapFS{}, nil),
	} {
		if fault.ClassOf(err) != fault.Unavailable || fault.DependencyOf(err) != "clickhouse" {
			t.Errorf("%s: %v is %s", doing, err, fault.ClassOf(err))
		}
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestCancelIsNotAnAbsence(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.open(t).Exec(ctx, "DROP"); !errors.Is(err, context.Canceled) || fault.ClassOf(err) != fault.Shutdown {
		t.Errorf("%v is %s", err, fault.ClassOf(err))
	}
}

func TestRowsAreRead(t *testing.T) {
	s := newServer(t)
	db := s.open(t)
	s.answer("SELECT page", answer{columns: []string{"page UInt32", "class String"}, rows: [][]any{{uint32(1), "title"}, {uint32(2), "table"}}})
	type box struct {
		Page  uint32 `ch:"page"`
		Class string `ch:"class"`
	}
	want := []box{{1, "title"}, {2, "table"}}

	var selected []box
	if err := db.Select(t.Context(), &selected, "SELECT page, class FROM boxes"); err != nil || !cmp.Equal(want, selected) {
		t.Errorf("select: %+v, %v", selected, err)
	}
	rows, err := db.Query(t.Context(), "SELECT page, class FROM boxes")
	if err != nil {
		t.Fatal(err)
	}
	var read []box
	for rows.Next() {
		var b box
		if err := rows.ScanStruct(&b); err != nil {
			t.Fatal(err)
		}
		read = append(read, b)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || !cmp.Equal(want, read) {
		t.Errorf("query: %+v, %v", read, err)
	}
	s.answer("SELECT none", answer{columns: []string{"page UInt32"}})
	var page uint32
	if err := db.QueryRow(t.Context(), "SELECT none").Scan(&page); !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("no row: %v", err)
	}
	for _, r := range s.seen {
		if r.database != "leafcutter" || r.user != "tester" || r.password != "hunter2" {
			t.Errorf("asked as %+v", r)
		}
	}
}

func TestAnswerThatBreaksOff(t *testing.T) {
	s := newServer(t)
	db := s.open(t)
	s.answer("SELECT", answer{columns: []string{"page UInt32"}, rows: [][]any{{uint32(1)}, {uint32(2)}}, broken: true})
	rows, err := db.Query(t.Context(), "SELECT page")
	if err == nil {
		n := 0
		for rows.Next() {
			n++
		}
		if n > 2 {
			t.Errorf("%d rows", n)
		}
		err = rows.Err()
		if closeErr := rows.Close(); closeErr != nil {
			t.Error(closeErr)
		}
	}
	if fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("%v is %s", err, fault.ClassOf(err))
	}
}

// batchTable is the table of the batches here.
func batchTable(s *server) { describe(s, "page UInt32", "class String") }

// describe answers the DESCRIBE by which the driver learns a table's columns, each a name and a type.
func describe(s *server, columns ...string) {
	var rows [][]any
	for _, c := range columns {
		name, kind, _ := strings.Cut(c, " ")
		rows = append(rows, []any{name, kind, "", "", "", "", ""})
	}
	s.answer("DESCRIBE", answer{
		columns: []string{"name String", "type String", "default_type String", "default_expression String", "comment String", "codec_expression String", "ttl_expression String"},
		rows:    rows,
	})
}

func TestBatch(t *testing.T) {
	s := newServer(t)
	db := s.open(t)
	batchTable(s)
	b, err := db.PrepareBatch(t.Context(), "INSERT INTO boxes (page, class)")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Append(uint32(1), "title"), b.Append(uint32(2), "table"), b.Send()); err != nil {
		t.Fatal(err)
	}
	last := s.seen[len(s.seen)-1]
	if !strings.HasPrefix(last.statement, "INSERT INTO boxes") || last.body == 0 {
		t.Errorf("sent %+v", last)
	}
	if err := b.Send(); err == nil || fault.ClassOf(err) == fault.Permanent {
		t.Errorf("sent twice: %v", err)
	}
}

// TestColumnsAreAskedForOnce inserts again and again: the server is asked what the columns are at first, and after it has
// refused an insert.
func TestColumnsAreAskedForOnce(t *testing.T) {
	s := newServer(t)
	db := s.open(t)
	batchTable(s)
	insert := func() error {
		b, err := db.PrepareBatch(t.Context(), "INSERT INTO boxes (page, class)")
		if err != nil {
			t.Fatal(err)
		}
		return errors.Join(b.Append(uint32(1), "title"), b.Send())
	}
	want := func(asked, inserted int) {
		t.Helper()
		counts := map[string]int{}
		for _, statement := range s.statements() {
			verb, _, _ := strings.Cut(statement, " ")
			counts[verb]++
		}
		if counts["DESCRIBE"] != asked || counts["INSERT"] != inserted {
			t.Errorf("%v, want %d and %d", counts, asked, inserted)
		}
	}
	if err := errors.Join(insert(), insert(), insert()); err != nil {
		t.Fatal(err)
	}
	want(1, 3)
	s.answer("INSERT", answer{code: 53, message: "Type mismatch"})
	if err := insert(); err == nil {
		t.Error("a refused insert gives no error")
	}
	s.answer("INSERT", answer{})
	if err := insert(); err != nil {
		t.Fatal(err)
	}
	want(2, 5)
}

// TestAColumnThatWasWidenedRefusesOneRow alters a column under a program that remembers it: the first row that its former
// type does not hold is refused, and the same row is taken by the next batch.
func TestAColumnThatWasWidenedRefusesOneRow(t *testing.T) {
	type row struct {
		Page  uint32 `ch:"page"`
		State string `ch:"state"`
	}
	for name, add := range map[string]func(driver.Batch, string) error{
		"append":        func(b driver.Batch, state string) error { return b.Append(uint32(1), state) },
		"append struct": func(b driver.Batch, state string) error { return b.AppendStruct(&row{1, state}) },
	} {
		s := newServer(t)
		db := s.open(t)
		insert := func(state string) error {
			b, err := db.PrepareBatch(t.Context(), "INSERT INTO pages (page, state)")
			if err != nil {
				t.Fatal(err)
			}
			if err := add(b, state); err != nil {
				return errors.Join(err, b.Abort()) // nothing is sent, as whoever inserts does it
			}
			return b.Send()
		}
		describe(s, "page UInt32", "state Enum8('done' = 1)")
		if err := insert("done"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		describe(s, "page UInt32", "state Enum8('done' = 1, 'failed' = 2)")
		if err := insert("failed"); fault.ClassOf(err) != fault.Permanent || fault.CodeOf(err) != clickhouse.CodeRow {
			t.Errorf("%s: %v is %s", name, err, fault.ClassOf(err))
		}
		if err := insert("failed"); err != nil {
			t.Errorf("%s: the new value is refused for ever: %v", name, err)
		}
	}
}

func TestBatchRefusals(t *testing.T) {
	s := newServer(t)
	db := s.open(t)
	batchTable(s)
	for name, values := range map[string][]any{"type": {"one", "title"}, "too few": {uint32(1)}, "too many": {uint32(1), "title", "x"}} {
		b, err := db.PrepareBatch(t.Context(), "INSERT INTO boxes (page, class)")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Append(values...); fault.ClassOf(err) != fault.Permanent || fault.CodeOf(err) != clickhouse.CodeRow {
			t.Errorf("%s: %v is %s", name, err, fault.ClassOf(err))
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	s.answer("INSERT", answer{code: 241, message: "Memory limit exceeded"})
	b, err := db.PrepareBatch(t.Context(), "INSERT INTO boxes (page, class)")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(uint32(1), "title"); err != nil {
		t.Fatal(err)
	}
	if err := b.Send(); fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("%v is %s", err, fault.ClassOf(err))
	}
}

func TestProbe(t *testing.T) {
	s := newServer(t)
	db := s.open(t, clickhouse.WithProbeQuery("SELECT 1 FROM page_results LIMIT 1"))
	if err := db.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if got := s.seen[0]; got != (request{"SELECT 1 FROM page_results LIMIT 1", "leafcutter", "tester", "hunter2", 0}) {
		t.Errorf("asked %+v", got)
	}
	if got := s.methods[0]; got != http.MethodPost {
		t.Errorf("asked by %s, which ClickHouse takes no writes by", got)
	}
	for _, a := range []answer{{code: 60, message: "no table"}, {code: 516, message: "who are you"}, {status: 502}} {
		s.answer("SELECT 1", a)
		if err := db.Probe(t.Context()); fault.ClassOf(err) != fault.Unavailable {
			t.Errorf("%+v: %v is %s", a, err, fault.ClassOf(err))
		}
	}
	// One replica that answers is enough.
	cfg := s.config()
	s.answer("SELECT 1", answer{})
	cfg.Addr = []string{"127.0.0.1:1", strings.TrimPrefix(s.URL, "http://")}
	replicated, err := clickhouse.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(replicated.Probe(t.Context()), replicated.Close()); err != nil {
		t.Error(err)
	}
}

func TestMigrate(t *testing.T) {
	s := newServer(t)
	s.answer("SELECT 1 FROM", answer{columns: []string{"1 UInt8"}}) // no versions yet
	s.answer("SELECT max(version_id)", answer{columns: []string{"v Int64"}, rows: [][]any{{int64(0)}}})
	migrations := fstest.MapFS{
		"00001_first.sql":  {Data: []byte("-- +goose Up\nCREATE TABLE IF NOT EXISTS first (a Int8) ENGINE = Memory;\n")},
		"00002_second.sql": {Data: []byte("-- +goose Up\nCREATE TABLE IF NOT EXISTS second (a Int8) ENGINE = Memory;\n")},
	}
	s.answer("SELECT version_id", answer{columns: []string{"version_id Int64", "is_applied UInt8"}, rows: [][]any{{int64(0), uint8(1)}}})
	if err := clickhouse.Migrate(t.Context(), s.config(), migrations, nil); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(s.statements(), "\n")
	created, first, second := strings.Index(all, "CREATE DATABASE IF NOT EXISTS `leafcutter`"), strings.Index(all, "EXISTS first"), strings.Index(all, "EXISTS second")
	if created < 0 || first < created || second < first {
		t.Errorf("statements in this order:\n%s", all)
	}
	// Nothing is left to do where both versions are recorded.
	s.answer("SELECT version_id", answer{columns: []string{"version_id Int64", "is_applied UInt8"}, rows: [][]any{{int64(2), uint8(1)}, {int64(1), uint8(1)}, {int64(0), uint8(1)}}})
	s.answer("SELECT max(version_id)", answer{columns: []string{"v Int64"}, rows: [][]any{{int64(2)}}})
	before := len(s.statements())
	if err := clickhouse.Migrate(t.Context(), s.config(), migrations, nil); err != nil {
		t.Fatal(err)
	}
	for _, statement := range s.statements()[before:] {
		if strings.Contains(statement, "CREATE TABLE IF NOT EXISTS first") {
			t.Errorf("applied again: %s", statement)
		}
	}
}

func TestConfig(t *testing.T) {
	good := clickhouse.Config{Addr: []string{"127.0.0.1:8123"}, Database: "leafcutter", User: "default", Timeout: time.Second}
	for _, addr := range [][]string{{"localhost"}, {"http://ch"}, {"https://ch"}, {"https://ch:8443/", "https://ch2"}, {"[::1]:8123", " ch:8123"}} {
		cfg := good
		cfg.Addr = addr
		if err := cfg.Validate(); err != nil {
			t.Errorf("%q: %v", addr, err)
		}
	}
	for _, addr := range [][]string{nil, {""}, {"ch:9000"}, {"tcp://ch:9000"}, {"http://ch/db"}, {"http://u:p@ch"}, {"http://a", "https://b"}, {"a b"}} {
		cfg := good
		cfg.Addr = addr
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "CLICKHOUSE_ADDR") {
			t.Errorf("%q: %v", addr, err)
		}
	}
	_, err := clickhouse.Open(t.Context(), clickhouse.Config{Database: "a`b"})
	for _, name := range []string{"CLICKHOUSE_ADDR", "CLICKHOUSE_DATABASE", "CLICKHOUSE_USER", "CLICKHOUSE_TIMEOUT"} {
		if !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("%s is not in: %v", name, err)
		}
	}
	good.Password = "hunter2"
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("open", slog.Any("config", good))
	for _, printed := range []string{fmt.Sprint(good), fmt.Sprintf("%+v %#v", good, good), logged.String()} {
		if strings.Contains(printed, "hunter2") || !strings.Contains(printed, "leafcutter") {
			t.Errorf("printed as %s", printed)
		}
	}
}
