package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// bookPages is enough for pages to wait in every stage and on both lanes when a run is cancelled.
const bookPages = 3 * schemas.FirstPages

// underWay waits until some pages of a document are done, and others are not.
func underWay(ctx context.Context, t testing.TB, p *pipeline.Pipeline, id string) {
	t.Helper()
	eventually(ctx, t, "the first pages are done", func() (bool, error) {
		d, err := p.Client.Get(ctx, id)
		return err == nil && d.PagesDone > 0, err
	})
}

// A cancelled book is let go of in every stage and shows as cancelled within moments; resumed, it is completed with each
// page once.
func TestCancelAndResume(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t) // of its own: it waits until every stage has nothing left to do
	ctx := bounded(t, 4*patience)
	id := submit(ctx, t, p, corpus.File{Name: "book.pdf", Data: corpus.Report(bookPages, 5)}, client.Options{})
	underWay(ctx, t, p, id)

	asked := time.Now()
	done := must(p.Client.Cancel(ctx, id))(t)
	if done.Sequence == 0 || done.State.Final() {
		t.Errorf("cancel: %+v", done)
	}
	stopped := await(ctx, t, p, id, schemas.Cancelled)
	took := time.Since(asked)
	if took > 20*time.Second {
		t.Errorf("cancelled only after %s", took)
	}
	for _, group := range []string{"splitter", schemas.DetectorGroup(p.Model), "annotator", "recorder"} {
		drained(ctx, t, p, group)
	}
	left := must(p.Client.Get(ctx, id))(t)
	if left.PagesDone >= bookPages || left.State != schemas.Cancelled {
		t.Errorf("cancelled with %d pages done, and after that %d: %s", stopped.PagesDone, left.PagesDone, left.State)
	}
	if done, err := p.Client.Cancel(ctx, id); err != nil || done.Sequence != 0 || done.State != schemas.Cancelled {
		t.Errorf("cancelled again: %+v, %v", done, err)
	}

	done = must(p.Client.Resume(ctx, id))(t)
	if done.Sequence == 0 || done.Pages != bookPages-left.PagesDone {
		t.Errorf("resume: %+v, where %d of %d were done", done, left.PagesDone, bookPages)
	}
	eventually(ctx, t, "the run goes on", func() (bool, error) {
		d, err := p.Client.Get(ctx, id)
		return err == nil && d.State != schemas.Cancelled, err
	})
	d := await(ctx, t, p, id, schemas.Completed)
	if d.PagesDone != bookPages || d.PagesFailed != 0 || len(d.Runs) != 1 {
		t.Errorf("resumed: %d pages done, %d failed, %d runs", d.PagesDone, d.PagesFailed, len(d.Runs))
	}
	oncePerPage(ctx, t, p, id, bookPages)
	states := map[schemas.State]string{}
	for _, e := range ends(ctx, t, p)[id] {
		if known, ok := states[e.State]; ok && known != e.ID {
			t.Errorf("%s is said with two identities", e.State)
		}
		states[e.State] = e.ID
	}
	if len(states) != 2 || states[schemas.Cancelled] == "" || states[schemas.Completed] == "" {
		t.Errorf("the ends said are %v", states)
	}
	for _, ask := range []func(context.Context, string) (*api.Controlled, error){p.Client.Cancel, p.Client.Resume} {
		if done, err := ask(ctx, id); err != nil || done.Sequence != 0 || done.State != schemas.Completed {
			t.Errorf("of a document that is done: %+v, %v", done, err)
		}
	}
	t.Logf("cancelled within %.1f s with %d of %d pages done, %d when every stage was idle", took.Seconds(), stopped.PagesDone, bookPages, left.PagesDone)
}

// oncePerPage holds a document to one row a page.
func oncePerPage(ctx context.Context, t testing.TB, p *pipeline.Pipeline, id string, pages int) {
	t.Helper()
	var rows []struct {
		Rows  uint64 `ch:"rows"`
		Pages uint64 `ch:"pages"`
	}
	ok(t, p.Select(ctx, &rows, "SELECT count() AS rows, uniqExact(page) AS pages FROM page_results FINAL WHERE document_id = ?", id))
	if len(rows) != 1 || rows[0].Rows != uint64(pages) || rows[0].Pages != uint64(pages) {
		t.Errorf("document %s has %+v, want %d rows, a page each", id, rows, pages)
	}
}

// remains is what there is of documents anywhere: rows of every table that has documents, and objects.
func remains(ctx context.Context, t testing.TB, p *pipeline.Pipeline, ids ...string) string {
	t.Helper()
	var tables []struct {
		Table string `ch:"table"`
	}
	ok(t, p.Select(ctx, &tables, `SELECT DISTINCT table FROM system.columns WHERE database = 'leafcutter' AND name = 'document_id'
		AND table != 'deletions' ORDER BY table`))
	if len(tables) < 5 {
		t.Fatalf("only these tables have documents: %v", tables)
	}
	var b strings.Builder
	for _, id := range ids {
		for _, table := range tables {
			var n []struct {
				N uint64 `ch:"n"`
			}
			ok(t, p.Select(ctx, &n, "SELECT count() AS n FROM "+table.Table+" WHERE toString(document_id) = ?", id))
			if n[0].N > 0 {
				fmt.Fprintf(&b, "%s: %d rows in %s\n", id, n[0].N, table.Table)
			}
		}
		ok(t, p.Objects.List(ctx, schemas.DocumentPrefix(id), func(o objectstore.Info) error {
			fmt.Fprintf(&b, "%s\n", o.Key)
			return nil
		}))
	}
	return b.String()
}

