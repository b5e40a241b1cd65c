package recorder

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	ddl "leafcutter/schemas/clickhouse"
)

// openDatabase starts a server, migrates it and opens it.
func openDatabase(t testing.TB, options ...clickhouse.Option) *clickhouse.DB {
	t.Helper()
	server := localtest.StartSQL(t)
	cfg := clickhouse.Config{Addr: []string{server.Addr}, Database: server.Database, User: server.User, Password: server.Password, Timeout: 30 * time.Second}
	ctx := context.Background()
	for range 2 { // a second time there is nothing to do
		if err := clickhouse.Migrate(ctx, cfg, ddl.Migrations, nil); err != nil {
			t.Fatal(err)
		}
	}
	db, err := clickhouse.Open(ctx, cfg, options...)
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

// query gives the rows of a query as text, column by column.
func query(t *testing.T, db *clickhouse.DB, sql string) [][]string {
	t.Helper()
	rows, err := db.Query(context.Background(), sql)
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	var out [][]string
	for rows.Next() {
		dest := make([]any, len(rows.Columns()))
		for i, column := range rows.ColumnTypes() {
			dest[i] = newOf(column)
		}
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		line := make([]string, len(dest))
		for i := range dest {
			line[i] = textOf(dest[i])
		}
		out = append(out, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLandsInClickHouse(t *testing.T) {
	db := openDatabase(t)
	r, err := New(Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	run, other := runOf(docA, 3), runOf(docB, 2)
	early := other
	early.PagesSelected = 0
	p := (&partition{t: t}).add(
		accepted(docA, "Report"), planned(run), done(run, 1, 2), failed(run, 2, "render-failed"),
		accepted(docB, ""), schemas.RunFailed{Run: early, Stage: "planner", Code: "encrypted", Error: "needs a password", FailedAt: day0},
		failed(run, 1, "too-late"), done(run, 3, 3))
	waiting := "0198a000-0000-7000-8000-00000000000c"
	p.add(accepted(waiting, "Waiting"))
	events := handle(t, r, p.in, 3)
	if len(events) != 2 || events[0].Code != "encrypted" || events[1].State != schemas.CompletedWithFailures || events[1].Boxes != 5 {
		t.Fatalf("%+v", events)
	}
	check := func(what, sql string, want [][]string) {
		t.Helper()
		if diff := cmp.Diff(want, query(t, db, sql)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	all := func() {
		t.Helper()
		check("documents", "SELECT document_id, title, source_uri, content_type, sha256, bytes, page_count, submitted_at, webhook_url FROM documents FINAL ORDER BY document_id", [][]string{
			{docA, "Report", "s3://b/" + docA, "application/pdf", "ab", "1000", "3", "2026-03-01T12:00:00Z", "https://example.org/hook"},
			{docB, "", "s3://b/" + docB, "application/pdf", "ab", "1000", "3", "2026-03-01T12:00:00Z", "https://example.org/hook"},
			{waiting, "Waiting", "s3://b/" + waiting, "application/pdf", "ab", "1000", "3", "2026-03-01T12:00:00Z", "https://example.org/hook"}})
		check("document_status", "SELECT document_id, title, state, pages_selected, pages_done, pages_failed, boxes, finished_at FROM document_status ORDER BY document_id", [][]string{
			{docA, "Report", "completed_with_failures", "3", "2", "1", "5", "2026-03-01T12:00:17Z"},
			{docB, "", "failed", "0", "0", "0", "0", "2026-03-01T12:00:15Z"},
			{waiting, "Waiting", "queued", "0", "0", "0", "0", "NULL"}})
		check("runs", "SELECT run_id, document_id, model, model_digest, options, dpi, pages_selected, pages_done, pages_failed, boxes, state, code, planned_at, first_result_at, finished_at FROM runs FINAL ORDER BY document_id", [][]string{
			{run.RunID, docA, "layout_cdla", "d1", options.Canonical(), "108", "3", "2", "1", "5", "completed_with_failures", "", "2026-03-01T12:00:01Z", "2026-03-01T12:00:12Z", "2026-03-01T12:00:17Z"},
			{other.RunID, docB, "layout_cdla", "d1", options.Canonical(), "108", "0", "0", "0", "0", "failed", "encrypted", "NULL", "NULL", "2026-03-01T12:00:15Z"}})
		check("page_results", "SELECT page, state, code, error, dpi, width, height, image_key, length(boxes.class), render_ms, queue_ms, infer_ms, annotate_ms, trace_id, detected_at FROM page_results FINAL ORDER BY page", [][]string{
			{"1", "done", "", "", "108", "918", "1188", schemas.PageImageKey(docA, 108, "r1", 1), "2", "12", "1", "90", "20", "4bf92f3577b34da6a3ce929d0e0e4736", "2026-03-01T12:00:03Z"},
			{"2", "failed", "render-failed", "what went wrong", "108", "0", "0", "", "0", "0", "0", "0", "0", "", "2026-03-01T12:00:02Z"},
			{"3", "done", "", "", "108", "918", "1188", schemas.PageImageKey(docA, 108, "r1", 3), "3", "12", "1", "90", "20", "4bf92f3577b34da6a3ce929d0e0e4736", "2026-03-01T12:00:03Z"}})
		check("detections", "SELECT title, model, page, k, class, score, x0, y0, x1, y1, dpi, width, height, text, crop_key, annotated_key FROM detections WHERE document_id = '"+docA+"' ORDER BY page, k", [][]string{
			{"Report", "layout_cdla", "1", "1", "title", "0.9", "10.25", "0", "200.5", "15", "108", "918", "1188", "Text", "crop-1-0", schemas.AnnotatedKey(docA, run.RunID, 1)},
			{"Report", "layout_cdla", "1", "2", "text", "0.85", "10.25", "20", "200.5", "35", "108", "918", "1188", "Text", "crop-1-1", schemas.AnnotatedKey(docA, run.RunID, 1)},
			{"Report", "layout_cdla", "3", "1", "title", "0.9", "10.25", "0", "200.5", "15", "108", "918", "1188", "Text", "crop-3-0", schemas.AnnotatedKey(docA, run.RunID, 3)},
			{"Report", "layout_cdla", "3", "2", "text", "0.85", "10.25", "20", "200.5", "35", "108", "918", "1188", "Text", "crop-3-1", schemas.AnnotatedKey(docA, run.RunID, 3)},
			{"Report", "layout_cdla", "3", "3", "table", "0.8", "10.25", "40", "200.5", "55", "108", "918", "1188", "Text", "crop-3-2", schemas.AnnotatedKey(docA, run.RunID, 3)}})
		check("failures", "SELECT document_id, title, model, page, stage, code, error FROM failures ORDER BY document_id, page", [][]string{
			{docA, "Report", "layout_cdla", "2", "splitter", "render-failed", "what went wrong"},
			{docB, "", "layout_cdla", "0", "planner", "encrypted", "needs a password"}})
	}
	all()

	// The whole topic again, by a recorder that remembers nothing: the same answers, the same events.
	again, err := New(Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	replayed := handle(t, again, p.in, 2)
	for _, e := range replayed {
		if !slices.Contains(events, e) {
			t.Errorf("an event of its own: %+v", e)
		}
	}
	if len(replayed) < 2 {
		t.Errorf("%d events said again, want both", len(replayed))
	}
	all()
	if err := db.Exec(context.Background(), "OPTIMIZE TABLE page_results FINAL"); err != nil {
		t.Fatal(err)
	}
	all()
}

func TestServerRefusesOneRecord(t *testing.T) {
	db := openDatabase(t)
	ctx := context.Background()
	if err := db.Exec(ctx, "ALTER TABLE page_results ADD CONSTRAINT small CHECK width < 5000"); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	run := runOf(docA, 40)
	p := (&partition{t: t}).add(accepted(docA, "R"), planned(run))
	for n := 1; n <= 40; n++ {
		page := done(run, n, 2)
		if n == 23 {
			page.Width = 6000
		}
		p.add(page)
	}
	for i, result := range r.Handle(ctx, p.in) {
		if bad := i == 24; bad != (result.Err != nil) {
			t.Fatalf("record %d: %v", i, result.Err)
		} else if bad && fault.ClassOf(result.Err) != fault.Permanent {
			t.Fatalf("record %d: %v", i, result.Err)
		}
	}
	want := [][]string{{"39", "78", "39"}}
	got := query(t, db, "SELECT pages_done, boxes, (SELECT count() FROM page_results FINAL) FROM runs FINAL")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Months apart enough and one insert makes more partitions than the server allows: that too is halved away.
	spread := &partition{t: t}
	for n := range 150 {
		d := accepted(fmt.Sprintf("0198a000-0000-7000-8000-%012d", n), "old")
		d.SubmittedAt = time.Date(1980, time.Month(1+n), 1, 0, 0, 0, 0, time.UTC)
		spread.add(d)
	}
	for i, result := range r.Handle(ctx, spread.in) {
		if result.Err != nil {
			t.Fatalf("record %d: %v", i, result.Err)
		}
	}
	if got := query(t, db, "SELECT count() FROM documents FINAL WHERE title = 'old'"); got[0][0] != "150" {
		t.Errorf("%s documents, want 150", got[0][0])
	}
}

// A server that answers and takes no writes is away, as far as the recorder goes.
func TestProbeWrites(t *testing.T) {
	db := openDatabase(t, clickhouse.WithProbeQuery(ProbeQuery))
	ctx := context.Background()
	for range 3 {
		if err := db.Probe(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := query(t, db, "SELECT prober, count() FROM probes FINAL GROUP BY prober"); !slices.EqualFunc(got, [][]string{{Name, "1"}}, slices.Equal) {
		t.Errorf("%v, want one row of the recorder", got)
	}
	if err := db.Exec(ctx, "ALTER TABLE probes ADD CONSTRAINT none CHECK prober = ''"); err != nil {
		t.Fatal(err)
	}
	if got := query(t, db, "SELECT count() FROM runs"); got[0][0] != "0" {
		t.Fatal(got)
	}
	if err := db.Probe(ctx); fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("%v is %s, want unavailable: nothing can be written", err, fault.ClassOf(err))
	}
}

func TestAnInsertSentTwiceIsOne(t *testing.T) {
	db := openDatabase(t)
	ctx := context.Background()
	run := runOf(docA, 2)
	p := (&partition{t: t}).add(accepted(docA, "R"), planned(run), done(run, 1, 2), done(run, 2, 1))
	r, err := New(Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		// As when the answer to the first was lost: what memory has is dropped, and the records come again.
		for _, result := range r.Handle(ctx, p.in) {
			if result.Err != nil {
				t.Fatal(result.Err)
			}
		}
		r.cache = newCache(10, 10)
		if err := db.Exec(ctx, "TRUNCATE TABLE runs"); err != nil {
			t.Fatal(err)
		}
	}
	if got := query(t, db, "SELECT count() FROM page_results"); got[0][0] != "2" {
		t.Errorf("%s rows before any merge, want 2", got[0][0])
	}
}

func TestRunsWaitForTheirModel(t *testing.T) {
	db := openDatabase(t)
	ctx := context.Background()
	members := map[string]int{}
	r, err := New(Config{DB: db, Members: func(_ context.Context, group string) (int, error) { return members[group], nil }})
	if err != nil {
		t.Fatal(err)
	}
	run := runOf(docA, 2)
	p := (&partition{t: t}).add(accepted(docA, "R"), planned(run))
	handle(t, r, p.in, 2)
	look := func(r *Recorder, want schemas.State) {
		t.Helper()
		if err := r.watchOnce(ctx, false, func() {}); err != nil {
			t.Fatal(err)
		}
		if got := query(t, db, "SELECT state FROM document_status"); got[0][0] != string(want) {
			t.Errorf("state %s, want %s", got[0][0], want)
		}
	}
	look(r, schemas.WaitingForModel)
	look(r, schemas.WaitingForModel)
	members["detector-layout_cdla"] = 1
	look(r, schemas.Queued)
	members["detector-layout_cdla"] = 0
	look(r, schemas.WaitingForModel)
	// A recorder that has just started, and knows of the run from the table alone.
	members["detector-layout_cdla"] = 2
	fresh, err := New(Config{DB: db, Members: r.watch.members})
	if err != nil {
		t.Fatal(err)
	}
	look(fresh, schemas.Queued)
	members["detector-layout_cdla"] = 0
	r.watch.rescan() // as once a minute: another recorder has written meanwhile
	look(r, schemas.WaitingForModel)
	p.add(done(run, 1, 1))
	handle(t, r, p.in[2:], 1)
	look(r, schemas.Running)
	p.add(done(run, 2, 1))
	handle(t, r, p.in[3:], 1)
	look(fresh, schemas.Completed)
	look(r, schemas.Completed)
	if len(r.watch.idle) != 0 {
		t.Errorf("still watched: %v", r.watch.idle)
	}
}

// Two recorders share the documents; partitions move between them while records come.
func TestRecordersShareATopic(t *testing.T) {
	db := openDatabase(t)
	var recorders []*Recorder
	for range 2 {
		r, err := New(Config{DB: db})
		if err != nil {
			t.Fatal(err)
		}
		recorders = append(recorders, r)
	}
	var events []schemas.RunEnded
	partitions := make([]*partition, 4)
	for i := range partitions {
		partitions[i] = &partition{t: t, id: int32(i)}
		for d := range 3 {
			run := runOf(fmt.Sprintf("0198a000-0000-7000-8000-0000%04d%04d", i, d), 4)
			partitions[i].add(accepted(run.DocumentID, "x"), planned(run), done(run, 1, 1), done(run, 2, 1), failed(run, 3, "a"), done(run, 4, 1))
		}
	}
	for step := range 18 {
		for i, p := range partitions {
			owner := recorders[(i+step/5)%2]
			if step%5 == 0 {
				for _, r := range recorders {
					r.Stage().Revoked(schemas.TopicResults, []int32{p.id})
				}
				if err := owner.Stage().Assigned(context.Background(), schemas.TopicResults, []int32{p.id}); err != nil {
					t.Fatal(err)
				}
			}
			// The last record of the former owner comes again: it had not been committed.
			from := max(0, step-1)
			events = append(events, handle(t, owner, p.in[from:step+1], 2)...)
		}
	}
	want := [][]string{{"12", "36", "12", "36"}}
	if diff := cmp.Diff(want, query(t, db, "SELECT countIf(state = 'completed_with_failures'), sum(pages_done), sum(pages_failed), sum(boxes) FROM runs FINAL")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	said := map[string]schemas.RunEnded{}
	for _, e := range events {
		if old, ok := said[e.ID]; ok && old != e {
			t.Errorf("%+v\n%+v", old, e)
		}
		said[e.ID] = e
	}
	if len(said) != 12 {
		t.Errorf("%d ends, want 12", len(said))
	}
}

var _ stage.Handler = (*Recorder)(nil)
