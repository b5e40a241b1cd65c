package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"leafcutter/e2e/corpus"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// The end of a run is posted to the URL of its submission, signed, once, and when all of its rows can be read.
func TestWebhookIsTold(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	env, code, err := p.CLI(ctx, nil, "status", "--data-dir", p.Data, "-o", "env")
	ok(t, err)
	_, after, _ := strings.Cut(string(env.Stdout), "LEAFCUTTER_WEBHOOK_SECRET='whsec_")
	encoded, _, found := strings.Cut(after, "'")
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if code != 0 || !found || err != nil {
		t.Fatalf("leafcutter status -o env does not tell the secret: %d, %v\n%s", code, err, env)
	}

	type post struct {
		header http.Header
		body   []byte
		rows   string // that SQL knew of the run when it was told
	}
	var mu sync.Mutex
	var posts []post
	told := make(chan struct{}, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var e schemas.RunEnded
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		rows := fmt.Sprint(err)
		if err == nil {
			if _, rows, err = p.Curl(ctx, "SELECT count() FROM page_results FINAL WHERE state = 'done' AND run_id = '"+e.RunID+"'"); err != nil {
				rows = err.Error()
			}
		}
		mu.Lock()
		posts = append(posts, post{r.Header, body, strings.TrimSpace(rows)})
		first := len(posts) == 1
		mu.Unlock()
		if first {
			w.WriteHeader(http.StatusServiceUnavailable) // it is tried again
		}
		told <- struct{}{}
	}))
	t.Cleanup(receiver.Close)

	file := filepath.Join(t.TempDir(), "told.pdf")
	ok(t, os.WriteFile(file, sample(t).Data, 0o600))
	out, code, err := p.CLI(ctx, nil, "submit", "--data-dir", p.Data, "--webhook", receiver.URL+"/hook", "--json", file)
	ok(t, err)
	var accepted api.Accepted
	if err := json.Unmarshal(out.Stdout, &accepted); code != 0 || err != nil {
		t.Fatalf("leafcutter submit: %d, %v\n%s", code, err, out)
	}
	for range 2 {
		select {
		case <-told:
		case <-ctx.Done():
			t.Fatal("the receiver was not told")
		}
	}
	d := await(ctx, t, p, accepted.DocumentID, schemas.Completed)
	eventually(ctx, t, "the delivery is written down", func() (bool, error) {
		d, err := p.Client.Get(ctx, accepted.DocumentID)
		return err == nil && len(d.Webhooks) == 1 && d.Webhooks[0].State == "delivered" && d.Webhooks[0].Attempts == 2, err
	})
	mu.Lock()
	defer mu.Unlock()
	if len(posts) != 2 {
		t.Errorf("%d posts", len(posts))
	}
	for _, got := range posts {
		h := got.header
		mac := hmac.New(sha256.New, secret)
		_, err := fmt.Fprintf(mac, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), got.body)
		ok(t, err)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); h.Get("webhook-signature") != want {
			t.Errorf("signature %s, want %s", h.Get("webhook-signature"), want)
		}
		var e schemas.RunEnded
		ok(t, json.Unmarshal(got.body, &e))
		if e.DocumentID != d.DocumentID || e.RunID != d.Runs[0].RunID || e.State != schemas.Completed || e.PagesDone != d.PagesDone || e.Boxes != d.Boxes || h.Get("webhook-id") != e.ID {
			t.Errorf("told %s of %+v", got.body, d)
		}
		if got.rows != fmt.Sprint(d.PagesDone) {
			t.Errorf("%s rows of %d could be read when the end was told", got.rows, d.PagesDone)
		}
	}
	if len(posts) == 2 && posts[0].header.Get("webhook-id") != posts[1].header.Get("webhook-id") {
		t.Error("the second try has another id")
	}
}

// A receiver that refuses makes a dead letter; once it is mended the letter is replayed, and resolved when it was taken.
func TestUndeliveredWebhookIsReplayed(t *testing.T) {
	t.Parallel()
	p := shared.Get(t)
	ctx := within(t)
	var mended atomic.Bool
	var posts atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		posts.Add(1)
		if !mended.Load() {
			w.WriteHeader(http.StatusGone)
		}
	}))
	t.Cleanup(receiver.Close)
	id := submit(ctx, t, p, corpus.File{Name: "refused.pdf", Data: corpus.Report(1, 6)}, client.Options{WebhookURL: receiver.URL})
	await(ctx, t, p, id, schemas.Completed)
	letter := func(state string) func() (bool, error) {
		return func() (bool, error) {
			for l, err := range p.Client.Letters(ctx, client.LetterFilter{DocumentID: id}) {
				return err == nil && l.State == state && l.Stage == "webhooks" && l.Code == "webhook-undelivered", err
			}
			return false, nil
		}
	}
	eventually(ctx, t, "the refused webhook is an open letter", letter("open"))
	if n := posts.Load(); n != 1 {
		t.Errorf("%d posts to a receiver that is gone", n)
	}
	mended.Store(true)
	out, code, err := p.CLI(ctx, nil, "dlq", "replay", "--data-dir", p.Data, "--document", id)
	ok(t, err)
	if code != 0 {
		t.Fatalf("leafcutter dlq replay: %d\n%s", code, out)
	}
	eventually(ctx, t, "the letter is resolved", letter("resolved"))
	if n := posts.Load(); n != 2 {
		t.Errorf("%d posts, want 2", n)
	}
}