// Deleted documents, one that was done and one in the middle of its run, leave no row and no object, also when every
// stage reads every topic again. Their neighbour loses nothing.
func TestDeleteIsForGood(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t)
	ctx := bounded(t, 4*patience)
	kept := submit(ctx, t, p, sample(t), client.Options{})
	key := client.Options{IdempotencyKey: "the key of a document that goes"}
	finished := submit(ctx, t, p, sample(t), key)
	await(ctx, t, p, kept, schemas.Completed)
	await(ctx, t, p, finished, schemas.Completed)
	before := must(p.Found(ctx, kept))(t)
	running := submit(ctx, t, p, corpus.File{Name: "book.pdf", Data: corpus.Report(bookPages, 6)}, client.Options{})
	underWay(ctx, t, p, running)

	gone := []string{finished, running}
	for _, id := range gone {
		if done, err := p.Client.Delete(ctx, id); err != nil || done.Sequence == 0 {
			t.Fatalf("delete: %+v, %v", done, err)
		}
		if _, err := p.Client.Get(ctx, id); client.Code(err) != "document-deleted" {
			t.Errorf("a deleted document: %v", err)
		}
		if done, err := p.Client.Delete(ctx, id); err != nil || done.Sequence != 0 {
			t.Errorf("deleted again: %+v, %v", done, err)
		}
	}
	if _, err := p.Client.Submit(ctx, "again.pdf", strings.NewReader(string(sample(t).Data)), key); client.Code(err) != "idempotency-deleted" {
		t.Errorf("submitted again under its key: %v", err)
	}
	if _, err := p.Client.Cancel(ctx, running); client.Code(err) != "document-deleted" {
		t.Errorf("cancelled after it was deleted: %v", err)
	}
	groups := []string{"eraser", "planner", "splitter", schemas.DetectorGroup(p.Model), "annotator", "recorder"}
	for _, group := range groups {
		drained(ctx, t, p, group)
	}
	eventually(ctx, t, "nothing is left of deleted documents", func() (bool, error) {
		if left := remains(ctx, t, p, gone...); left != "" {
			return false, errors.New(left)
		}
		return true, nil
	})
	var deletions []struct {
		ID string `ch:"id"`
	}
	ok(t, p.Select(ctx, &deletions, "SELECT toString(document_id) AS id FROM deletions FINAL WHERE deleted_at IS NOT NULL"))
	if len(deletions) != len(gone) {
		t.Errorf("deletions: %v", deletions)
	}

	for _, stage := range []string{"page-splitter", "detector", "annotator", "recorder"} {
		replay(ctx, t, p, stage, "after-delete-")
	}
	for _, group := range groups {
		drained(ctx, t, p, group)
	}
	if left := remains(ctx, t, p, gone...); left != "" {
		t.Errorf("after every topic was read again there is\n%s", left)
	}
	for d, err := range p.Client.List(ctx, client.Filter{}) {
		ok(t, err)
		if d.DocumentID != kept {
			t.Errorf("%s is listed", d.DocumentID)
		}
	}
	if after := must(p.Found(ctx, kept))(t); len(after) != len(before) || len(after) == 0 {
		t.Errorf("the neighbour has %d boxes, had %d", len(after), len(before))
	}
}

