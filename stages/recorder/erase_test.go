package recorder

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

func deleted(document string) schemas.DocumentDeleted {
	return schemas.DocumentDeleted{DocumentID: document, Sequence: 9, RequestedAt: day0, DeletedAt: day0.Add(time.Minute), Objects: 12}
}

// rowsOf counts the rows of a document.
func rowsOf(m *memory, document string) (n int) {
	for _, row := range m.documents {
		if row.DocumentID == document {
			n++
		}
	}
	for _, row := range m.runs {
		if row.DocumentID == document {
			n++
		}
	}
	for _, row := range m.pages {
		if row.DocumentID == document {
			n++
		}
	}
	return n
}

func TestADeletedDocumentHasNoRowsAndGetsNone(t *testing.T) {
	run, other := runOf(docA, 2), runOf(docB, 1)
	p := (&partition{t: t}).add(accepted(docA, "Report"), accepted(docB, "Other"), planned(run), planned(other), done(run, 1, 2),
		deleted(docA), done(run, 2, 1), failed(run, 1, "late"), planned(run), accepted(docA, "Report"), done(other, 1, 1), deleted(docA))
	for _, size := range []int{1, 2, 5, len(p.in)} {
		t.Run(fmt.Sprint("batches of ", size), func(t *testing.T) {
			tables := newMemory()
			for _, what := range []string{"at first", "from offset 0"} {
				events := handle(t, newRecorder(t, tables), p.in, size)
				if len(events) == 0 || slices.ContainsFunc(events, func(e schemas.RunEnded) bool { return e.DocumentID != docB }) {
					t.Errorf("%s: said %+v", what, events)
				}
				if a, b := rowsOf(tables, docA), rowsOf(tables, docB); a != 0 || b != 3 {
					t.Errorf("%s: %d rows of the deleted document, %d of the other", what, a, b)
				}
				want := deletionRow{DocumentID: docA, RequestedAt: day0.UnixMilli(), Sequence: 9, DeletedAt: day0.Add(time.Minute).UnixMilli(),
					Objects: 12, Version: schemas.RowVersion(p.in[5].Timestamp, 5)}
				if diff := cmp.Diff(map[string]deletionRow{docA: want}, tables.deletions); diff != "" {
					t.Errorf("%s: deletions (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}

// From the moment that the delete is known nothing lands, though the objects, and so DocumentDeleted, take their time.
func TestNothingLandsOnceTheDeleteIsKnown(t *testing.T) {
	tables := newMemory()
	r, err := build(Config{Deleted: func(id string) bool { return id == docA }}, tables)
	if err != nil {
		t.Fatal(err)
	}
	run, other := runOf(docA, 1), runOf(docB, 1)
	p := (&partition{t: t}).add(accepted(docA, "Report"), planned(run), done(run, 1, 1), accepted(docB, "Other"), planned(other), done(other, 1, 1))
	if events := handle(t, r, p.in, len(p.in)); len(events) != 1 || rowsOf(tables, docA) != 0 || rowsOf(tables, docB) != 3 {
		t.Errorf("%d rows; said %+v", rowsOf(tables, docA), events)
	}
}

func TestABrokenDeletionComesAgain(t *testing.T) {
	tables := newMemory()
	r := newRecorder(t, tables)
	run := runOf(docA, 2)
	p := (&partition{t: t}).add(accepted(docA, "Report"), planned(run), done(run, 1, 2), deleted(docA), done(run, 2, 2))
	handle(t, r, p.in[:3], 3)
	tables.failDelete = errAway
	if results := r.Handle(context.Background(), p.in[3:4]); fault.ClassOf(results[0].Err) != fault.Unavailable {
		t.Fatalf("%+v", results)
	}
	tables.failDelete = nil
	handle(t, r, p.in[3:], 1)
	if n := rowsOf(tables, docA); n != 0 || len(tables.deletions) != 1 {
		t.Errorf("%d rows, %+v", n, tables.deletions)
	}
}

// A recorder that lost its partition may still be inserting when the next owner deletes.
func TestRowsThatLandAfterTheDeleteAreTakenAway(t *testing.T) {
	tables := newMemory()
	asked := false
	r, err := build(Config{Deleted: func(id string) bool { return asked && id == docA }}, tables)
	if err != nil {
		t.Fatal(err)
	}
	tables.fail = func(string, []documentRow, []pageRow, []runRow) error {
		asked = true // while it inserts
		return nil
	}
	run, other := runOf(docA, 2), runOf(docB, 2)
	p := (&partition{t: t}).add(accepted(docA, "Report"), planned(run), accepted(docB, "Other"), planned(other), done(run, 1, 2))
	tables.failDelete = errAway
	for i, result := range r.Handle(context.Background(), p.in[:4]) {
		if away := i < 2; away != (fault.ClassOf(result.Err) == fault.Unavailable && result.Err != nil) {
			t.Errorf("record %d: %v", i, result.Err)
		}
	}
	tables.failDelete = nil
	handle(t, r, p.in[:1], 1)
	if a, b := rowsOf(tables, docA), rowsOf(tables, docB); a != 0 || b != 2 {
		t.Errorf("%d rows of the deleted document, %d of the other", a, b)
	}
	// The watch on models writes too.
	asked, tables.fail = false, nil
	r.watch.members = func(context.Context, string) (int, error) { return 0, nil }
	handle(t, r, p.in[:4], 4)
	tables.fail = func(string, []documentRow, []pageRow, []runRow) error {
		asked = true
		return nil
	}
	if err := r.watchOnce(context.Background(), true, func() {}); err != nil {
		t.Fatal(err)
	}
	if a, b := rowsOf(tables, docA), rowsOf(tables, docB); a != 0 || b != 2 || len(r.watch.idle) != 1 {
		t.Errorf("%d rows of the deleted document, %d of the other, %d watched", a, b, len(r.watch.idle))
	}
}

// Whenever a document is deleted, however records fall into batches, wherever the recorder is replaced, and however often
// the topic is replayed: nothing is left of it, and the others are as if it had never been.
func TestDeletionsTouchNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := topic(t, 500, 2)
		gone := "0198a000-0000-7000-8000-000000000000"
		value, err := schemas.Marshal(deleted(gone))
		if err != nil {
			t.Fatal(err)
		}
		at := rapid.IntRange(0, len(in)).Draw(t, "deleted")
		in = slices.Insert(in, at, stage.In{Topic: schemas.TopicResults, Timestamp: day0.Add(time.Hour + time.Duration(10*at)*time.Millisecond), Key: gone, Value: value, Attempt: 1})
		var others []stage.In
		for i := range in {
			in[i].Offset = int64(i)
			if in[i].Key != gone {
				others = append(others, in[i])
			}
		}
		want, wantEvents := newMemory(), map[string]schemas.RunEnded{}
		r, _ := build(Config{}, want)
		landAll(t, r, [][]stage.In{others}, wantEvents)

		got, gotEvents := newMemory(), map[string]schemas.RunEnded{}
		r, _ = build(Config{MaxRuns: rapid.IntRange(1, 5).Draw(t, "max runs")}, got)
		for range rapid.IntRange(1, 2).Draw(t, "replays") {
			for _, part := range batches(t, in) {
				if rapid.Bool().Draw(t, "restart") {
					r, _ = build(Config{}, got)
				}
				landAll(t, r, [][]stage.In{part}, gotEvents)
			}
		}
		if n := rowsOf(got, gone); n != 0 || len(got.deletions) != 1 {
			t.Fatalf("%d rows are left, %+v", n, got.deletions)
		}
		sameAnswers(t, "the others", want, got)
	})
}

// The same against the real tables.
func TestErasesInClickHouse(t *testing.T) {
	db := openDatabase(t)
	ctx := context.Background()
	run, other := runOf(docA, 2), runOf(docB, 1)
	p := (&partition{t: t}).add(accepted(docA, "Report"), planned(run), done(run, 1, 2), accepted(docB, "Other"), planned(other), done(other, 1, 1),
		deleted(docA), done(run, 2, 1), accepted(docA, "Report"))
	for _, statement := range []string{
		"INSERT INTO webhook_deliveries (event_id, document_id, url) VALUES (generateUUIDv4(), '%s', 'https://example.org')",
		"INSERT INTO dead_letters (letter_id, document_id) VALUES (generateUUIDv4(), '%s')",
		"INSERT INTO dead_letter_replays (letter_id, document_id) VALUES (generateUUIDv4(), '%s')",
		"INSERT INTO prunes (document_id, what) VALUES ('%s', 'images')",
	} {
		for _, id := range []string{docA, docB} {
			if err := db.Exec(ctx, fmt.Sprintf(statement, id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Every table that names a document is one of those that are erased.
	tables := query(t, db, `SELECT table FROM system.columns WHERE database = currentDatabase() AND name = 'document_id'
		AND table IN (SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree') ORDER BY table`)
	var named []string
	for _, row := range tables {
		named = append(named, row[0])
	}
	all := append(erased(), "deletions")
	slices.Sort(all)
	if diff := cmp.Diff(all, named); diff != "" {
		t.Fatalf("tables with document_id (-erased +there):\n%s", diff)
	}
	for _, replay := range []string{"at first", "from offset 0", "from offset 0 once more"} {
		r, err := New(Config{DB: db})
		if err != nil {
			t.Fatal(err)
		}
		handle(t, r, p.in, 2)
		for _, table := range erased() {
			got := query(t, db, "SELECT countIf(document_id = '"+docA+"'), countIf(document_id = '"+docB+"') > 0 FROM "+table)
			if got[0][0] != "0" || got[0][1] != "1" {
				t.Errorf("%s: %s: %v", replay, table, got[0])
			}
		}
		want := [][]string{{docA, "2026-03-01T12:00:00Z", "9", "2026-03-01T12:01:00Z", "12"}}
		if diff := cmp.Diff(want, query(t, db, "SELECT document_id, requested_at, sequence, deleted_at, objects FROM deletions FINAL")); diff != "" {
			t.Errorf("%s: deletions (-want +got):\n%s", replay, diff)
		}
		if got := query(t, db, "SELECT state, pages_done FROM document_status"); len(got) != 1 || got[0][0] != "completed" {
			t.Errorf("%s: %v", replay, got)
		}
	}
	// Merges bring nothing back.
	for _, table := range erased() {
		if err := db.Exec(ctx, "OPTIMIZE TABLE "+table+" FINAL"); err != nil {
			t.Fatal(err)
		}
	}
	if got := query(t, db, "SELECT count() FROM documents WHERE document_id = '"+docA+"'"); got[0][0] != "0" {
		t.Errorf("%s rows are back after a merge", got[0][0])
	}
}

// What a control says survives the tables, and a cancelled run reads as it was asked.
func TestControlsInClickHouse(t *testing.T) {
	db := openDatabase(t)
	run := runOf(docA, 3)
	sequence := day0.Add(time.Hour).UnixMilli()
	cancelled := schemas.RunCancelled{DocumentID: docA, RunID: run.RunID, SubmittedAt: day0, Sequence: sequence, CancelledAt: day0}
	resumed := schemas.RunResumed{DocumentID: docA, RunID: run.RunID, SubmittedAt: day0, Sequence: sequence + 1, ResumedAt: day0}
	p := (&partition{t: t}).add(cancelled, accepted(docA, "Report"), planned(run), done(run, 1, 2), resumed, cancelled, done(run, 2, 1), done(run, 3, 1))
	for i, want := range []string{"cancelled", "cancelled", "cancelled", "cancelled", "running", "running", "running", "completed"} {
		r, err := New(Config{DB: db}) // one that knows from the tables alone
		if err != nil {
			t.Fatal(err)
		}
		events := handle(t, r, p.in[i:i+1], 1)
		rows := query(t, db, "SELECT s.state, r.finished_at, r.control FROM document_status s LEFT JOIN (SELECT * FROM runs FINAL) r ON s.document_id = r.document_id")
		switch {
		case len(rows) != 1, rows[0][0] != want, want == "cancelled" && (rows[0][1] != "2026-03-01T13:00:00Z" || rows[0][2] != fmt.Sprint(sequence)),
			want == "running" && (rows[0][1] != "NULL" || rows[0][2] != fmt.Sprint(-sequence-1)):
			t.Errorf("after %d: %v, want %s", i, rows[0], want)
		}
		for _, e := range events {
			if e.State == schemas.Cancelled && (e.Control != sequence || e.ID != (schemas.RunEnded{RunID: run.RunID, State: schemas.Cancelled, Control: sequence}).EventID()) {
				t.Errorf("after %d: %+v", i, e)
			}
		}
	}
}
