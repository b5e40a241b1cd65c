package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/config"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
)

// remains is a deployment as it is after stages were away for too long: servers, rows, and topics without what was on
// them.
type remains struct {
	*testing.T
	environ []string
	servers servers
	db      *clickhouse.DB
	store   *objectstore.Store
}

func newRemains(t *testing.T) *remains {
	broker, objects, sql := localtest.StartBroker(t), localtest.StartObjects(t), localtest.StartSQL(t)
	r := &remains{T: t, environ: []string{
		"KAFKA_BROKERS=" + broker.Addr, "CLICKHOUSE_ADDR=" + sql.Addr, "CLICKHOUSE_USER=" + sql.User, "CLICKHOUSE_PASSWORD=" + sql.Password,
		"AWS_ENDPOINT_URL=" + objects.URL, "AWS_REGION=" + objects.Region, "S3_FORCE_PATH_STYLE=true",
		"AWS_ACCESS_KEY_ID=" + objects.AccessKey, "AWS_SECRET_ACCESS_KEY=" + objects.SecretKey, "S3_BUCKET=" + objects.Bucket,
	}}
	if _, err := config.Load("leafcutter", nil, r.environ, &r.servers); err != nil {
		t.Fatal(err)
	}
	if err := run(t, newHeard(), newHeard(), r.environ, "init", "--partitions", "2"); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.db, err = clickhouse.Open(t.Context(), r.servers.ClickHouse); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.db.Close() })
	if r.store, err = objectstore.Open(t.Context(), r.servers.Objects); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.store.Close)
	return r
}

func (r *remains) exec(query string, args ...any) {
	r.Helper()
	if err := r.db.Exec(r.Context(), query, args...); err != nil {
		r.Fatal(err)
	}
}

// remaining is a run as the tables have it.
type remaining struct {
	state    schemas.State
	ago      time.Duration // since it was submitted and planned
	pages    int
	done     []int // pages
	heard    time.Duration
	noRow    bool // of the document
	selected string
}

func (r *remains) land(w remaining) (documentID, runID string) {
	r.Helper()
	at := time.Now().Add(-w.ago).UTC().Truncate(time.Millisecond)
	documentID = schemas.NewDocumentID(at)
	o := schemas.RunOptions{Model: "layout_cdla", ModelDigest: strings.Repeat("ab", 32), DPI: 108, Pages: "all", Thresholds: map[string]float64{"*": 0.4},
		CropPadding: 4, Renderer: "test"}
	selected := w.pages
	if w.selected != "" {
		o.Pages, selected = w.selected, w.pages/2
	}
	runID = schemas.RunID(documentID, o)
	if !w.noRow {
		r.exec(`INSERT INTO documents (document_id, title, source_uri, content_type, sha256, page_count, submitted_at, version)
			SELECT toUUID(?), 'T', 's3://leafcutter/x', 'application/pdf', 'cd', ?, fromUnixTimestamp64Milli(?, 'UTC'), 1`, documentID, w.pages, at.UnixMilli())
	}
	r.exec(`INSERT INTO runs (run_id, document_id, model, options, dpi, pages_selected, state, planned_at, submitted_at, version)
		SELECT toUUID(?), toUUID(?), 'layout_cdla', ?, 108, ?, ?, fromUnixTimestamp64Milli(?, 'UTC'), fromUnixTimestamp64Milli(?, 'UTC'), 1`,
		runID, documentID, o.Canonical(), selected, string(w.state), at.UnixMilli(), at.UnixMilli())
	for _, page := range w.done {
		r.exec(`INSERT INTO page_results (document_id, run_id, page, state, detected_at, submitted_at, version)
			SELECT toUUID(?), toUUID(?), ?, 'done', fromUnixTimestamp64Milli(?, 'UTC'), fromUnixTimestamp64Milli(?, 'UTC'), 1`,
			documentID, runID, page, time.Now().Add(-w.heard).UnixMilli(), at.UnixMilli())
	}
	return documentID, runID
}

// asked is what is on the topics of ranges and documents, as key+pages.
func (r *remains) asked() (all []string) {
	r.Helper()
	topics := []string{schemas.TopicPageRanges, schemas.Lane(schemas.TopicPageRanges, true), schemas.TopicDocuments}
	client, err := kafka.NewClient(r.servers.Kafka, kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		r.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(r.Context(), topics...)
	if err != nil {
		r.Fatal(err)
	}
	left := 0
	ends.Each(func(o kadm.ListedOffset) { left += int(o.Offset) })
	for left > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
		fetches := client.PollFetches(ctx)
		cancel()
		if err := fetches.Err(); err != nil {
			r.Fatal(err)
		}
		for record := range fetches.RecordsAll() {
			left--
			if record.Topic == schemas.TopicDocuments {
				all = append(all, record.Topic+" "+string(record.Key))
				continue
			}
			p, err := schemas.Unmarshal[schemas.PageRange](record.Value)
			if err != nil || string(record.Key) != p.Key() || p.Source == "" || p.SHA256 == "" || p.ContentType == "" {
				r.Errorf("%s: %v", record.Value, err)
			}
			all = append(all, fmt.Sprintf("%s %s %v+%d", record.Topic, p.RunID, p.Pages, p.Position))
		}
	}
	slices.Sort(all)
	return all
}

