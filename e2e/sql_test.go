package e2e

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// What clickhouse-go reads, curl reads; nobody without a password writes.
func TestRowsByDriverAndByCurl(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	id := submit(ctx, t, p, sample(t), client.Options{})
	await(ctx, t, p, id, schemas.Completed)

	var rows []struct {
		Class string `ch:"class"`
		Boxes uint64 `ch:"boxes"`
	}
	ok(t, p.Select(ctx, &rows, "SELECT class, count() AS boxes FROM detections WHERE document_id = ? GROUP BY class ORDER BY class", id))
	var want strings.Builder
	for _, r := range rows {
		want.WriteString(r.Class + "\t" + strconv.FormatUint(r.Boxes, 10) + "\n")
	}
	status, body, err := p.Curl(ctx, "SELECT class, count() AS boxes FROM detections WHERE document_id = '"+id+"' GROUP BY class ORDER BY class")
	ok(t, err)
	if status != http.StatusOK || body != want.String() || len(rows) == 0 {
		t.Errorf("curl reads %d %q, clickhouse-go %q", status, body, want.String())
	}

	for _, statement := range []string{
		"INSERT INTO documents (document_id) VALUES ('" + id + "')",
		"TRUNCATE TABLE page_results", "DROP TABLE runs", "ALTER TABLE runs DELETE WHERE 1",
		"CREATE TABLE mine (x UInt8) ENGINE = Memory",
		"SELECT * FROM url('http://127.0.0.1:1/', LineAsString)", "SELECT * FROM file('/etc/passwd', LineAsString)",
		"SELECT 1 INTO OUTFILE '/tmp/out'",
	} {
		for how, ask := range map[string]func() (int, string, error){
			"GET": func() (int, string, error) { return p.Curl(ctx, statement) },
			"POST": func() (int, string, error) {
				response, err := p.HTTP().Post(p.SQL+"/?"+url.Values{"database": {"leafcutter"}}.Encode(), "text/plain", strings.NewReader(statement))
				if err != nil {
					return 0, "", err
				}
				return response.StatusCode, "", response.Body.Close()
			},
		} {
			status, body, err := ask()
			ok(t, err)
			if status < 400 || status >= 600 {
				t.Errorf("%s %q without a password is answered with %d %q", how, statement, status, body)
			}
		}
	}
	again, body, err := p.Curl(ctx, "SELECT count() FROM page_results FINAL WHERE document_id = '"+id+"'")
	ok(t, err)
	if again != http.StatusOK || strings.TrimSpace(body) == "0" {
		t.Errorf("after the attempts: %d %q", again, body)
	}
}

// Rows can be read before their document has ended; progress never goes back; an accepted id is known at once.
func TestRowsWhileTheDocumentIsRunning(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	const pages = 40
	id := submit(ctx, t, p, corpus.File{Name: "book.pdf", Data: corpus.Report(pages, 3)}, client.Options{})
	var last api.Progress
	early := uint64(0)
	for first := true; !last.State.Final(); first = false {
		d, err := p.Client.Get(ctx, id)
		if err != nil {
			t.Fatalf("an accepted document (first question: %t): %v", first, err)
		}
		now := d.Progress()
		if now.PagesDone < last.PagesDone || now.PagesFailed < last.PagesFailed || now.Boxes < last.Boxes || now.PagesSelected < last.PagesSelected ||
			last.State == schemas.Running && now.State == schemas.Queued {
			t.Fatalf("progress went back from %+v to %+v", last, now)
		}
		if last = now; now.State == schemas.Running {
			found := boxesOf(t, p, id)
			// It counts only where the document is still not done after it was read.
			if after := must(p.Client.Get(ctx, id))(t); !after.State.Final() {
				early = max(early, found)
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not done: %+v", last)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if last.State != schemas.Completed || last.PagesDone != pages {
		t.Fatalf("ended as %+v", last)
	}
	if early == 0 {
		t.Error("no row could be read before the document had ended")
	}
	if total := boxesOf(t, p, id); uint64(last.Boxes) != total {
		t.Errorf("the API counts %d boxes, SQL %d", last.Boxes, total)
	}
}

func boxesOf(t *testing.T, p *pipeline.Pipeline, id string) uint64 {
	t.Helper()
	var rows []struct {
		Boxes uint64 `ch:"boxes"`
	}
	ok(t, p.Select(t.Context(), &rows, "SELECT count() AS boxes FROM detections WHERE document_id = ?", id))
	return rows[0].Boxes
}
