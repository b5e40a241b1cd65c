//go:build full

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// A book does not hold letters up: twenty small documents that are submitted together with one of 300 pages take at most
// twice as long as without it. Memory of each process is printed.
func TestSmallDocumentsPassALargeOne(t *testing.T) {
	p := pipeline.Own(t)
	ctx := bounded(t, 20*time.Minute)
	small := make([]corpus.File, 20)
	for i := range small {
		small[i] = corpus.File{Name: fmt.Sprintf("letter-%02d.pdf", i+1), Data: corpus.Report(1+i%3, i+1)}
	}
	large := corpus.File{Name: "book.pdf", Data: corpus.Report(300, 99)}
	together(ctx, t, p, small[:2]) // everything is warm

	alone := together(ctx, t, p, small)
	book := submit(ctx, t, p, large, client.Options{})
	beside := together(ctx, t, p, small)
	during := must(p.Client.Get(ctx, book))(t)
	d := await(ctx, t, p, book, schemas.Completed)
	if d.PagesDone != 300 {
		t.Errorf("the book has %d pages done", d.PagesDone)
	}
	took := d.FinishedAt.Sub(d.SubmittedAt)
	t.Logf("20 small documents, seconds: alone p50 %.2f p95 %.2f; beside 300 pages p50 %.2f p95 %.2f (ratio of p95 %.2f)",
		quantile(alone, 50), quantile(alone, 95), quantile(beside, 50), quantile(beside, 95), quantile(beside, 95)/quantile(alone, 95))
	t.Logf("the book: %.1f s, %.2f pages/s; %d of its pages were done when the small ones were", took.Seconds(), 300/took.Seconds(), during.PagesDone)
	if during.State.Final() {
		t.Error("the book ended before the small ones did: nothing was measured")
	}
	if limit := 2 * quantile(alone, 95); quantile(beside, 95) > limit {
		t.Errorf("p95 beside the book %.2f s, above twice that without it, %.2f s", quantile(beside, 95), limit)
	}
	t.Log("memory:\n" + memoryTable(t, p))
}

// together submits documents at once and gives the seconds from submission to the end of each, ascending.
func together(ctx context.Context, t *testing.T, p *pipeline.Pipeline, files []corpus.File) []float64 {
	t.Helper()
	seconds := make([]float64, len(files))
	faults := make([]error, len(files))
	var all sync.WaitGroup
	for i, f := range files {
		all.Go(func() {
			accepted, err := p.Client.Submit(ctx, f.Name, strings.NewReader(string(f.Data)), client.Options{})
			if err != nil {
				faults[i] = err
				return
			}
			d, err := p.Client.Wait(ctx, accepted.DocumentID, nil)
			switch {
			case err != nil:
				faults[i] = err
			case d.State != schemas.Completed:
				faults[i] = fmt.Errorf("%s is %s: %s", f.Name, d.State, d.Error)
			default:
				seconds[i] = d.FinishedAt.Sub(d.SubmittedAt).Seconds()
			}
		})
	}
	all.Wait()
	for _, err := range faults {
		ok(t, err)
	}
	slices.Sort(seconds)
	return seconds
}

// quantile is the value that q percent of the sorted values do not exceed (nearest rank).
func quantile(sorted []float64, q int) float64 {
	return sorted[(len(sorted)*q+99)/100-1]
}

func memoryTable(t *testing.T, p *pipeline.Pipeline) string {
	t.Helper()
	var table strings.Builder
	fmt.Fprintf(&table, "%-14s %10s %10s\n", "process", "MB now", "MB at most")
	children := must(p.Children())(t)
	for _, name := range pipeline.Names() {
		for _, c := range children {
			if c.Name == name {
				now, peak, err := pipeline.Memory(c.PID)
				ok(t, err)
				fmt.Fprintf(&table, "%-14s %10.0f %10.0f\n", name, float64(now)/1e6, float64(peak)/1e6)
			}
		}
	}
	return table.String()
}
