package reliability

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// A book of 5,000 pages costs a splitter and its renderers no more memory than one of 10, and its one bad page fails
// alone. The whole suite puts all of its pages through, the seeded twentieth some from its beginning, middle and end.
func TestLargeBook(t *testing.T) {
	const pages, bad = 5000, 2500
	selection, selected := "1-16,2495-2505,4991-5000", 37
	if full {
		selection, selected = "1-", pages
	}
	p := pipeline.Own(t)
	ctx := bounded(t, 55*time.Minute)
	book := corpus.OneTooLarge(pages, bad)
	small := corpus.Report(10, 3)
	through(ctx, t, p, "warm.pdf", small, "") // everything is warm
	var before int64
	for range 2 {
		_, most := through(ctx, t, p, "small.pdf", small, "")
		before = max(before, most)
	}
	began := time.Now()
	d, most := through(ctx, t, p, "book.pdf", book, selection)
	took := time.Since(began)
	if d.State != schemas.CompletedWithFailures || d.PagesDone != selected-1 || d.PagesFailed != 1 ||
		len(d.Failures) != 1 || d.Failures[0].Page != bad || d.Failures[0].Code != "page-too-large" {
		t.Errorf("the book is %s with %d pages done and %d failed: %+v", d.State, d.PagesDone, d.PagesFailed, d.Failures)
	}
	ratio := float64(most) / float64(before)
	if ratio > 1.1 {
		t.Errorf("the splitter and its renderers hold %.1f MB with the book, %.1f MB with 10 pages", float64(most)/1e6, float64(before)/1e6)
	}
	v := verdict{pages: selected - 1, lost: max(0, selected-1-d.PagesDone), condemned: max(0, d.PagesFailed-1)}
	suite.table.add(result{fault: "a book of 5,000 pages, one of them bad", times: 1, verdict: v, note: fmt.Sprintf(
		"%d pages selected, %.1f pages/s; splitter and renderers %.0f MB at most, %.0f MB with 10 pages: × %.2f", selected, float64(selected)/took.Seconds(), float64(most)/1e6, float64(before)/1e6, ratio)})
}

// through puts a document through and gives the most that the splitter and its renderers held together meanwhile.
func through(ctx context.Context, t *testing.T, p *pipeline.Pipeline, name string, data []byte, pages string) (*api.Document, int64) {
	t.Helper()
	accepted, err := p.Client.Submit(ctx, name, bytes.NewReader(data), client.Options{Pages: pages, DPI: 72})
	ok(t, err)
	var most int64
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			if now, err := memory(p); err == nil {
				most = max(most, now["page-splitter"])
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	d, err := p.Client.Wait(ctx, accepted.DocumentID, nil)
	close(stop)
	watching.Wait()
	ok(t, err)
	return d, most
}
