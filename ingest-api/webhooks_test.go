package ingestapi_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	ingestapi "leafcutter/ingest-api"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// post is one that a receiver got.
type post struct {
	path, id, timestamp, signature, agent string
	body                                  []byte
}

// hooks is a receiver that answers by path: /200, /503-then-200, /slow and so on.
type hooks struct {
	*httptest.Server
	mu      sync.Mutex
	posts   []post
	release chan struct{} // lets /slow go on
	slow    int           // at once, now
	slowest int           // at once, at most
}

func startHooks(t *testing.T) *hooks {
	h := &hooks{release: make(chan struct{})}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	seen := 0
	for _, p := range h.posts {
		if p.path == r.URL.Path {
			seen++
		}
	}
	h.posts = append(h.posts, post{r.URL.Path, r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), r.Header.Get("webhook-signature"), r.UserAgent(), body})
	if r.URL.Path == "/slow" {
		h.slow++
		h.slowest = max(h.slowest, h.slow)
	}
	h.mu.Unlock()
	switch {
	case r.URL.Path == "/slow":
		<-h.release
		h.mu.Lock()
		h.slow--
		h.mu.Unlock()
	case r.URL.Path == "/503-then-200" && seen == 0:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/503":
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/410":
		w.WriteHeader(http.StatusGone)
	case r.URL.Path == "/redirect":
		http.Redirect(w, r, "/200", http.StatusTemporaryRedirect)
	}
}

// got are the posts to a path.
func (h *hooks) got(path string) (posts []post) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.posts {
		if p.path == path {
			posts = append(posts, p)
		}
	}
	return posts
}

// ended is an event of a run of its own.
func ended(target string) schemas.RunEnded {
	at := time.Now().UTC().Truncate(time.Millisecond)
	e := schemas.RunEnded{DocumentID: schemas.NewDocumentID(at), RunID: schemas.NewDocumentID(at), Title: "T", Model: "m", State: schemas.Completed,
		PagesSelected: 1, PagesDone: 1, Boxes: 3, SubmittedAt: at.Add(-time.Second), FinishedAt: at, WebhookURL: target}
	e.ID = e.EventID()
	return e
}

// say puts events onto document-events as the recorder does.
func (w *world) say(headers map[string]string, events ...schemas.RunEnded) {
	w.Helper()
	client, err := kafka.NewClient(w.cfg.Kafka)
	if err != nil {
		w.Fatal(err)
	}
	defer client.Close()
	for _, e := range events {
		value, err := schemas.Marshal(e)
		if err != nil {
			w.Fatal(err)
		}
		r := &kgo.Record{Topic: schemas.TopicDocumentEvents, Key: []byte(e.DocumentID), Value: value}
		for name, v := range headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(v)})
		}
		if err := client.ProduceSync(w.Context(), r).FirstErr(); err != nil {
			w.Fatal(err)
		}
	}
}

// told is state, tries, status and error of the delivery of an event.
func (w *world) told(e schemas.RunEnded) string {
	w.Helper()
	var rows []struct {
		State    string `ch:"state"`
		Attempts uint32 `ch:"attempts"`
		Status   uint16 `ch:"status_code"`
		Error    string `ch:"error"`
	}
	if err := w.db.Select(w.Context(), &rows, "SELECT state, attempts, status_code, error FROM webhook_deliveries FINAL WHERE event_id = ?", e.ID); err != nil {
		w.Fatal(err)
	}
	if len(rows) != 1 {
		return fmt.Sprint(len(rows), " rows")
	}
	return strings.TrimSpace(fmt.Sprint(rows[0].State, " ", rows[0].Attempts, " ", rows[0].Status, " ", rows[0].Error))
}

func (w *world) untilTold(e schemas.RunEnded, want string) {
	w.Helper()
	w.until(want, func() bool { return strings.HasPrefix(w.told(e), want) })
}

