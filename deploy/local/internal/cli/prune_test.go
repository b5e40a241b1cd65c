package cli

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/prune"
	"leafcutter/schemas"
	migrations "leafcutter/schemas/clickhouse"
)

// archive is S3 and ClickHouse with documents of all ages.
type archive struct {
	*testing.T
	store   *objectstore.Store
	db      *clickhouse.DB
	environ []string
	objects string // address of S3
	now     time.Time
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	objects, sql := localtest.StartObjects(t), localtest.StartSQL(t)
	a := &archive{T: t, objects: objects.URL, now: time.Now().UTC().Truncate(time.Millisecond), environ: []string{
		"CLICKHOUSE_ADDR=" + sql.Addr, "CLICKHOUSE_USER=" + sql.User, "CLICKHOUSE_PASSWORD=" + sql.Password,
		"AWS_ENDPOINT_URL=" + objects.URL, "AWS_REGION=" + objects.Region, "S3_FORCE_PATH_STYLE=true",
		"AWS_ACCESS_KEY_ID=" + objects.AccessKey, "AWS_SECRET_ACCESS_KEY=" + objects.SecretKey, "S3_BUCKET=" + objects.Bucket,
	}}
	cfg := clickhouse.Config{Addr: []string{sql.Addr}, Database: sql.Database, User: sql.User, Password: sql.Password, Timeout: time.Minute}
	if err := clickhouse.Migrate(t.Context(), cfg, migrations.Migrations, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.db, err = clickhouse.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.db.Close() })
	if a.store, err = objectstore.Open(t.Context(), objectstore.Config{Endpoint: objects.URL, Region: objects.Region, AccessKeyID: objects.AccessKey,
		SecretAccessKey: objects.SecretKey, Bucket: objects.Bucket, ForcePathStyle: true, Checksum: "when-supported", Connections: 8}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.store.Close)
	return a
}

func (a *archive) exec(format string, args ...any) {
	a.Helper()
	if err := a.db.Exec(a.Context(), fmt.Sprintf(format, args...)); err != nil {
		a.Fatal(err)
	}
}

func (a *archive) count(format string, args ...any) int {
	a.Helper()
	var rows []struct {
		N uint64 `ch:"n"`
	}
	if err := a.db.Select(a.Context(), &rows, "SELECT count() AS n FROM "+fmt.Sprintf(format, args...)); err != nil {
		a.Fatal(err)
	}
	return int(rows[0].N)
}

const pagesOfAll = 3

// add puts a document that was submitted days ago, with its objects and rows. Each run ended days ago, or has not where
// that is negative.
func (a *archive) add(submitted int, runs ...int) string {
	a.Helper()
	at := func(days int) string {
		return fmt.Sprintf("fromUnixTimestamp64Milli(%d, 'UTC')", a.now.AddDate(0, 0, -days).UnixMilli())
	}
	id := schemas.NewDocumentID(a.now.AddDate(0, 0, -submitted))
	a.exec("INSERT INTO documents (document_id, title, submitted_at, version) VALUES ('%s', 'T', %s, 1)", id, at(submitted))
	keys := []string{schemas.SourceKey(id), schemas.DocumentPrefix(id) + "submission.json"}
	for page := 1; page <= pagesOfAll; page++ {
		keys = append(keys, schemas.PageImageKey(id, 108, "mupdf1", page), schemas.PageTextKey(id, 108, "mupdf1", page))
	}
	for _, ended := range runs {
		run := schemas.NewDocumentID(a.now)
		state, finished := "completed", at(ended)
		if ended < 0 {
			state, finished = "running", "NULL"
		}
		a.exec("INSERT INTO runs (run_id, document_id, model, state, submitted_at, finished_at, version) VALUES ('%s', '%s', 'm', '%s', %s, %s, 1)",
			run, id, state, at(submitted), finished)
		a.exec("INSERT INTO page_results (document_id, run_id, page, state, submitted_at, version) SELECT '%s', '%s', number + 1, 'done', %s, 1 FROM numbers(%d)", id, run, at(submitted), pagesOfAll)
		for page := 1; page <= pagesOfAll; page++ {
			image := schemas.PageImageKey(id, 108, "mupdf1", page)
			keys = append(keys, schemas.AnnotatedKey(id, run, page), schemas.CropKey(id, run, page, image, [4]int{0, 0, 9, 9}, 4))
		}
	}
	for _, key := range keys {
		a.put(key)
	}
	return id
}

