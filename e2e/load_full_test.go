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
	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
)

// A book does not hold letters up: twenty small documents that are submitted together with one of 300 pages take at most
// twice as long as without it. Memory of each process is printed.
func TestSmallDocumentsPassALargeOne(t *testing.T) {
	p := pipeline.Own(t)
	ctx := bounded(t, 20*time.Minute)
	small := make([]corpus.File, 20)
	for i := range small {
		small[i] = corpus.File{Name: fmt.Sprintf("letter-%02d.pdf", i+1), Data: corpus.Report(1+i%4, i+1)}
	}
	large := corpus.File{Name: "book.pdf", Data: corpus.Report(300, 99)}
	together(ctx, t, p, small[:2]) // everything is warm

	before := usage(t, p)
	alone := together(ctx, t, p, small)
	apart := usage(t, p)
	book := submit(ctx, t, p, large, client.Options{})
	beside := together(ctx, t, p, small)
	both := usage(t, p)
	during := must(p.Client.Get(ctx, book))(t)
	rendered := 0
	ok(t, p.Objects.List(ctx, schemas.DocumentPrefix(book)+"pages/", func(i objectstore.Info) error {
		if strings.HasSuffix(i.Key, ".png") {
			rendered++
		}
		return nil
	}))
	d := await(ctx, t, p, book, schemas.Completed)
	// Once more without it: a machine that others use as well is not as fast at one time as at another.
	again := together(ctx, t, p, small)
	without := (quantile(alone, 95) + quantile(again, 95)) / 2
	if d.PagesDone != 300 {
		t.Errorf("the book has %d pages done", d.PagesDone)
	}
	took := d.FinishedAt.Sub(d.SubmittedAt)
	t.Logf("20 small documents, p50 and p95 in seconds: before %.2f and %.2f, beside 300 pages %.2f and %.2f, after %.2f and %.2f; ratio of p95 %.2f",
		quantile(alone, 50), quantile(alone, 95), quantile(beside, 50), quantile(beside, 95), quantile(again, 50), quantile(again, 95), quantile(beside, 95)/without)
	t.Logf("the book: %.1f s, %.2f pages/s; when the small ones were done, %d of its pages were rendered and %d done",
		took.Seconds(), 300/took.Seconds(), rendered, during.PagesDone)
	var table strings.Builder
	fmt.Fprintf(&table, "%-14s %10s %10s %10s %10s\n", "process", "MB now", "MB at most", "CPU alone", "CPU beside")
	end := usage(t, p)
	for _, name := range pipeline.Names() {
		fmt.Fprintf(&table, "%-14s %10.0f %10.0f %9.1fs %9.1fs\n", name, end[name].resident, end[name].peak,
			apart[name].seconds-before[name].seconds, both[name].seconds-apart[name].seconds)
	}
	t.Logf("each process with those that it started:\n%s", table.String())
	if during.State.Final() {
		t.Error("the book ended before the small ones did: nothing was measured")
	}
	if quantile(beside, 95) > 2*without {
		t.Errorf("p95 beside the book is %.2f s, above twice the %.2f s without it", quantile(beside, 95), without)
	}
}

// used is what a child and the processes that it started hold and have used.
type used struct {
	resident, peak float64 // MB; of several processes the sum
	seconds        float64 // of processor time
}

func usage(t *testing.T, p *pipeline.Pipeline) map[string]used {
	t.Helper()
	all := map[string]used{}
	for _, c := range must(p.Children())(t) {
		var u used
		for _, pid := range must(p.Family(c))(t) {
			resident, peak, err := pipeline.Memory(pid)
			ok(t, err)
			u.resident += float64(resident) / 1e6
			u.peak += float64(peak) / 1e6
			u.seconds += must(pipeline.CPU(pid))(t)
		}
		all[c.Name] = u
	}
	return all
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
