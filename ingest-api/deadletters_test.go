package ingestapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	ingestapi "leafcutter/ingest-api"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

const (
	nobody      = "00000000-0000-0000-0000-000000000000"
	theDocument = "0198a000-0000-7000-8000-000000000001"
	aRun        = "0198a000-0000-5000-8000-000000000002"
	prefix      = "lc."
)

// office is a world with a deployment's prefix, and with letters.
type office struct {
	*world
	kafka *kgo.Client
	at    time.Time
}

func openOffice(t *testing.T) *office {
	t.Helper()
	w := start(t, func(c *ingestapi.Config) { c.Kafka.TopicPrefix = prefix })
	client, err := kafka.NewClient(w.cfg.Kafka, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &office{w, client, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

// put puts a dead letter onto the topic and its row into the table, as a stage and the recorder do, and gives its id.
// headers are name, value, name, value …; they come over those of a range's page.
func (o *office) put(partition int32, key, value string, headers ...string) string {
	o.Helper()
	h := map[string]string{"lc-stage": "splitter", "lc-code": "page-too-large", "lc-error": "too large", "lc-attempts": "1",
		"lc-topic": prefix + "page-ranges", "lc-partition": "2", "lc-offset": "40", "lc-document-id": theDocument, "lc-run-id": aRun, "lc-page": "3",
		"lc-schema": "PageRange.v1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	for i := 0; i+1 < len(headers); i += 2 {
		if h[headers[i]] = headers[i+1]; headers[i+1] == "" {
			delete(h, headers[i])
		}
	}
	rec := &kgo.Record{Topic: prefix + "dead-letters", Partition: partition, Key: []byte(key), Value: []byte(value)}
	for name, value := range h {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := o.kafka.ProduceSync(ctx, rec).FirstErr(); err != nil {
		o.Fatal(err)
	}
	o.at = o.at.Add(time.Second)
	id, or := schemas.LetterID(h), func(id string) string {
		if schemas.IsUUID(id) {
			return id
		}
		return nobody
	}
	pages := []uint32{}
	if h["lc-page"] == "3" {
		pages = append(pages, 3)
	}
	o.insert(ctx, `dead_letters (letter_id, replay, document_id, run_id, page, pages, event_id, stage, code, error, attempts, topic, record, key, bytes,
		value_ref, letter_partition, letter_offset, failed_at, version)`,
		[]any{id, uint32(len(h["lc-replay"])), or(h["lc-document-id"]), or(h["lc-run-id"]), uint32(len(pages) * 3), pages, nobody, h["lc-stage"], h["lc-code"], h["lc-error"],
			uint32(1), strings.TrimPrefix(h["lc-topic"], prefix), h["lc-schema"], key, uint64(len(value)), h["lc-value-ref"], partition, rec.Offset, o.at, uint64(rec.Offset) + 1})
	return id
}

// read waits until a topic holds n records and gives them.
func (o *office) read(topic string, n int) (all []*kgo.Record) {
	o.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := kafka.NewClient(o.cfg.Kafka, kgo.ConsumeTopics(prefix+topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		o.Fatal(err)
	}
	defer c.Close()
	for len(all) < n {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			o.Fatalf("%s: %d of %d records: %v", topic, len(all), n, err)
		}
		all = append(all, fetches.Records()...)
	}
	return all
}

// replay gives the codes of what was refused and the ids of what was replayed.
func (o *office) replay(request api.ReplayRequest) (replayed []string, refused map[string]string) {
	o.Helper()
	refused = map[string]string{}
	for answer, err := range o.api.Replay(context.Background(), request) {
		if err != nil {
			o.Fatal(err)
		}
		if answer.Unnoted != "" || answer.DryRun != request.DryRun {
			o.Errorf("%+v", answer)
		}
		for _, l := range answer.Replayed {
			replayed = append(replayed, l.LetterID)
		}
		for _, l := range answer.Refused {
			if l.Error == "" {
				o.Errorf("%+v says nothing to people", l)
			}
			refused[l.LetterID] = l.Code
		}
	}
	return replayed, refused
}

func (o *office) letters(f client.LetterFilter) (all []api.Letter) {
	o.Helper()
	for l, err := range o.api.Letters(context.Background(), f) {
		if err != nil {
			o.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

func headersOf(r *kgo.Record) map[string]string {
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	return headers
}

// A replay is the record that failed: its bytes, key and headers on its topic, and the letter's name.
func TestReplayPutsTheRecordBack(t *testing.T) {
	o := openOffice(t)
	id := o.put(1, aRun+"/3", `{"type":"PageRange","pages":[3]}`)
	if got, refused := o.replay(api.ReplayRequest{Letters: []string{id}, DryRun: true}); !slices.Equal(got, []string{id}) || len(refused) > 0 {
		t.Errorf("dry run: %v, %v", got, refused)
	}
	if l := o.letters(client.LetterFilter{})[0]; l.State != api.LetterOpen || l.Replays != 0 {
		t.Errorf("after a dry run: %+v", l)
	}
	if got, refused := o.replay(api.ReplayRequest{Letters: []string{id, id, "none", theDocument}}); !slices.Equal(got, []string{id}) ||
		!cmp.Equal(refused, map[string]string{"none": "letter-not-found", theDocument: "letter-not-found"}) {
		t.Errorf("%v, %v", got, refused)
	}
	rec := o.read("page-ranges", 1)[0]
	want := map[string]string{"lc-schema": "PageRange.v1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"lc-letter": id, "lc-replay": "1"}
	if diff := cmp.Diff(want, headersOf(rec)); diff != "" || string(rec.Key) != aRun+"/3" || string(rec.Value) != `{"type":"PageRange","pages":[3]}` {
		t.Errorf("key %s, value %s, headers:\n%s", rec.Key, rec.Value, diff)
	}
	l := o.letters(client.LetterFilter{State: api.LetterReplayed})[0]
	if l.LetterID != id || l.Replays != 1 || l.Failures != 1 || l.ReplayedAt == nil || time.Since(*l.ReplayedAt) > time.Minute {
		t.Errorf("%+v", l)
	}
	// The replay failed: the same letter is open again, and its record is where it fell last.
	if again := o.put(0, aRun+"/3", `{"again":true}`, "lc-letter", id, "lc-replay", "1", "lc-offset", "77"); again != id {
		t.Fatal(again)
	}
	all := o.letters(client.LetterFilter{State: api.LetterOpen})
	if len(all) != 1 || all[0].Failures != 2 || all[0].Replays != 1 {
		t.Errorf("%+v", all)
	}
	if got, _ := o.replay(api.ReplayRequest{All: true}); !slices.Equal(got, []string{id}) {
		t.Error(got)
	}
	for _, rec := range o.read("page-ranges", 2) {
		if h := headersOf(rec); h["lc-replay"] == "2" && string(rec.Value) != `{"again":true}` || h["lc-letter"] != id || h["lc-offset"] != "" {
			t.Errorf("%s %v", rec.Value, h)
		}
	}
	if got, _ := o.replay(api.ReplayRequest{All: true}); len(got) > 0 {
		t.Errorf("%v is replayed though it is under way", got)
	}
}

// A document that its producer did not name had its name from the place of its record: the replay, which lies elsewhere,
// carries it as its key. A value too large for a letter comes from the store.
func TestReplayKeepsADocumentsName(t *testing.T) {
	o := openOffice(t)
	key := schemas.RecordKey(theDocument)
	large := strings.Repeat("%PDF-1.7 large ", 100_000)
	o.put(0, "any key", "%PDF-1.7 small", "lc-topic", prefix+"documents", "lc-run-id", "", "lc-page", "", "lc-schema", "", "title", "Report", "lc-offset", "1")
	o.world.put(context.Background(), key, []byte(large), "application/pdf")
	o.put(1, "", "", "lc-topic", prefix+"documents", "lc-run-id", "", "lc-page", "", "lc-schema", "", "lc-value-ref", o.store.URI(key), "lc-offset", "2")
	if got, refused := o.replay(api.ReplayRequest{DocumentID: theDocument}); len(got) != 2 {
		t.Fatal(got, refused)
	}
	for _, rec := range o.read("documents", 2) {
		h := headersOf(rec)
		if string(rec.Key) != theDocument || string(rec.Value) != large && (string(rec.Value) != "%PDF-1.7 small" || h["title"] != "Report") {
			t.Errorf("key %q, %d bytes, %v", rec.Key, len(rec.Value), h)
		}
	}
}

func TestLettersThatCannotBeReplayed(t *testing.T) {
	o := openOffice(t)
	ctx := context.Background()
	documents := []string{"lc-topic", prefix + "documents", "lc-run-id", "", "lc-page", ""}
	submission := func(offset int, more ...string) []string {
		return append(append(slices.Clone(documents), "lc-offset", fmt.Sprint(offset)), more...)
	}
	gone := o.put(2, "k", "{}", "lc-offset", "1")
	kept := o.put(2, "k", "{}", "lc-offset", "2")
	if _, err := kadm.NewClient(o.kafka).DeleteRecords(ctx, kadm.Offsets{prefix + "dead-letters": {2: kadm.Offset{Topic: prefix + "dead-letters", Partition: 2, At: 1}}}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		gone:                                "letter-gone",
		o.put(0, "k", "", "lc-offset", "3"): "letter-without-value",
		o.put(0, "k", "", submission(4, "lc-value-ref", o.store.URI(schemas.RecordKey(theDocument)))...):        "letter-value-gone",
		o.put(0, "k", "", submission(5, "lc-value-ref", "s3://elsewhere/documents/"+theDocument+"/record")...):  "letter-not-replayable",
		o.put(0, "k", "", submission(6, "lc-value-ref", o.store.URI(schemas.RecordKey(aRun)))...):               "letter-not-replayable",
		o.put(0, "k", "{}", "lc-offset", "7", "lc-topic", prefix+"dead-letters"):                                "letter-not-replayable",
		o.put(0, "k", "{}", "lc-offset", "8", "lc-topic", "page-ranges"):                                        "letter-not-replayable",
		o.put(0, "k", "{}", "lc-offset", "9", "lc-topic", prefix+"pages.", "lc-code", "inference-failed"):       "letter-not-replayable",
		o.put(1, "k", "{}", "lc-offset", "10", "lc-topic", prefix+"__consumer_offsets", "lc-code", "forgotten"): "letter-not-replayable",
	}
	got, refused := o.replay(api.ReplayRequest{All: true, Limit: 2}) // in several parts
	if diff := cmp.Diff(want, refused); diff != "" || !slices.Equal(got, []string{kept}) {
		t.Errorf("replayed %v, want %s; refused (-want +got):\n%s", got, kept, diff)
	}
	o.insert(ctx, "page_results (document_id, run_id, page, state, submitted_at, version)", []any{theDocument, aRun, uint32(3), "done", o.at, uint64(1)})
	if got, refused := o.replay(api.ReplayRequest{Letters: []string{kept}}); len(got) > 0 || refused[kept] != "letter-resolved" {
		t.Error(got, refused)
	}
	running := o.land(schemas.NewDocumentID(o.at), "Cancelled", o.at, schemas.Running)
	idle := o.put(0, "k", "{}", "lc-document-id", running.documentID, "lc-run-id", running.runID)
	if _, err := o.api.Cancel(ctx, running.documentID); err != nil {
		t.Fatal(err)
	}
	if got, refused := o.replay(api.ReplayRequest{Letters: []string{idle}}); len(got) > 0 || refused[idle] != "letter-cancelled" {
		t.Error(got, refused)
	}
	erased := o.land(schemas.NewDocumentID(o.at), "Erased", o.at, schemas.CompletedWithFailures)
	dead := o.put(0, "k", "{}", "lc-document-id", erased.documentID, "lc-run-id", erased.runID)
	if _, err := o.api.Delete(ctx, erased.documentID); err != nil {
		t.Fatal(err)
	}
	if got, refused := o.replay(api.ReplayRequest{Letters: []string{dead}}); len(got) > 0 || refused[dead] != "document-deleted" {
		t.Error(got, refused)
	}
	if l, err := o.api.Letter(ctx, gone); err != nil || l.Missing != "letter-gone" || l.State != api.LetterResolved || l.Value != nil {
		t.Errorf("%+v, %v", l, err)
	}
	for _, request := range []api.ReplayRequest{{}, {All: true, Code: "c"}, {Letters: []string{kept}, Stage: "s"}, {Code: "c", Cursor: "x"}, {Code: "c", Limit: 1000}} {
		for _, err := range o.api.Replay(ctx, request) {
			if code := client.Code(err); code != "invalid-request" && code != "invalid-cursor" {
				t.Errorf("%+v: %v", request, err)
			}
		}
	}
}

func TestLettersAreListedAndShown(t *testing.T) {
	o := openOffice(t)
	ctx := context.Background()
	var ids []string
	for n := range 7 {
		ids = append(ids, o.put(int32(n%3), "k", `{"n":1}`, "lc-offset", fmt.Sprint(n), "lc-code", fmt.Sprint("code-", n%2)))
	}
	raw := o.put(0, "k", "%PDF-1.7 \x00", "lc-offset", "99", "lc-topic", prefix+"documents", "lc-stage", "planner", "lc-document-id", "", "lc-run-id", "", "lc-page", "")
	// In parts, what failed last first.
	var got []string
	path := "/v1/dead-letters?limit=3&code=code-0"
	for next := ""; ; {
		status, body := o.get(path + "&cursor=" + next)
		if status.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", status.StatusCode, body)
		}
		var list api.LetterList
		if err := json.Unmarshal(body, &list); err != nil {
			t.Fatal(err)
		}
		for _, l := range list.Letters {
			got = append(got, l.LetterID)
		}
		if next = list.Next; next == "" {
			break
		}
	}
	if want := []string{ids[6], ids[4], ids[2], ids[0]}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if all := o.letters(client.LetterFilter{Stage: "planner"}); len(all) != 1 || all[0].LetterID != raw || all[0].DocumentID != "" {
		t.Errorf("%+v", all)
	}
	shown, err := o.api.Letter(ctx, ids[3])
	if err != nil {
		t.Fatal(err)
	}
	if shown.Key != "k" || !cmp.Equal(shown.Value, map[string]any{"n": 1.0}) || shown.Headers["lc-stage"] != "splitter" || shown.ValueType != "application/json" ||
		shown.Topic != "page-ranges" || shown.DocumentID != theDocument || !slices.Equal(shown.Pages, []int{3}) {
		t.Errorf("%+v", shown)
	}
	if shown, err := o.api.Letter(ctx, raw); err != nil || shown.Value != nil || shown.ValueType != "application/pdf" || shown.Bytes != 10 {
		t.Errorf("%+v, %v", shown, err)
	}
	if _, err := o.api.Letter(ctx, theDocument); client.Code(err) != "letter-not-found" {
		t.Error(err)
	}
}

// The page lists letters and replays one at the press of a button, without a script and for nobody else's page.
func TestThePageOfDeadLetters(t *testing.T) {
	o := openOffice(t)
	id := o.put(0, aRun+"/3", "{}", "lc-error", "<script>alert(1)</script>")
	response, body := o.get("/dead-letters?state=open")
	for _, part := range []string{"page-too-large", "&lt;script&gt;", `value="` + id + `"`, "/documents/" + theDocument, "page 3", "Replay</button>"} {
		if response.StatusCode != http.StatusOK || !strings.Contains(string(body), part) {
			t.Errorf("%d: %q is missing in\n%s", response.StatusCode, part, body)
		}
	}
	form := func(from string) reply {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, o.base+"/dead-letters/replay", strings.NewReader("letter="+id+"&state=open"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", from)
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return reply{response.StatusCode, response.Header}
	}
	if answer := form("cross-site"); answer.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another site: %d", answer.StatusCode)
	}
	if answer := form("same-origin"); answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "/dead-letters?replayed=1&state=open" {
		t.Errorf("%d %v", answer.StatusCode, answer.Header)
	}
	o.read("page-ranges", 1)
	if _, body := o.get("/dead-letters?replayed=1"); !strings.Contains(string(body), "1 replayed") || !strings.Contains(string(body), `state replayed">replayed`) {
		t.Errorf("after the replay:\n%s", body)
	}
	if response, body := o.get("/dead-letters?document=x"); response.StatusCode != http.StatusOK || !strings.Contains(string(body), "not the id of a document") {
		t.Errorf("%d\n%s", response.StatusCode, body)
	}
}