func (a *archive) put(key string) {
	a.Helper()
	if err := a.store.Put(a.Context(), key, []byte("ten bytes."), "text/plain"); err != nil {
		a.Fatal(err)
	}
}

// left is what there is of a document: objects by their folder, rows by their table. A row that another replaced is none,
// merged or not.
func (a *archive) left(id string) map[string]int {
	a.Helper()
	left := map[string]int{}
	err := a.store.List(a.Context(), schemas.DocumentPrefix(id), func(info objectstore.Info) error {
		folders := strings.Split(strings.TrimPrefix(info.Key, schemas.DocumentPrefix(id)), "/")
		if folders[0] == "runs" {
			folders = folders[2:]
		}
		left[folders[0]]++
		return nil
	})
	if err != nil {
		a.Fatal(err)
	}
	for _, table := range []string{"documents", "runs", "page_results"} {
		if n := a.count("%s FINAL WHERE document_id = '%s'", table, id); n > 0 {
			left[table] = n
		}
	}
	return left
}

func (a *archive) isLeft(name, id string, want map[string]int) {
	a.Helper()
	if diff := cmp.Diff(want, a.left(id)); diff != "" {
		a.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// everything is what there is of a document with one run.
func everything() map[string]int {
	return map[string]int{"source": 1, "submission.json": 1, "pages": 2 * pagesOfAll, "annotated": pagesOfAll, "crops": pagesOfAll,
		"documents": 1, "runs": 1, "page_results": pagesOfAll}
}

func (a *archive) prune(environ []string, args ...string) prune.Report {
	a.Helper()
	out, errs := newHeard(), newHeard()
	if err := run(a.T, out, errs, append(slices.Clone(a.environ), environ...), append([]string{"prune", "-o", "json"}, args...)...); err != nil {
		a.Fatalf("prune %s: %v\n%s", args, err, errs)
	}
	var report prune.Report
	if err := json.Unmarshal(out.text.Bytes(), &report); err != nil {
		a.Fatalf("%v in\n%s", err, out)
	}
	for i := range report.What {
		report.What[i].Before = nil
	}
	return report
}

func TestPruneParts(t *testing.T) {
	a := newArchive(t)
	old, young := a.add(70, 69), a.add(70, 5)
	unfinished, again := a.add(70, -1), a.add(70, 69, -1)

	dry := a.prune(nil, "--older-than", "720h", "--dry-run", "--what", "images,annotated,crops,sources,rows")
	want := []prune.Count{
		{What: "images", Documents: 1, Objects: 2 * pagesOfAll, Bytes: 2 * pagesOfAll * 10},
		{What: "annotated", Documents: 1, Objects: pagesOfAll, Bytes: pagesOfAll * 10},
		{What: "crops", Documents: 1, Objects: pagesOfAll, Bytes: pagesOfAll * 10},
		{What: "sources", Documents: 1, Objects: 1, Bytes: 10},
		{What: "rows", Documents: 1, Rows: pagesOfAll},
	}
	if diff := cmp.Diff(want, dry.What); diff != "" || !dry.DryRun {
		t.Errorf("a dry run reports (-want +got):\n%s", diff)
	}
	a.isLeft("after a dry run", old, everything())

	if got := a.prune([]string{"LEAFCUTTER_KEEP_IMAGES=30d"}); cmp.Diff(want[:1], got.What) != "" {
		t.Errorf("images: %+v", got)
	}
	left := everything()
	delete(left, "pages")
	a.isLeft("without images", old, left)
	if got := a.prune(nil, "--older-than", "30d", "--what", "images"); got.What[0].Documents != 0 {
		t.Errorf("what is gone is looked for again: %+v", got)
	}
	got := a.prune(nil, "--older-than", "30d", "--what", "images,annotated,crops,sources,rows")
	want[0] = prune.Count{What: "images"}
	if diff := cmp.Diff(want, got.What); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	a.isLeft("without any part", old, map[string]int{"submission.json": 1, "documents": 1, "runs": 1})
	a.isLeft("ended a few days ago", young, everything())
	a.isLeft("not ended", unfinished, everything())
	two := everything()
	two["annotated"], two["crops"], two["runs"], two["page_results"] = 2*pagesOfAll, 2*pagesOfAll, 2, 2*pagesOfAll
	a.isLeft("on its way again", again, two)

	// A run that ends later makes the parts anew: they are old again in their time.
	a.put(schemas.PageImageKey(old, 108, "mupdf1", 1))
	a.exec("INSERT INTO runs (run_id, document_id, model, state, submitted_at, finished_at, version) SELECT run_id, document_id, model, state, submitted_at, now64(3) + 60, 2 FROM runs WHERE document_id = '%s'", old)
	a.exec("INSERT INTO prunes SELECT document_id, what, now64(3) + 30 FROM prunes")
	if left := a.left(old); left["pages"] != 1 {
		t.Errorf("%v", left)
	}
	p := prune.Pruner{Store: a.store, DB: a.db, Now: func() time.Time { return a.now.AddDate(0, 2, 0) }}
	keep, err := prune.Only(prune.Age(30*24*time.Hour), prune.Images)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), keep, false); err != nil {
		t.Fatal(err)
	}
	if left := a.left(old); left["pages"] != 0 {
		t.Errorf("made anew, and not pruned again: %v", left)
	}
}

