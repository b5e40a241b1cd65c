package recorder

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
	"leafcutter/stages/recorder/internal/deadletters"
)

// question is a heading of docs/sql.md with the query below it.
type question struct{ heading, query string }

// questions reads docs/sql.md.
func questions(t *testing.T) []question {
	t.Helper()
	text, err := os.ReadFile("../../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []question
	heading := ""
	for block := range strings.SplitSeq(string(text), "\n### ") {
		heading, _, _ = strings.Cut(block, "\n")
		parts := strings.Split(block, "\n```sql\n")
		for _, part := range parts[1:] {
			query, _, closed := strings.Cut(part, "\n```\n")
			if !closed {
				t.Fatalf("%s: the block has no end", heading)
			}
			all = append(all, question{heading, query})
		}
	}
	return all
}

// corpus is a small library whose every answer is known: two copies of a report, by two models and by one with a shadow, a scan with two
// bad pages, a locked document, a book that is running, and one that nobody has looked at yet.
func corpus(t *testing.T, db *clickhouse.DB) {
	t.Helper()
	r, err := New(Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	var in []stage.In
	at := day0
	put := func(records ...schemas.Result) {
		for _, record := range records {
			value, err := schemas.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			at = at.Add(time.Second)
			if d, ok := record.(schemas.DocumentAccepted); ok && at.Before(d.SubmittedAt) {
				at = d.SubmittedAt.Add(2 * time.Second)
			}
			in = append(in, stage.In{Topic: schemas.TopicResults, Offset: int64(len(in)), Timestamp: at, Key: record.Document(), Value: value, Attempt: 1})
		}
	}
	id := func(n int) string { return fmt.Sprintf("0198a000-0000-7000-8000-%012d", n) }
	document := func(n, days int, title, sha string, bytes int64, pages int) schemas.DocumentAccepted {
		return schemas.DocumentAccepted{DocumentID: id(n), Title: title, Source: "s3://b/" + id(n), ContentType: "application/pdf", SHA256: sha,
			Bytes: bytes, PageCount: pages, SubmittedAt: day0.AddDate(0, 0, days)}
	}
	run := func(d schemas.DocumentAccepted, model string, pages int) schemas.Run {
		o := options
		o.Model = model
		return schemas.Run{DocumentID: d.DocumentID, RunID: schemas.RunID(d.DocumentID, o), SubmittedAt: d.SubmittedAt, Source: d.Source,
			ContentType: d.ContentType, PagesSelected: pages, Options: o}
	}
	box := func(class string, score float64, x0, y0, x1, y1 float64, text string) schemas.CutBox {
		b := schemas.CutBox{Box: schemas.Box{Class: class, Score: score, Rect: [4]float64{x0, y0, x1, y1}}, Text: text}
		if score >= 0.4 {
			b.CropKey = fmt.Sprintf("crops/%s-%.0f", class, 100*score)
		}
		return b
	}
	page := func(r schemas.Run, n int, infer float64, boxes ...schemas.CutBox) schemas.PageDone {
		return schemas.PageDone{RenderedPage: schemas.RenderedPage{Run: r, Page: n, ImageKey: fmt.Sprint("pages/", n), Width: 1000, Height: 2000, DPI: 144, RenderMS: 40},
			AnnotatedKey: fmt.Sprint("annotated/", n), Boxes: boxes, QueueMS: 5, InferMS: infer, AnnotateMS: 20,
			TraceID: fmt.Sprintf("%032d", n), DetectedAt: r.SubmittedAt.Add(time.Duration(n) * 25 * time.Second)}
	}

	queued := func(p schemas.PageDone, ms float64) schemas.PageDone {
		p.QueueMS = ms
		return p
	}

	report := document(1, 0, "report.pdf", "aa", 3<<20, 3)
	put(report)
	first := run(report, "layout_cdla", 3)
	put(schemas.RunPlanned{Run: first, PlannedAt: at},
		page(first, 1, 100, box("title", 0.9, 100, 100, 900, 160, "Annual Report"), box("figure", 0.8, 100, 300, 500, 700, ""), box("text", 0.7, 100, 800, 900, 1900, "Words")),
		page(first, 2, 110, box("table", 0.9, 100, 300, 500, 700, "1 2 3"), box("figure", 0.5, 100, 300, 500, 500, ""), box("text", 0.45, 100, 800, 900, 900, ""), box("text", 0.35, 100, 950, 900, 990, "")),
		page(first, 3, 120, box("title", 0.6, 100, 100, 400, 140, "Outlook"), box("text", 0.9, 100, 200, 900, 1900, "")))
	second := run(report, "other_model", 3)
	put(schemas.RunPlanned{Run: second, PlannedAt: at},
		page(second, 1, 900, box("title", 0.8, 100, 100, 900, 160, "Annual Report")), page(second, 2, 800, box("table", 0.7, 100, 300, 500, 700, "1 2 3")), page(second, 3, 700))

	twin := document(2, 0, "copy of report.pdf", "aa", 3<<20, 1)
	put(twin)
	copied := run(twin, "layout_cdla", 1)
	put(schemas.RunPlanned{Run: copied, PlannedAt: at}, page(copied, 1, 90, box("text", 0.5, 1, 1, 900, 1900, "a report")))
	tried := copied
	tried.Options.Model, tried.Options.Shadow = "candidate", true
	tried.RunID = schemas.RunID(twin.DocumentID, tried.Options)
	put(schemas.RunPlanned{Run: tried, PlannedAt: at}, page(tried, 1, 60, box("title", 0.9, 1, 1, 900, 60, "a report"), box("text", 0.8, 1, 1, 900, 1700, "")))

	scan := document(3, 1, "scan.pdf", "cc", 40<<20, 4)
	put(scan)
	bad := run(scan, "layout_cdla", 4)
	put(schemas.RunPlanned{Run: bad, PlannedAt: at},
		page(bad, 1, 130, box("figure", 0.95, 0, 0, 1000, 1900, "")),
		schemas.PageFailed{Run: bad, Page: 2, Stage: "splitter", Code: "render-timeout", Error: "page 2: 30 s", FailedAt: at},
		queued(page(bad, 3, 140, box("figure", 0.95, 0, 0, 1000, 1900, ""), box("title", 0.3, 100, 10, 300, 60, "report?")), 900),
		schemas.PageFailed{Run: bad, Page: 4, Stage: "detector", Code: "image-unreadable", Error: "unexpected end", FailedAt: at})

	locked := document(4, 1, "locked.pdf", "dd", 1<<10, 0)
	put(locked, schemas.RunFailed{Run: run(locked, "layout_cdla", 0), Stage: "planner", Code: "encrypted", Error: "a password is needed", FailedAt: at})

	book := document(5, 2, "handbook.pdf", "ee", 9<<20, 400)
	put(book)
	long := run(book, "layout_cdla", 40)
	put(schemas.RunPlanned{Run: long, PlannedAt: at})
	for n := 1; n <= 10; n++ {
		put(page(long, n, 100, box("table", 0.9, 100, 100, 900, 500, "")))
	}
	put(document(6, 2, "letter.pdf", "ff", 2<<10, 1))
	handle(t, r, in, 7)

	lettersOf(t, db, bad, locked, first)

	traced := fmt.Sprintf("%032d", 1) // page 1 of the second run is the slowest of all
	if err := db.Exec(context.Background(), `INSERT INTO otel_traces (Timestamp, TraceId, SpanId, ServiceName, SpanName, Duration, StatusCode) VALUES
		('2026-03-01 12:00:02', '`+traced+`', '2', 'detector', 'detector process', 905000000, 'Unset'),
		('2026-03-01 12:00:01', '`+traced+`', '1', 'page-splitter', 'splitter process', 41500000, 'Unset'),
		('2026-03-01 12:00:01', 'another', '3', 'detector', 'detector process', 1, 'Unset')`); err != nil {
		t.Fatal(err)
	}
}

// lettersOf lands dead letters: a page that failed again when it was replayed, one that is under way again, a document that
// nobody has replayed, and a page that was done after all.
func lettersOf(t *testing.T, db *clickhouse.DB, bad schemas.Run, locked schemas.DocumentAccepted, first schemas.Run) {
	t.Helper()
	l, err := deadletters.New(deadletters.Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	var in []stage.In
	put := func(documentID, runID, page, stageName, code, topic, letter, replay string) string {
		h := map[string]string{schemas.HeaderStage: stageName, schemas.HeaderCode: code, schemas.HeaderError: code, schemas.HeaderAttempts: "1",
			schemas.HeaderTopic: topic, schemas.HeaderPartition: "0", schemas.HeaderOffset: fmt.Sprint(len(in)), schemas.HeaderDocumentID: documentID,
			schemas.HeaderRunID: runID, schemas.HeaderPage: page, schemas.HeaderLetter: letter, schemas.HeaderReplay: replay}
		at := day0.AddDate(0, 0, 3).Add(time.Duration(len(in)) * time.Minute)
		in = append(in, stage.In{Topic: schemas.TopicDeadLetters, Offset: int64(len(in)), Timestamp: at, Value: []byte("{}"), Headers: h, Attempt: 1})
		return schemas.LetterID(h)
	}
	again := put(bad.DocumentID, bad.RunID, "2", "splitter", "render-timeout", schemas.TopicPageRanges, "", "")
	put(bad.DocumentID, bad.RunID, "2", "splitter", "render-timeout", schemas.TopicPageRanges, again, "1")
	underWay := put(bad.DocumentID, bad.RunID, "4", "detector", "image-unreadable", schemas.PagesTopic("layout_cdla"), "", "")
	put(locked.DocumentID, "", "", "planner", "encrypted", schemas.TopicDocuments, "", "")
	put(first.DocumentID, first.RunID, "1", "splitter", "render-timeout", schemas.TopicPageRanges, "", "")
	for _, r := range l.Handle(context.Background(), in) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	for _, letter := range []string{again, underWay} {
		if err := db.Exec(context.Background(), "INSERT INTO dead_letter_replays (letter_id, replay, replayed_at) VALUES ('"+letter+"', 1, '2026-03-04 12:00:30')"); err != nil {
			t.Fatal(err)
		}
	}
}

// answers to the questions of docs/sql.md, tab-separated; a cell that is ~… is a regular expression.
var docsAnswers = map[string]string{
	"Which documents are where?": `
completed	2	4	4
completed_with_failures	1	2	4
failed	1	0	0
queued	1	0	0
running	1	10	40`,
	"Which documents are still running, how far are they, and when will they be done?": `
handbook.pdf	running	10	40	25	~[1-9]\d+`,
	"In which documents was no title found?": `
0198a000-0000-7000-8000-000000000002	copy of report.pdf	1
0198a000-0000-7000-8000-000000000003	scan.pdf	2`,
	"Which documents were submitted more than once?": `
aa	2	['report.pdf','copy of report.pdf']	2026-03-01 12:00:00.000`,
	"Which are the biggest documents?": `
scan.pdf	4	40.00 MiB	10240
handbook.pdf	400	9.00 MiB	23
report.pdf	3	3.00 MiB	1024
copy of report.pdf	1	3.00 MiB	3072
letter.pdf	1	2.00 KiB	2
locked.pdf	0	1.00 KiB	\N`,
	"What is the outline of a document?": `
1	Annual Report	60	0.9
3	Outlook	40	0.6`,
	"On which page is the first table of each document?": `
handbook.pdf	1	10
report.pdf	2	1`,
	"Where is a word in a title?": `
report.pdf	1	Annual Report	annotated/1`,
	"How sure is the model, by class and day?": `
2026-03-01	figure	2	0.65
2026-03-01	table	1	0.9
2026-03-01	text	5	0.58
2026-03-01	title	2	0.75
2026-03-02	figure	2	0.95
2026-03-02	title	1	0.3
2026-03-03	table	10	0.9`,
	"Which boxes lie between two thresholds?": `
text	2	1	0.35	0.45
title	1	1	0.3	0.3`,
	"Which pages have the most boxes?": `
report.pdf	2	4	annotated/2
report.pdf	1	3	annotated/1
report.pdf	3	2	annotated/3
scan.pdf	3	2	annotated/3
copy of report.pdf	1	1	annotated/1`,
	"Which boxes of two classes overlap?": `
report.pdf	2	2	1	80000	0.5`,
	"Which crops of one class can be downloaded?": `
scan.pdf	1	1	0.95	crops/figure-95
scan.pdf	3	1	0.95	crops/figure-95
report.pdf	1	2	0.8	crops/figure-80
report.pdf	2	2	0.5	crops/figure-50`,
	"Where is each table, in parts of the page?": `
handbook.pdf	1	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	2	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	3	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	4	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	5	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	6	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	7	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	8	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	9	1	0.1	0.05	0.9	0.25	400	200
handbook.pdf	10	1	0.1	0.05	0.9	0.25	400	200
report.pdf	2	1	0.1	0.15	0.5	0.35	200	200`,
	"Which pages are one picture, a scan most likely?": `
scan.pdf	1	0.95
scan.pdf	3	0.95`,
	"What did two models find in the same document?": `
report.pdf	figure	2	0	\N
report.pdf	table	1	1	0.2
report.pdf	text	3	0	\N
report.pdf	title	2	1	-0.05`,
	"What does the shadow model find that the default one does not, and the other way round?": `
text	1	1	0	0	0.895
title	0	1	0	1	\N`,
	"Which pages failed, and why?": `
scan.pdf	2	splitter	render-timeout	page 2: 30 s
scan.pdf	4	detector	image-unreadable	unexpected end`,
	"Which documents could not be done at all, and why?": `
encrypted	1	['locked.pdf']	a password is needed`,
	"What was given up, for which reason, and what of it is still open?": `
planner	encrypted	1	0	0	2026-03-04 12:03:00.000
splitter	render-timeout	1	0	1	2026-03-04 12:04:00.000
detector	image-unreadable	0	1	0	2026-03-04 12:02:00.000`,
	"Which dead letters failed again after they were replayed?": `
scan.pdf	2	splitter	render-timeout	2	1	2026-03-04 12:00:00.000	2026-03-04 12:01:00.000`,
	"How many pages are done a minute?": `
2026-03-01 12:00:00	6	12
2026-03-01 12:01:00	2	2
2026-03-02 12:00:00	1	1
2026-03-02 12:01:00	1	2
2026-03-03 12:00:00	2	2
2026-03-03 12:01:00	2	2
2026-03-03 12:02:00	3	3
2026-03-03 12:03:00	2	2
2026-03-03 12:04:00	1	1`,
	"How long do render, inference and annotation take?": `
layout_cdla	16	100	40	229	132	20
other_model	3	800	40	5	890	20
candidate	1	60	40	5	60	20`,
	"Which stage is the slowest of each document?": `
report.pdf	infer	2.7	['infer','render','annotate','queue']
handbook.pdf	infer	1	['infer','render','annotate','queue']
scan.pdf	queue	0.9	['queue','infer','render','annotate']
copy of report.pdf	infer	0.2	['infer','render','annotate','queue']`,
	"How long until a document's first page can be seen, and until it is done?": `
4	5.5	11.2	11.6`,
	"What does a document cost?": `
report.pdf	6	3.09	0.000043	0.0072
handbook.pdf	10	1.6	0.000022	0.0022
scan.pdf	2	0.39	0.000005	0.0025
copy of report.pdf	2	0.27	0.000004	0.002`,
	"Where did the time of a page go, step by step?": `
page-splitter	splitter process	41.5	Unset
detector	detector process	905	Unset`,
}

func TestQueriesOfTheDocs(t *testing.T) {
	db := openDatabase(t)
	corpus(t, db)
	all := questions(t)
	if len(all) < 20 {
		t.Errorf("%d questions, want at least 20", len(all))
	}
	asked := map[string]bool{}
	for _, q := range all {
		t.Run(path.Clean(q.heading), func(t *testing.T) {
			asked[q.heading] = true
			want, known := docsAnswers[q.heading]
			if !known {
				t.Errorf("no answer is known")
			}
			stream, err := db.QueryFormat(context.Background(), "TSV", q.query)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(stream)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), masked(strings.TrimSpace(want), strings.TrimSpace(string(got)))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for heading := range docsAnswers {
		if !asked[heading] {
			t.Errorf("%q is not asked any more", heading)
		}
	}
}

// masked is got by lines, with each cell that matches the regular expression in its place of want written as that.
func masked(want, got string) []string {
	lines, wanted := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(lines), len(wanted)) {
		cells, wantedCells := strings.Split(lines[i], "\t"), strings.Split(wanted[i], "\t")
		for k := range min(len(cells), len(wantedCells)) {
			if pattern, ok := strings.CutPrefix(wantedCells[k], "~"); ok && regexp.MustCompile("^(?:"+pattern+")$").MatchString(cells[k]) {
				cells[k] = wantedCells[k]
			}
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return lines
}