// Records that fall out of retention before a stage has read them are asked for again by reconcile: pages that no
// detector has seen, and a submission that was never planned.
func TestReconcileFinishesWhatFellOutOfRetention(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t)
	ctx := bounded(t, 4*patience)
	admin := kadm.NewClient(producer(t, p))
	const pages = schemas.FirstPages + 4
	file := corpus.File{Name: "lost.pdf", Data: corpus.Report(pages, 7)}

	// Neither stage has committed anything yet, so it begins with what is left. One that has is stopped with an alarm, until
	// its operator has its group begin anew.
	stop(t, p, "page-splitter")
	unplanned := submit(ctx, t, p, corpus.File{Name: "never planned.pdf", Data: corpus.Report(1, 8)}, client.Options{})
	drop(ctx, t, admin, schemas.TopicDocuments)
	again(ctx, t, p, "page-splitter")
	stop(t, p, "detector")
	id := submit(ctx, t, p, file, client.Options{})
	eventually(ctx, t, "every page is rendered", func() (bool, error) {
		n, err := held(ctx, admin, schemas.PagesTopic(p.Model), schemas.Lane(schemas.PagesTopic(p.Model), true))
		return n == pages, err
	})
	drop(ctx, t, admin, schemas.PagesTopic(p.Model), schemas.Lane(schemas.PagesTopic(p.Model), true))
	again(ctx, t, p, "detector")

	reconcile := func(args ...string) []map[string]any {
		t.Helper()
		out, code, err := p.CLI(ctx, nil, append([]string{"reconcile", "--data-dir", p.Data, "-o", "json"}, args...)...)
		ok(t, err)
		if code != 0 {
			t.Fatalf("reconcile: exit status %d\n%s", code, out)
		}
		var lines []map[string]any
		for line := range strings.Lines(string(out.Stdout)) {
			one := map[string]any{}
			ok(t, json.Unmarshal([]byte(line), &one))
			lines = append(lines, one)
		}
		return lines
	}
	if lines := reconcile("--older-than", "1h"); len(lines) != 0 {
		t.Errorf("what is not an hour old is reconciled: %v", lines)
	}
	if lines := reconcile("--dry-run", id, unplanned); len(lines) != 2 || lines[0]["pages_missing"] != float64(pages) {
		t.Errorf("would be asked for: %v", lines)
	}
	reconcile(id, unplanned)
	d := await(ctx, t, p, id, schemas.Completed)
	if d.PagesDone != pages || d.PagesFailed != 0 {
		t.Errorf("%d pages done, %d failed", d.PagesDone, d.PagesFailed)
	}
	oncePerPage(ctx, t, p, id, pages)
	await(ctx, t, p, unplanned, schemas.Completed)
	if lines := reconcile(id, unplanned); len(lines) != 0 {
		t.Errorf("what is done is reconciled: %v", lines)
	}
}

// stop has a child stand still, so that records pass it by.
func stop(t testing.TB, p *pipeline.Pipeline, name string) {
	t.Helper()
	ok(t, syscall.Kill(must(p.PID(name))(t), syscall.SIGSTOP))
}

// again ends a child that stands still and waits until another one has taken its place.
func again(ctx context.Context, t testing.TB, p *pipeline.Pipeline, name string) {
	t.Helper()
	ok(t, p.AwaitChild(ctx, name, must(p.KillChild(name))(t)))
}

// held is how many records topics hold.
func held(ctx context.Context, admin *kadm.Client, topics ...string) (n int64, err error) {
	starts, err := admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return 0, err
	}
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return 0, err
	}
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(o.Topic, o.Partition)
		n += o.Offset - start.Offset
	})
	return n, errors.Join(starts.Error(), ends.Error())
}

// drop deletes every record of topics, as retention does.
func drop(ctx context.Context, t testing.TB, admin *kadm.Client, topics ...string) {
	t.Helper()
	ends := must(admin.ListEndOffsets(ctx, topics...))(t)
	deleted := must(admin.DeleteRecords(ctx, ends.Offsets()))(t)
	ok(t, deleted.Error())
	if n := must(held(ctx, admin, topics...))(t); n != 0 {
		t.Fatalf("%v hold %d records yet", topics, n)
	}
}

// The buttons of the web page are forms: they work without the script, and not from the page of another site.
func TestTheButtonsOfADocument(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	press := func(id, button, site string) (int, string) {
		t.Helper()
		r := must(http.NewRequestWithContext(ctx, http.MethodPost, p.API+"/documents/"+id+"/"+button, strings.NewReader("")))(t)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", site)
		plain := *p.HTTP()
		plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		response := must(plain.Do(r))(t)
		ok(t, response.Body.Close())
		return response.StatusCode, response.Header.Get("Location")
	}
	page := func(id string) string {
		t.Helper()
		_, body, err := p.Get(ctx, p.API+"/documents/"+id)
		ok(t, err)
		return body
	}
	id := submit(ctx, t, p, corpus.File{Name: "pressed.pdf", Data: corpus.Report(bookPages, 9)}, client.Options{})
	underWay(ctx, t, p, id)
	if body := page(id); !strings.Contains(body, `action="/documents/`+id+`/cancel"`) {
		t.Error("a running document has no button to cancel it")
	}
	if status, _ := press(id, "cancel", "cross-site"); status != http.StatusForbidden {
		t.Errorf("pressed on the page of another site: %d", status)
	}
	if status, to := press(id, "cancel", "same-origin"); status != http.StatusSeeOther || to != "/documents/"+id {
		t.Errorf("cancel: %d to %q", status, to)
	}
	if body := page(id); !strings.Contains(body, `action="/documents/`+id+`/resume"`) {
		t.Error("a cancelled document has no button to resume it")
	}
	if status, to := press(id, "resume", "same-origin"); status != http.StatusSeeOther || to != "/documents/"+id {
		t.Errorf("resume: %d to %q", status, to)
	}
	if status, to := press(id, "delete", "same-origin"); status != http.StatusSeeOther || to != "/" {
		t.Errorf("delete: %d to %q", status, to)
	}
	status, body, err := p.Get(ctx, p.API+"/documents/"+id)
	if err != nil || status != http.StatusGone || !strings.Contains(body, "document-deleted") {
		t.Errorf("the page of a deleted document: %d, %v", status, err)
	}
}