// letters are the dead letters so far, by event.
func (w *world) letters(n int) map[string][]string {
	w.Helper()
	client, err := kafka.NewClient(w.cfg.Kafka, kgo.ConsumeTopics(schemas.TopicDeadLetters), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.Fatal(err)
	}
	defer client.Close()
	byRun := map[string][]string{}
	for seen := 0; seen < n; {
		for _, r := range client.PollFetches(w.Context()).Records() {
			seen++
			h := map[string]string{}
			for _, header := range r.Headers {
				h[header.Key] = string(header.Value)
			}
			byRun[h[schemas.HeaderRunID]] = append(byRun[h[schemas.HeaderRunID]], h[schemas.HeaderStage]+" "+h[schemas.HeaderCode])
		}
	}
	return byRun
}

// landWanting inserts the row of an event's document, as the recorder does.
func (w *world) landWanting(e schemas.RunEnded) {
	w.Helper()
	if err := w.db.Exec(w.Context(), `INSERT INTO documents (document_id, title, submitted_at, webhook_url, version)
		VALUES (toUUID(?), ?, fromUnixTimestamp64Milli(?), ?, 1)`, e.DocumentID, e.Title, e.SubmittedAt.UnixMilli(), e.WebhookURL); err != nil {
		w.Fatal(err)
	}
}

// delete asks for an event's document to be deleted, and deletes its deliveries as the recorder does.
func (w *world) delete(e schemas.RunEnded) {
	w.Helper()
	client, err := kafka.NewClient(w.cfg.Kafka)
	if err != nil {
		w.Fatal(err)
	}
	defer client.Close()
	value, err := schemas.Marshal(schemas.Control{DocumentID: e.DocumentID, Action: schemas.ActionDelete, Sequence: 1, At: e.FinishedAt})
	if err != nil {
		w.Fatal(err)
	}
	r := &kgo.Record{Topic: schemas.TopicControls, Key: []byte(e.DocumentID), Value: value}
	if err := client.ProduceSync(w.Context(), r).FirstErr(); err != nil {
		w.Fatal(err)
	}
	if err := w.db.Exec(w.Context(), "DELETE FROM webhook_deliveries WHERE document_id = toUUID(?)", e.DocumentID); err != nil {
		w.Fatal(err)
	}
}