func TestPruneDocuments(t *testing.T) {
	a := newArchive(t)
	const aMonth = 31
	old, beside, young := a.add(3*aMonth, 3*aMonth-1), a.add(3*aMonth, -1), a.add(3*aMonth, 1)
	alone := []string{a.add(6*aMonth, 6*aMonth-1), a.add(6*aMonth, 5*aMonth, 4*aMonth)}
	a.exec("INSERT INTO prunes VALUES ('%s', 'images', now64(3))", old)
	for days, id := range map[int]string{92: old, 1: young, 10: alone[0]} {
		a.exec("INSERT INTO webhook_deliveries (event_id, document_id, url, state, event_at, version) VALUES (generateUUIDv4(), '%s', 'u', 'delivered', now64(3) - INTERVAL %d DAY, 1)", id, days)
		a.exec("INSERT INTO dead_letters (letter_id, document_id, failed_at) VALUES (generateUUIDv4(), '%s', now64(3) - INTERVAL %d DAY)", id, days)
	}
	for _, days := range []int{1, 60} { // letters about no document
		a.exec("INSERT INTO dead_letters (letter_id, failed_at) VALUES (generateUUIDv4(), now64(3) - INTERVAL %d DAY)", days)
	}
	for _, days := range []int{0, 40, 41} {
		a.exec("INSERT INTO otel_traces (Timestamp, TraceId) VALUES (now64(9) - INTERVAL %d DAY, 'x')", days)
	}
	gone, going := schemas.NewDocumentID(a.now), schemas.NewDocumentID(a.now) // deleted for ever; being deleted
	a.exec("INSERT INTO deletions VALUES ('%s', now64(3), 1, now64(3), 7, 1), ('%s', now64(3), 1, NULL, 0, 1)", gone, going)
	a.put(schemas.PageImageKey(gone, 108, "mupdf1", 1))
	a.put(schemas.PageImageKey(going, 108, "mupdf1", 1))

	got := a.prune(nil, "--older-than", "720h")
	if c := got.What[0]; c.What != "documents" || c.Documents != 3 || c.Objects != 3*8+4*2*pagesOfAll || c.Rows != 3+4+4*pagesOfAll+2 {
		t.Errorf("documents: %+v", c)
	}
	if c := got.What[1]; c.What != "traces" || c.Rows != 2 {
		t.Errorf("traces: %+v", c)
	}
	if got.Swept.Documents != 1 || got.Swept.Objects != 1 {
		t.Errorf("of deleted documents: %+v", got.Swept)
	}
	month := a.now.AddDate(0, 0, -6*aMonth).Format("200601")
	var days []string
	for _, n := range []int{41, 40} {
		days = append(days, "otel_traces "+a.now.AddDate(0, 0, -n).Format("2006-01-02"))
	}
	if diff := cmp.Diff(append([]string{"page_results " + month, "runs " + month, "documents " + month}, days...), got.Dropped); diff != "" {
		t.Errorf("partitions (-want +got):\n%s", diff)
	}
	for _, id := range append(alone, old) {
		a.isLeft("old", id, map[string]int{})
	}
	a.isLeft("beside it, not ended", beside, everything())
	a.isLeft("beside it, ended yesterday", young, everything())
	for what, want := range map[string]int{
		"prunes": 0, "otel_traces": 1,
		"webhook_deliveries": 2, // that of yesterday, and that of ten days ago: its event can still be read from its topic
		"dead_letters":       2, // those of yesterday
	} {
		if n := a.count("%s", what); n != want {
			t.Errorf("%d rows of %s, want %d", n, what, want)
		}
	}
	// The room is given back, not only masked.
	if n := a.count("system.parts WHERE database = currentDatabase() AND active AND has_lightweight_delete"); n != 0 {
		t.Errorf("%d parts hold deleted rows", n)
	}
	if left := a.left(going); left["pages"] != 1 {
		t.Errorf("a document that is being deleted is somebody else's: %v", left)
	}
	if again := a.prune(nil, "--older-than", "720h"); again.What[0].Documents != 0 || len(again.Dropped) != 0 || again.Swept.Objects != 0 {
		t.Errorf("there is more to prune at once: %+v", again)
	}
}

