package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// server answers as the handlers given, one request after the other; the last one answers all that follow.
func server(t *testing.T, handlers ...http.HandlerFunc) (c *client.Client, asked func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := handlers[min(n, len(handlers)-1)]
		n++
		mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(s.Close)
	c, err := client.New(s.URL+"/", client.WithHTTPClient(s.Client()), client.WithAPIKey("the-key"), client.WithPolling(time.Millisecond), client.WithUserAgent("test"))
	if err != nil {
		t.Fatal(err)
	}
	return c, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

func answer(status int, contentType, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func refusal(status int, code string) http.HandlerFunc {
	return answer(status, "application/problem+json", fmt.Sprintf(`{"code":%q,"status":%d,"detail":"do this"}`, code, status), "Retry-After", "0")
}

const document = `{"document_id":"d","state":"completed","runs":[{"state":"completed"}]}`

func TestNew(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8090", "ftp://x", "http://", "://"} {
		if _, err := client.New(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		code    string
	}{
		"ours":            {refusal(404, "document-not-found"), "document-not-found"},
		"a proxy's":       {answer(502, "text/html", "<h1>Bad gateway</h1>"), "http-502"},
		"not JSON":        {answer(500, "application/problem+json", "{"), "http-500"},
		"without a code":  {answer(400, "application/problem+json", "{}"), "http-400"},
		"an answer of no": {answer(200, "application/json", "<html>"), ""},
	} {
		api, _ := server(t, c.handler)
		_, err := api.Get(t.Context(), "d")
		if err == nil || client.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	var p *api.Problem
	c, _ := server(t, refusal(422, "unknown-model"))
	_, err := c.Get(t.Context(), "d")
	if !errors.As(err, &p) || p.Status != 422 || p.Detail != "do this" {
		t.Errorf("%v", err)
	}
}

func TestWhatIsRepeated(t *testing.T) {
	busy := refusal(503, "kafka-unavailable")
	good := answer(202, "application/json", `{"document_id":"d"}`)
	submit := func(c *client.Client, r io.Reader, key string) error {
		_, err := c.Submit(t.Context(), "x.pdf", r, client.Options{IdempotencyKey: key})
		return err
	}
	for name, c := range map[string]struct {
		do    func(*client.Client) error
		first http.HandlerFunc
		asked int
		code  string
	}{
		"reading":                      {func(c *client.Client) error { _, err := c.Get(t.Context(), "d"); return err }, busy, 2, ""},
		"reading what is not there":    {func(c *client.Client) error { _, err := c.Get(t.Context(), "d"); return err }, refusal(404, "x"), 1, "x"},
		"a rate":                       {func(c *client.Client) error { _, err := c.Models(t.Context()); return err }, refusal(429, "rate-limited"), 2, ""},
		"a submission under a key":     {func(c *client.Client) error { return submit(c, strings.NewReader("%PDF"), "k") }, busy, 2, ""},
		"a submission without one":     {func(c *client.Client) error { return submit(c, strings.NewReader("%PDF"), "") }, busy, 1, "kafka-unavailable"},
		"one that cannot be read anew": {func(c *client.Client) error { return submit(c, io.MultiReader(strings.NewReader("%PDF")), "k") }, busy, 1, "kafka-unavailable"},
		"a reference under a key": {func(c *client.Client) error {
			_, err := c.SubmitReference(t.Context(), "s3://b/k", client.Options{IdempotencyKey: "k"})
			return err
		}, busy, 2, ""},
	} {
		client2, asked := server(t, c.first, good)
		if err := c.do(client2); client.Code(err) != c.code || c.code == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := asked(); n != c.asked {
			t.Errorf("%s: asked %d times, want %d", name, n, c.asked)
		}
	}
	c, asked := server(t, busy)
	if _, err := c.Get(t.Context(), "d"); client.Code(err) != "kafka-unavailable" || asked() != 4 {
		t.Errorf("without end: %v after %d tries", err, asked())
	}
}

// The whole file is sent each time, with the options in front of it.
func TestRepeatedUploadIsWhole(t *testing.T) {
	content := "%PDF-" + strings.Repeat("0123456789", 100_000)
	var got []string
	receive := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength < int64(len(content)) || r.Header.Get("Authorization") != "Bearer the-key" || r.Header.Get("Idempotency-Key") != "k" {
				t.Errorf("%d bytes, %v", r.ContentLength, r.Header)
			}
			parts, err := r.MultipartReader()
			if err != nil {
				t.Error(err)
				return
			}
			said := ""
			for {
				part, err := parts.NextPart()
				if err != nil {
					break
				}
				body, err := io.ReadAll(part)
				if err != nil {
					t.Error(err)
				}
				if part.FormName() == "file" {
					said += fmt.Sprintf("file %s %v;", part.FileName(), string(body) == content)
				} else {
					said += part.FormName() + "=" + string(body) + ";"
				}
			}
			got = append(got, said)
			next(w, r)
		}
	}
	c, _ := server(t, receive(refusal(503, "s3-unavailable")), receive(answer(202, "application/json", `{"document_id":"d"}`)))
	padding := 0
	file := strings.NewReader("junk" + content)
	if _, err := file.Seek(4, io.SeekStart); err != nil { // from where it stands
		t.Fatal(err)
	}
	_, err := c.Submit(t.Context(), "x.pdf", file, client.Options{
		IdempotencyKey: "k", Title: "T", Models: []string{"m", "n"}, DPI: 150, Pages: "1-3", Thresholds: map[string]float64{"a": 0.5}, CropPadding: &padding, WebhookURL: "https://x",
	})
	want := `title=T;model=m;model=n;dpi=150;pages=1-3;thresholds={"a":0.5};crop_padding=0;webhook_url=https://x;file x.pdf true;`
	if err != nil || len(got) != 2 || got[0] != want || got[1] != want {
		t.Errorf("%v\n%q", err, got)
	}
}

func TestLists(t *testing.T) {
	part := func(next string, ids ...string) http.HandlerFunc {
		list := api.DocumentList{Next: next}
		for _, id := range ids {
			list.Documents = append(list.Documents, api.Summary{DocumentID: id})
		}
		body, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("state") != "running" || r.FormValue("title") != "a&b" {
				t.Errorf("asked %s", r.URL)
			}
			answer(200, "application/json", string(body))(w, r)
		}
	}
	filter := client.Filter{State: schemas.Running, Title: "a&b"}
	c, asked := server(t, part("more", "1", "2"), part("", "3"))
	got := ""
	for d, err := range c.List(t.Context(), filter) {
		if err != nil {
			t.Fatal(err)
		}
		got += d.DocumentID
	}
	if got != "123" || asked() != 2 {
		t.Errorf("%s in %d questions", got, asked())
	}
	c, asked = server(t, part("more", "1", "2"))
	for _, err := range c.List(t.Context(), filter) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if asked() != 1 {
		t.Errorf("%d questions for the first document", asked())
	}
	c, _ = server(t, refusal(422, "invalid-cursor"))
	n := 0
	for _, err := range c.Pages(t.Context(), "d", "") {
		if n++; client.Code(err) != "invalid-cursor" {
			t.Errorf("%v", err)
		}
	}
	if n != 1 {
		t.Errorf("%d errors", n)
	}
}