// reconcile runs the command and gives its lines by document.
func (r *remains) reconcile(args ...string) (map[string]reconciled, error) {
	r.Helper()
	out, errs := newHeard(), newHeard()
	err := run(r.T, out, errs, r.environ, append([]string{"reconcile", "-o", "json"}, args...)...)
	lines := map[string]reconciled{}
	for line := range strings.Lines(out.String()) {
		var one reconciled
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			r.Fatal(err)
		}
		lines[one.DocumentID] = one
	}
	return lines, err
}

func TestReconcile(t *testing.T) {
	r := newRemains(t)
	day := 24 * time.Hour
	var most []int
	for page := 1; page <= 37; page++ {
		if page != 3 && page != 20 && page != 21 {
			most = append(most, page)
		}
	}
	running, runningRun := r.land(remaining{state: schemas.Running, ago: day, pages: 40, done: most, heard: 5 * time.Hour})
	queued, queuedRun := r.land(remaining{state: schemas.Queued, ago: day, pages: 6, selected: "1,3,5"})
	recent, _ := r.land(remaining{state: schemas.Running, ago: day, pages: 2, done: []int{1}, heard: time.Minute})
	for _, left := range []remaining{{state: schemas.Completed, ago: day, pages: 1}, {state: schemas.Cancelled, ago: day, pages: 1}, {state: schemas.Queued, pages: 1}} {
		r.land(left)
	}
	lost := schemas.DocumentSubmitted{DocumentID: schemas.NewDocumentID(time.Now()), Source: "s3://leafcutter/y", SubmittedAt: time.Now().Add(-day)}
	refused := lost
	refused.DocumentID = schemas.DocumentIDForKey("", "k")
	for _, kept := range []map[string]any{{"document": lost}, {"document": refused, "fingerprint": "f"}} {
		value, err := json.Marshal(kept)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.store.Put(t.Context(), schemas.SubmissionKey(kept["document"].(schemas.DocumentSubmitted).DocumentID), value, ""); err != nil {
			t.Fatal(err)
		}
	}

	want := map[string]reconciled{
		running:         {DocumentID: running, RunID: runningRun, State: schemas.Running, Selected: 40, Missing: 6, Records: 3},
		queued:          {DocumentID: queued, RunID: queuedRun, State: schemas.Queued, Selected: 3, Missing: 3, Records: 1},
		lost.DocumentID: {DocumentID: lost.DocumentID, State: schemas.Queued, Records: 1},
	}
	for _, args := range [][]string{{"--dry-run"}, {}} {
		got, err := r.reconcile(args...)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%v: %v %+v", args, err, got)
		}
		for id, line := range want {
			if got[id] != line {
				t.Errorf("%v: %+v, want %+v", args, got[id], line)
			}
		}
		if asked := r.asked(); len(args) > 0 && len(asked) > 0 {
			t.Errorf("a dry run asked for %v", asked)
		}
	}
	asked := []string{
		schemas.TopicDocuments + " " + lost.DocumentID,
		"page-ranges " + runningRun + " [3]+2",
		"page-ranges " + queuedRun + " [1 3 5]+0",
		"page-ranges.bulk " + runningRun + " [20 21]+19",
		"page-ranges.bulk " + runningRun + " [38 39 40]+37",
	}
	slices.Sort(asked)
	if got := r.asked(); !slices.Equal(got, asked) {
		t.Errorf("asked for\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(asked, "\n"))
	}

	// What is named is looked at whenever it was last heard of; what it lacks is told apart from what cannot be told.
	orphan, _ := r.land(remaining{state: schemas.Running, ago: day, pages: 2, noRow: true})
	got, err := r.reconcile("--dry-run", recent, orphan, refused.DocumentID)
	if err == nil || len(got) != 3 || got[recent].Missing != 1 || got[orphan].Why == "" || got[refused.DocumentID].Records != 1 {
		t.Errorf("%v %+v", err, got)
	}
	if _, err := r.reconcile("nonsense"); err == nil {
		t.Error("what is no document's id is reconciled")
	}
}