// A document whose run is resumed while others are pruned keeps what it has, though it was looked up with them.
func TestPruneLeavesWhatComesBackToLife(t *testing.T) {
	a := newArchive(t)
	for range 30 { // of which some are looked at and pruned together
		a.add(70, 69)
	}
	var last []struct {
		ID string `ch:"id"`
	}
	// The order of the server is not that of their text.
	if err := a.db.Select(a.Context(), &last, "SELECT toString(document_id) AS id FROM runs ORDER BY document_id DESC LIMIT 2"); err != nil {
		t.Fatal(err)
	}
	back := last[0].ID
	server, err := url.Parse(a.objects)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever is removed, the last document's run is resumed before.
	var once sync.Once
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(server)
		r.Out.Host = r.In.Host // is signed
	}}
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete || r.URL.Query().Has("delete") {
			once.Do(func() {
				a.exec("INSERT INTO runs (run_id, document_id, model, state, submitted_at, version) SELECT run_id, document_id, model, 'running', submitted_at, 2 FROM runs WHERE document_id = '%s'", back)
			})
		}
		pass.ServeHTTP(w, r)
	}))
	defer between.Close()
	got := a.prune([]string{"AWS_ENDPOINT_URL=" + between.URL}, "--older-than", "30d")
	if got.What[0].Documents != 29 {
		t.Errorf("%d documents pruned, want 29", got.What[0].Documents)
	}
	a.prune(nil, "--older-than", "30d") // the month could not go as a whole
	a.isLeft("resumed", back, everything())
	a.isLeft("the one before", last[1].ID, map[string]int{})
}

func TestPruneSaysWhatItCannotDo(t *testing.T) {
	nowhere := []string{"HOME=" + t.TempDir(), "CLICKHOUSE_ADDR=127.0.0.1:1", "AWS_ENDPOINT_URL=http://127.0.0.1:1", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}
	for args, want := range map[string]string{
		"":                                 "nothing is to be removed",
		"--older-than 0s":                  "above zero",
		"--older-than -5h":                 "not an age",
		"--older-than 5x":                  "not an age",
		"--what images":                    "--what needs --older-than",
		"--older-than 5d --what all":       "cannot be pruned; there are images",
		"--older-than 5d -o yaml":          "text or json",
		"--older-than 5d --data-dir /none": "no pipeline runs",
		"--older-than 5d":                  "clickhouse",
	} {
		err := run(t, newHeard(), newHeard(), nowhere, append([]string{"prune"}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("prune %s: %v", args, err)
		}
	}
}
