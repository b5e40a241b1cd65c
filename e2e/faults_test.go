package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// disturbedPages is more than go by the plain topics, so that the bulk ones are disturbed too.
const disturbedPages = schemas.FirstPages + 4

// kill -9 of any process in the middle of a run: up brings it back, and the run ends with the rows and objects of one that
// nobody disturbed.
func TestKilledChildrenComeBack(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t)
	ctx := bounded(t, 2*patience)
	file := corpus.File{Name: "killed.pdf", Data: corpus.Report(disturbedPages, 1)}
	undisturbed := submit(ctx, t, p, file, client.Options{})
	calm := await(ctx, t, p, undisturbed, schemas.Completed)
	want := must(p.Found(ctx, undisturbed))(t)
	var table strings.Builder
	fmt.Fprintf(&table, "%-14s %12s %12s\n", "killed", "back after", "run took")
	fmt.Fprintf(&table, "%-14s %12s %11.2fs\n", "none", "", calm.FinishedAt.Sub(calm.SubmittedAt).Seconds())
	for _, name := range pipeline.Names() {
		id := submit(ctx, t, p, file, client.Options{Title: "killed " + name})
		eventually(ctx, t, "the run has begun", func() (bool, error) {
			d, err := p.Client.Get(ctx, id)
			return err == nil && d.PagesSelected > 0, err
		})
		pid := must(p.KillChild(name))(t)
		killed := time.Now().UTC()
		ok(t, p.AwaitChild(ctx, name, pid))
		back := time.Since(killed)
		d := await(ctx, t, p, id, schemas.Completed)
		if d.PagesDone != disturbedPages || d.PagesFailed != 0 {
			t.Errorf("%s killed: %d pages done, %d failed", name, d.PagesDone, d.PagesFailed)
		}
		if d.FinishedAt.Before(killed) {
			t.Errorf("%s killed only after the run had ended", name)
		}
		if diff := cmp.Diff(want, must(p.Found(ctx, id))(t)); diff != "" {
			t.Errorf("%s killed: other rows than undisturbed:\n%.4000s", name, diff)
		}
		fmt.Fprintf(&table, "%-14s %11.2fs %11.2fs\n", name, back.Seconds(), d.FinishedAt.Sub(d.SubmittedAt).Seconds())
	}
	sameEnds(ctx, t, p)
	t.Logf("%d pages each:\n%s", disturbedPages, table.String())
}

// sameEnds holds the events of each document to one identity: an end may be said again, never another one.
func sameEnds(ctx context.Context, t *testing.T, p *pipeline.Pipeline) {
	t.Helper()
	for id, all := range ends(ctx, t, p) {
		for _, e := range all {
			if e.ID != all[0].ID {
				t.Errorf("document %s ends twice: %+v", id, all)
			}
		}
	}
}

// A pipeline that is stopped or killed in the middle of a run carries on where it was when it is started again.
func TestSecondUpCarriesOn(t *testing.T) {
	t.Parallel()
	file := corpus.File{Name: "carried-on.pdf", Data: corpus.Report(disturbedPages, 2)}
	for name, end := range map[string]func(*pipeline.Pipeline) error{"stopped": (*pipeline.Pipeline).Stop, "killed": (*pipeline.Pipeline).Kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t, 2*patience)
			p := pipeline.Own(t)
			undisturbed := submit(ctx, t, p, file, client.Options{})
			await(ctx, t, p, undisturbed, schemas.Completed)
			want := must(p.Found(ctx, undisturbed))(t)
			id := submit(ctx, t, p, file, client.Options{})
			eventually(ctx, t, "the run has begun", func() (bool, error) {
				d, err := p.Client.Get(ctx, id)
				return err == nil && d.PagesSelected > 0, err
			})
			stopping := time.Now()
			ok(t, end(p))
			stopped := time.Since(stopping)
			starting := time.Now()
			p = pipeline.Again(t, p.Data)
			started := time.Since(starting)
			d := await(ctx, t, p, id, schemas.Completed)
			if diff := cmp.Diff(want, must(p.Found(ctx, id))(t)); diff != "" || d.PagesDone != disturbedPages {
				t.Errorf("%d pages, and other rows than undisturbed:\n%.4000s", d.PagesDone, diff)
			}
			if diff := cmp.Diff(want, must(p.Found(ctx, undisturbed))(t)); diff != "" {
				t.Errorf("the earlier document's rows are others:\n%.4000s", diff)
			}
			sameEnds(ctx, t, p)
			t.Logf("%s within %.1f s, up again within %.1f s", name, stopped.Seconds(), started.Seconds())
		})
	}
}