func TestWebhooks(t *testing.T) {
	h := startHooks(t)
	w := start(t, nil)
	at := func(path string) schemas.RunEnded { return ended(h.URL + path) }
	plain, again, gone, moved, down := at("/200"), at("/503-then-200"), at("/410"), at("/redirect"), at("/503")
	forgotten := at("/200-of-a-deleted-document")
	nobody, private := ended(""), ended("http://[::1]:9/")
	w.say(nil, plain, plain, nobody, again, gone, moved, down, private, forgotten)
	w.untilTold(forgotten, "delivered 1 200")
	w.untilTold(plain, "delivered 1 200")
	w.untilTold(again, "delivered 2 200")
	w.untilTold(gone, "failed 1 410 the receiver answered 410 Gone")
	w.untilTold(moved, "failed 1 307")
	w.untilTold(down, "failed 3 503")
	w.untilTold(private, "failed 1 0")
	if got := w.told(private); !strings.Contains(got, "not on the public internet") {
		t.Errorf("the private address: %s", got)
	}
	want := map[string][]string{}
	for _, e := range []schemas.RunEnded{gone, moved, down, private} {
		want[e.RunID] = []string{"webhooks webhook-undelivered"}
	}
	if diff := cmp.Diff(want, w.letters(4)); diff != "" {
		t.Errorf("letters (-want +got):\n%s", diff)
	}

	got := h.got("/200")
	if len(got) != 1 { // said twice, and the redirect leads there too
		t.Fatalf("%d posts", len(got))
	}
	secret, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(webhookSecret, "whsec_"))
	mac := hmac.New(sha256.New, secret)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", got[0].id, got[0].timestamp, got[0].body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); got[0].signature != want || got[0].id != plain.ID || got[0].agent != "leafcutter/test" {
		t.Errorf("%+v, want signature %s", got[0], want)
	}
	var body schemas.RunEnded
	if err := json.Unmarshal(got[0].body, &body); err != nil || !cmp.Equal(body, plain) {
		t.Errorf("%v: %s", err, cmp.Diff(plain, body))
	}

	w.landWanting(again)
	d, err := w.api.Get(t.Context(), again.DocumentID)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Webhooks) != 1 || d.Webhooks[0].State != "delivered" || d.Webhooks[0].Attempts != 2 || d.Webhooks[0].DeliveredAt == nil || d.Webhooks[0].EventID != again.ID {
		t.Errorf("the API says of the deliveries %+v", d.Webhooks)
	}

	if _, page := w.get("/documents/" + again.DocumentID); !strings.Contains(string(page), "<h2>Webhooks</h2>") || !strings.Contains(string(page), h.URL+"/503-then-200") {
		t.Errorf("the page of the document does not tell of its webhooks:\n%s", page)
	}

	// Everything is read again from offset 0, by a group that has read nothing: nothing is posted, and no answer changes.
	// Not even of a document that was deleted, and with it the row that says what was posted.
	w.delete(forgotten)
	before := len(h.got("/410")) + len(h.got("/503")) + len(h.got("/redirect")) + len(h.got("/503-then-200"))
	w.stop()
	w.cfg.Kafka.GroupPrefix = "again-"
	w.run()
	last := at("/200")
	w.until("the API is ready", func() bool { return w.status("/readyz") == http.StatusOK })
	w.say(nil, last)
	w.untilTold(last, "delivered 1 200")
	if letters := w.letters(8); len(letters) != 4 {
		t.Errorf("letters: %v", letters) // the same ones again: what died between a row and its letter must not be lost
	}
	if after := len(h.got("/410")) + len(h.got("/503")) + len(h.got("/redirect")) + len(h.got("/503-then-200")); after != before || len(h.got("/200")) != 2 {
		t.Errorf("%d posts before, %d after; %d to /200", before, after, len(h.got("/200")))
	}

	if n := len(h.got("/200-of-a-deleted-document")); n != 1 {
		t.Errorf("%d posts about a document that is deleted", n)
	}

	// A replayed letter is a wish to have it posted.
	w.say(map[string]string{schemas.HeaderLetter: "0193568e-0000-5000-8000-000000000001"}, gone, plain)
	w.untilTold(gone, "failed 2 410")
	if got := h.got("/200"); len(got) != 2 {
		t.Errorf("%d posts: what was delivered is posted again", len(got))
	}
}

// A receiver that hangs gets a few posts at once and keeps nobody else waiting.
func TestASlowReceiverKeepsNobodyWaiting(t *testing.T) {
	slow, quick := startHooks(t), startHooks(t)
	w := start(t, func(c *ingestapi.Config) { c.Webhooks.Timeout = time.Minute })
	var events []schemas.RunEnded
	for range 100 {
		events = append(events, ended(slow.URL+"/slow"))
	}
	w.say(nil, events...)
	w.until("the slow receiver has its share", func() bool { return len(slow.got("/slow")) == 8 })
	other := ended(quick.URL + "/200")
	w.say(nil, other)
	w.untilTold(other, "delivered 1 200")
	close(slow.release)
	for _, e := range events {
		w.untilTold(e, "delivered 1 200")
	}
	if slow.slowest > 8 {
		t.Errorf("%d posts at once to one receiver", slow.slowest)
	}
}

func TestWithoutASecretAWebhookIsRefused(t *testing.T) {
	w := start(t, func(c *ingestapi.Config) { c.Webhooks.Secrets = nil })
	_, err := w.api.Submit(t.Context(), "letter.pdf", strings.NewReader(letter), client.Options{WebhookURL: "https://example.org"})
	if client.Code(err) != "webhooks-off" {
		t.Errorf("%v", err)
	}
	if _, err = w.api.Submit(t.Context(), "letter.pdf", strings.NewReader(letter), client.Options{}); err != nil {
		t.Errorf("without a webhook: %v", err)
	}
	direct := ended("https://example.org") // put onto the topics by a producer that asked nobody
	w.say(nil, direct)
	w.untilTold(direct, "failed 0 0 LEAFCUTTER_WEBHOOK_SECRET is not set")
}
