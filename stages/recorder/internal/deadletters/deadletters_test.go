package deadletters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	ddl "leafcutter/schemas/clickhouse"
)

const (
	doc  = "0198a000-0000-7000-8000-000000000001"
	gone = "0198a000-0000-7000-8000-000000000009"
	run  = "0198a000-0000-5000-8000-000000000002"
)

var day0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func openDatabase(t *testing.T) *clickhouse.DB {
	t.Helper()
	server := localtest.StartSQL(t)
	cfg := clickhouse.Config{Addr: []string{server.Addr}, Database: server.Database, User: server.User, Password: server.Password, Timeout: 30 * time.Second}
	if err := clickhouse.Migrate(context.Background(), cfg, ddl.Migrations, nil); err != nil {
		t.Fatal(err)
	}
	db, err := clickhouse.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// letter is a dead letter at an offset; the headers given, name after value, come over those of a range's page 3.
func letter(offset int64, value string, headers ...string) stage.In {
	in := stage.In{Topic: schemas.TopicDeadLetters, Partition: 1, Offset: offset, Timestamp: day0.Add(time.Duration(offset) * time.Second),
		Key: "key", Value: []byte(value), Attempt: 1, Headers: map[string]string{
			"lc-stage": "splitter", "lc-code": "page-too-large", "lc-error": "page 3 is too large", "lc-attempts": "1",
			"lc-topic": "lc.page-ranges", "lc-partition": "2", "lc-offset": "40", "lc-document-id": doc, "lc-run-id": run, "lc-page": "3",
			"lc-schema": "PageRange.v1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	for i := 0; i+1 < len(headers); i += 2 {
		if in.Headers[headers[i]] = headers[i+1]; headers[i+1] == "" {
			delete(in.Headers, headers[i])
		}
	}
	return in
}

// again is a letter that comes of a replay.
func again(first stage.In, offset int64, replay int) stage.In {
	return letter(offset, string(first.Value), "lc-letter", schemas.LetterID(first.Headers), "lc-replay", fmt.Sprint(replay),
		"lc-offset", fmt.Sprint(100+offset), "lc-topic", first.Headers["lc-topic"], "lc-run-id", first.Headers["lc-run-id"], "lc-page", first.Headers["lc-page"])
}

func lander(t *testing.T, db Database) *Lander {
	t.Helper()
	l, err := New(Config{DB: db, TopicPrefix: "lc.", Deleted: func(id string) bool { return id == gone }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func handle(t *testing.T, l *Lander, in ...stage.In) {
	t.Helper()
	for i, r := range l.Handle(context.Background(), in) {
		if r.Err != nil {
			t.Fatalf("letter %d: %v", i, r.Err)
		}
	}
}

func exec(t *testing.T, db *clickhouse.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if err := db.Exec(context.Background(), s); err != nil {
			t.Fatalf("%v\n%s", err, s)
		}
	}
}

// told is a query's rows, a line each.
func told(t *testing.T, db *clickhouse.DB, query string) string {
	t.Helper()
	var rows []struct {
		Line string `ch:"line"`
	}
	if err := db.Select(context.Background(), &rows, query); err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
	var lines []string
	for _, r := range rows {
		lines = append(lines, r.Line)
	}
	return strings.Join(lines, "\n")
}

const states = "SELECT concat(code, ' ', state, ' ', toString(failures), '/', toString(replays)) AS line FROM dead_letter_status ORDER BY code, line"

func TestLettersLand(t *testing.T) {
	db := openDatabase(t)
	l := lander(t, db)
	whole := letter(2, `{"type":"PageRange","document_id":"`+doc+`","run_id":"`+run+`","submitted_at":"2026-03-01T12:00:00Z","options":{"model":"m","dpi":108},"pages":[17,18]}`,
		"lc-page", "", "lc-code", "timeout", "lc-topic", "lc.page-ranges.bulk")
	handle(t, l, letter(1, `{}`), whole,
		letter(3, "", "lc-stage", "planner", "lc-run-id", "", "lc-page", "", "lc-topic", "lc.documents", "lc-value-ref", "s3://b/documents/x/record", "lc-schema", "", "lc-code", "encrypted"),
		letter(4, "\xff{", "lc-document-id", "none", "lc-run-id", "", "lc-page", "x", "lc-attempts", "", "lc-code", strings.Repeat("c", 500), "lc-error", "\xff"),
		letter(5, `{}`, "lc-document-id", gone))
	want := strings.Join([]string{
		doc + " " + run + " 3 [3] splitter page-too-large page-ranges 2 40 PageRange.v1 key 2 1 1 0af7651916cd43dd8448eb211c80319c 2026-03-01 12:00:01.000",
		doc + " " + run + " 0 [17,18] splitter timeout page-ranges.bulk 2 40 PageRange.v1 key " + fmt.Sprint(len(whole.Value)) + " 1 2 0af7651916cd43dd8448eb211c80319c 2026-03-01 12:00:02.000",
		doc + " " + none + " 0 [] planner encrypted documents 2 40  key 0 1 3 0af7651916cd43dd8448eb211c80319c 2026-03-01 12:00:03.000",
		none + " " + none + " 0 [] splitter " + strings.Repeat("c", 128) + " page-ranges 2 40 PageRange.v1 key 2 1 4 0af7651916cd43dd8448eb211c80319c 2026-03-01 12:00:04.000",
	}, "\n")
	got := told(t, db, `SELECT arrayStringConcat([toString(document_id), toString(run_id), toString(page), toString(pages), stage, code, topic, toString(record_partition),
		toString(record_offset), record, key, toString(bytes), toString(letter_partition), toString(letter_offset), trace_id, toString(failed_at)], ' ') AS line
		FROM dead_letter_status ORDER BY letter_offset`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := told(t, db, "SELECT toString(count()) AS line FROM dead_letters"); n != "4" {
		t.Errorf("%s rows: a deleted document's letter lands", n)
	}
}

// One letter is one row of the view, however often its record fails; a replay is counted before it has failed.
func TestALetterIsOneHoweverOftenItFails(t *testing.T) {
	db := openDatabase(t)
	l := lander(t, db)
	first := letter(1, `{}`)
	handle(t, l, first)
	expect := func(want string) {
		t.Helper()
		if got := told(t, db, states); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	expect("page-too-large open 1/0")
	handle(t, l, letter(2, `{}`)) // the crash of a stage sends a letter twice
	expect("page-too-large open 1/0")
	note := func(replay int) {
		t.Helper()
		exec(t, db, fmt.Sprintf("INSERT INTO dead_letter_replays (letter_id, replay, document_id, replayed_at) VALUES ('%s', %d, '%s', '2026-03-01 13:00:00')",
			schemas.LetterID(first.Headers), replay, doc))
	}
	note(1)
	expect("page-too-large replayed 1/1")
	handle(t, l, again(first, 9, 1))
	expect("page-too-large open 2/1")
	note(2)
	expect("page-too-large replayed 2/2")
	handle(t, l, first, letter(2, `{}`), again(first, 9, 1)) // the topic is read again from its start
	expect("page-too-large replayed 2/2")
	handle(t, l, again(first, 12, 3)) // the note of replay 3 was lost
	expect("page-too-large open 3/3")
	exec(t, db, fmt.Sprintf("INSERT INTO page_results (document_id, run_id, page, state, submitted_at, version) VALUES ('%s', '%s', 3, 'failed', '2026-03-01', 1)", doc, run))
	expect("page-too-large open 3/3")
	exec(t, db, fmt.Sprintf("INSERT INTO page_results (document_id, run_id, page, state, submitted_at, version) VALUES ('%s', '%s', 3, 'done', '2026-03-01', 2)", doc, run))
	expect("page-too-large resolved 3/3")
	exec(t, db, fmt.Sprintf("INSERT INTO deletions (document_id, requested_at, sequence, deleted_at, objects, version) VALUES ('%s', '2026-03-02', 1, '2026-03-02', 0, 1)", doc))
	expect("")
}

func TestWhenALetterIsResolved(t *testing.T) {
	db := openDatabase(t)
	l := lander(t, db)
	placeholder := "0198a000-0000-5000-8000-000000000003"
	planned := "0198a000-0000-5000-8000-000000000004"
	other := "0198a000-0000-7000-8000-000000000005"
	event := "0198a000-0000-5000-8000-000000000006"
	rangeValue, err := json.Marshal(map[string]any{"document_id": doc, "run_id": run, "options": map[string]any{"model": "m", "dpi": 108}, "pages": []int{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	handle(t, l,
		letter(1, string(rangeValue), "lc-page", "", "lc-code", "a-range"),
		letter(2, `{"source":"s3://b/k"}`, "lc-offset", "41", "lc-topic", "lc.documents", "lc-run-id", "", "lc-page", "", "lc-code", "b-document"),
		letter(3, `{"source":"s3://b/k"}`, "lc-offset", "42", "lc-topic", "lc.documents", "lc-run-id", placeholder, "lc-page", "", "lc-code", "c-model"),
		letter(4, `{}`, "lc-offset", "43", "lc-topic", "lc.results", "lc-stage", "recorder", "lc-page", "", "lc-code", "d-run"),
		letter(5, `{}`, "lc-offset", "44", "lc-topic", "lc.results", "lc-stage", "recorder", "lc-page", "", "lc-run-id", "", "lc-code", "e-accepted"),
		letter(6, `{"id":"`+event+`"}`, "lc-offset", "45", "lc-topic", "lc.document-events", "lc-stage", "webhooks", "lc-page", "", "lc-code", "f-webhook"),
		letter(7, `{}`, "lc-offset", "46", "lc-topic", "lc.controls", "lc-stage", "eraser", "lc-document-id", other, "lc-page", "", "lc-run-id", "", "lc-code", "g-control"))
	open := strings.Split("a-range b-document c-model d-run e-accepted f-webhook g-control", " ")
	resolved := map[string]bool{}
	expect := func(now ...string) {
		t.Helper()
		for _, code := range now {
			resolved[code] = true
		}
		var want []string
		for _, code := range open {
			state := map[bool]string{false: "open", true: "resolved"}[resolved[code]]
			want = append(want, code+" "+state+" 1/0")
		}
		if diff := cmp.Diff(strings.Join(want, "\n"), told(t, db, states)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	version := func(at time.Time) uint64 { return schemas.RowVersion(at, 0) }
	runRow := func(id, model, state, plannedAt string, decision uint64, v int) string {
		return fmt.Sprintf("INSERT INTO runs (run_id, document_id, model, state, planned_at, submitted_at, decision, version) VALUES ('%s', '%s', '%s', '%s', %s, '2026-03-01', %d, %d)",
			id, doc, model, state, plannedAt, decision, v)
	}
	page := func(n int, state string) string {
		return fmt.Sprintf("INSERT INTO page_results (document_id, run_id, page, state, submitted_at, version) VALUES ('%s', '%s', %d, '%s', '2026-03-01', %d)", doc, run, n, state, n)
	}
	expect()
	// What failed, and what was there before: none of it resolves anything.
	exec(t, db, page(1, "done"), page(2, "failed"), runRow(run, "m", "failed", "NULL", 1, 1), runRow(placeholder, "late", "failed", "NULL", version(day0.Add(5*time.Second)), 1),
		runRow(planned, "m", "completed", "'2026-03-01 11:00:00'", version(day0.Add(-time.Hour)), 1),
		fmt.Sprintf("INSERT INTO documents (document_id, title, submitted_at, version) VALUES ('%s', 'Report', '2026-03-01', 1)", doc),
		fmt.Sprintf("INSERT INTO webhook_deliveries (event_id, url, state, event_at, version) VALUES ('%s', 'u', 'failed', '2026-03-01', 1)", event))
	expect()
	exec(t, db, strings.Replace(page(2, "done"), ", 2)", ", 9)", 1))
	expect("a-range")
	exec(t, db, runRow(planned, "m", "running", "'2026-03-01 11:00:00'", version(day0.Add(time.Minute)), 2))
	expect("b-document") // the model of the other is another
	exec(t, db, strings.Replace(strings.Replace(runRow("0198a000-0000-5000-8000-000000000008", "late", "completed", "'2026-03-01 12:02:00'", version(day0.Add(2*time.Minute)), 1),
		"version)", "version, shadow)", 1), ", 1)", ", 1, true)", 1))
	expect() // a model that is only tried is not the run that was asked for
	exec(t, db, runRow("0198a000-0000-5000-8000-000000000007", "late", "queued", "'2026-03-01 12:02:00'", version(day0.Add(2*time.Minute)), 1))
	expect("c-model")
	exec(t, db, runRow(run, "m", "running", "NULL", 2, 2))
	expect("d-run")
	exec(t, db, fmt.Sprintf("INSERT INTO documents (document_id, title, sha256, submitted_at, version) VALUES ('%s', 'Report', 'ab', '2026-03-01', 2)", doc))
	expect("e-accepted")
	exec(t, db, fmt.Sprintf("INSERT INTO webhook_deliveries (event_id, url, state, event_at, version) VALUES ('%s', 'u', 'delivered', '2026-03-01', 2)", event))
	expect("f-webhook")
	exec(t, db, fmt.Sprintf("INSERT INTO deletions (document_id, requested_at, sequence, deleted_at, objects, version) VALUES ('%s', '2026-03-02', 1, '2026-03-02', 0, 1)", other))
	expect("g-control")
	if title := told(t, db, "SELECT any(title) AS line FROM dead_letter_status WHERE code = 'a-range'"); title != "Report" {
		t.Errorf("title %q", title)
	}
}

// picky refuses rows whose error has a word in it; away, where it is set, is its answer to everything.
type picky struct {
	Database
	word string
	away error
	rows []string
}

type pickyBatch struct {
	driver.Batch
	of   *picky
	rows []string
	bad  bool
}

func (p *picky) PrepareBatch(context.Context, string, ...driver.PrepareBatchOption) (driver.Batch, error) {
	return &pickyBatch{of: p}, p.away
}

func (p *picky) Probe(context.Context) error { return nil }

func (b *pickyBatch) Append(v ...any) error {
	b.bad = b.bad || strings.Contains(v[9].(string), b.of.word)
	b.rows = append(b.rows, fmt.Sprint(v[19], " ", v[9]))
	return nil
}

func (b *pickyBatch) Send() error {
	if b.bad {
		return fault.Permanentf("row-rejected", "no")
	}
	b.of.rows = append(b.of.rows, b.rows...)
	return nil
}

func TestARefusedRowLandsBare(t *testing.T) {
	p := &picky{word: "bad"}
	l := lander(t, p)
	handle(t, l, letter(1, "", "lc-error", "good"), letter(2, "", "lc-error", "bad"), letter(3, "", "lc-error", "fine"))
	if diff := cmp.Diff([]string{"1 good", "2 ", "3 fine"}, p.rows); diff != "" {
		t.Error(diff)
	}
	p.away = fault.AsUnavailable("clickhouse", errors.New("refused"))
	for _, r := range l.Handle(context.Background(), []stage.In{letter(4, ""), letter(5, "")}) {
		if fault.ClassOf(r.Err) != fault.Unavailable {
			t.Errorf("%v", r.Err)
		}
	}
}

func FuzzRowOf(f *testing.F) {
	f.Add("page-ranges", "3", "1", []byte(`{"pages":[1]}`), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("document-events", "", "x", []byte(`{"id":1}`), "--")
	f.Fuzz(func(t *testing.T, topic, page, replay string, value []byte, parent string) {
		r := rowOf(letter(1, string(value), "lc-topic", topic, "lc-page", page, "lc-replay", replay, "traceparent", parent), "lc.")
		if !schemas.IsUUID(r.LetterID) || !schemas.IsUUID(r.EventID) || len(r.Pages) > schemas.FirstPages || len(r.Topic) > maxName {
			t.Errorf("%+v", r)
		}
	})
}