func TestWait(t *testing.T) {
	state := func(state string, done int) string {
		return fmt.Sprintf(`{"document_id":"d","state":%q,"pages_selected":3,"pages_done":%d,"runs":[{"state":%q}]}`, state, done, state)
	}
	get := func(body string) http.HandlerFunc { return answer(200, "application/json", body) }
	stream := func(events string) http.HandlerFunc { return answer(200, "text/event-stream", events) }
	event := func(name, state string, done int) string {
		return "event: " + name + "\ndata: " + progress(state, done) + "\n\n: still here\n\n"
	}
	c, _ := server(t,
		get(state("queued", 0)),
		stream(event("progress", "queued", 0)+event("progress", "running", 1)),                                                     // breaks off
		refusal(503, "shutting-down"), refusal(503, "shutting-down"), refusal(503, "shutting-down"), refusal(503, "shutting-down"), // the server restarts
		get(state("running", 2)),
		refusal(503, "too-many-watchers"),
		get(state("running", 2)),
		stream(event("end", "completed", 3)),
		get(state("completed", 3)),
	)
	var told []string
	d, err := c.Wait(t.Context(), "d", func(p api.Progress) { told = append(told, fmt.Sprintf("%s %d", p.State, p.PagesDone)) })
	if err != nil || d.State != schemas.Completed {
		t.Fatalf("%+v, %v", d, err)
	}
	if got := strings.Join(told, ", "); got != "queued 0, running 1, running 2, completed 3" {
		t.Errorf("told %s", got)
	}

	// The newest run has ended, another has not: the document has not either.
	c, asked := server(t, get(`{"document_id":"d","state":"completed","runs":[{"state":"completed"},{"state":"running"}]}`), get(document))
	if _, err := c.Wait(t.Context(), "d", nil); err != nil || asked() != 2 {
		t.Errorf("%v after %d questions", err, asked())
	}

	c, _ = server(t, refusal(404, "document-not-found"))
	if _, err := c.Wait(t.Context(), "d", nil); client.Code(err) != "document-not-found" {
		t.Errorf("%v", err)
	}

	c, _ = server(t, get(state("running", 1)))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if d, err := c.Wait(ctx, "d", nil); !errors.Is(err, context.DeadlineExceeded) || d == nil || d.PagesDone != 1 {
		t.Errorf("%+v, %v", d, err)
	}
}

func progress(state string, done int) string {
	return fmt.Sprintf(`{"document_id":"d","state":%q,"pages_selected":3,"pages_done":%d}`, state, done)
}

func TestDownload(t *testing.T) {
	c, _ := server(t, answer(200, "image/png", "picture"), refusal(404, "crop-not-found"))
	body, err := c.Download(t.Context(), "/v1/x")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != "picture" || body.Close() != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := c.Download(t.Context(), "/v1/x"); client.Code(err) != "crop-not-found" {
		t.Errorf("%v", err)
	}
}
