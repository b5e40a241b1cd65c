package reliability

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// A book of 5,000 pages costs a splitter and its renderers no more memory than documents of 10, and its one bad page fails
// alone. The whole suite puts all of its pages through, the seeded twentieth some from its beginning, middle and end.
func TestLargeBook(t *testing.T) {
	const pages, bad = 5000, 2500
	selection, selected, rounds := "1-16,2495-2505,4991-5000", 37, 2
	if full {
		// The most that is held at one moment grows with the moments looked at, so the small ones have a thousand pages too.
		selection, selected, rounds = "1-", pages, 25
	}
	p := pipeline.Own(t)
	ctx := bounded(t, 55*time.Minute)
	book := corpus.OneTooLarge(pages, bad)
	small := corpus.Report(10, 3)
	// As many small ones at once as ranges of the book may be rendered at once.
	const together = 4
	var before int64
	for range rounds { // first, everything gets warm
		_, most := through(ctx, t, p, "small.pdf", small, "", together)
		before = max(before, most)
	}
	began := time.Now()
	d, most := through(ctx, t, p, "book.pdf", book, selection, 1)
	took := time.Since(began)
	if d.State != schemas.CompletedWithFailures || d.PagesDone != selected-1 || d.PagesFailed != 1 ||
		len(d.Failures) != 1 || d.Failures[0].Page != bad || d.Failures[0].Code != "page-too-large" {
		t.Errorf("the book is %s with %d pages done and %d failed: %+v", d.State, d.PagesDone, d.PagesFailed, d.Failures)
	}
	ratio := float64(most) / float64(before)
	if full && ratio > 1.1 {
		t.Errorf("the splitter and its renderers hold %.1f MB with the book, %.1f MB with small documents", float64(most)/1e6, float64(before)/1e6)
	}
	v := verdict{pages: selected - 1, lost: max(0, selected-1-d.PagesDone), condemned: max(0, d.PagesFailed-1)}
	suite.table.add(result{fault: "a book of 5,000 pages, one of them bad", times: 1, verdict: v, note: fmt.Sprintf(
		"%d pages selected, %.1f pages/s; splitter and renderers %.0f MB at most, %.0f MB with %d documents of 10 pages at once: × %.2f",
		selected, float64(selected)/took.Seconds(), float64(most)/1e6, float64(before)/1e6, together, ratio)})
}

// through puts a document through, several times at once, and gives how the last ended and the most that the splitter and
// its renderers held together meanwhile.
func through(ctx context.Context, t *testing.T, p *pipeline.Pipeline, name string, data []byte, pages string, times int) (*api.Document, int64) {
	t.Helper()
	var most int64
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			most = max(most, splitterShare(p))
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	d, err := throughAtOnce(ctx, p, name, data, client.Options{Pages: pages, DPI: 72}, times)
	close(stop)
	watching.Wait()
	ok(t, err)
	return d, most
}

// splitterShare is the memory of the splitter and its renderers, in bytes: what they share, as the document that each of
// them maps, once. 0 where it cannot be told now.
func splitterShare(p *pipeline.Pipeline) (sum int64) {
	pid, err := p.PID("page-splitter")
	if err != nil || pid == 0 {
		return 0
	}
	family, err := p.Family(pipeline.Child{Name: "page-splitter", PID: pid})
	if err != nil {
		return 0
	}
	for _, one := range family {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", one))
		if err != nil {
			continue // it has ended meanwhile
		}
		for line := range strings.Lines(string(rollup)) {
			if value, found := strings.CutPrefix(line, "Pss:"); found {
				if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
					sum += kib << 10
				}
			}
		}
	}
	return sum
}

func throughAtOnce(ctx context.Context, p *pipeline.Pipeline, name string, data []byte, o client.Options, times int) (d *api.Document, err error) {
	var ids []string
	for range times {
		accepted, err := p.Client.Submit(ctx, name, bytes.NewReader(data), o)
		if err != nil {
			return nil, err
		}
		ids = append(ids, accepted.DocumentID)
	}
	for _, id := range ids {
		if d, err = p.Client.Wait(ctx, id, nil); err != nil {
			return nil, err
		}
	}
	return d, nil
}
