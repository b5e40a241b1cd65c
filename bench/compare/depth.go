package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"leafcutter/bench/documents"
	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// shape is work of which only the amount differs: so many documents of so many pages, all queued before the first is
// done.
type shape struct{ documents, pages int }

func (s shape) total() int { return s.documents * s.pages }

func (s shape) String() string {
	if s.documents == 1 {
		return fmt.Sprintf("a document of %d pages", s.pages)
	}
	return fmt.Sprintf("%d pages queued, documents of %d", s.total(), s.pages)
}

// queued are documents of 10 pages, more and more of them.
func queued(depths []int) []shape {
	var all []shape
	for _, pages := range depths {
		all = append(all, shape{max(1, pages/10), min(10, pages)})
	}
	return all
}

// cost is what the pages of a shape took.
type cost struct {
	shape
	seconds float64
	cpu     time.Duration
}

// costs puts each shape through. All are done in each round, the small ones several times so that each has about as many
// pages, and the round that took a page the least processor time counts: that is what other work on the machine disturbs
// least.
func costs(ctx context.Context, p *pipeline.Pipeline, shapes []shape, rounds int, progress io.Writer) ([]cost, error) {
	if len(shapes) == 0 {
		return nil, nil
	}
	best := make([]cost, len(shapes))
	for round := range rounds {
		for i, s := range shapes {
			for range min(4, max(1, shapes[0].total()*4/s.total())) {
				c, err := throughQueue(ctx, p, s, round)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", s, err)
				}
				fmt.Fprintf(progress, "%s: %.2f ms, %.1f CPU ms a page\n", s, c.seconds*1e3/float64(s.total()), perPage(c.cpu, s.total()))
				if best[i].cpu == 0 || c.cpu < best[i].cpu {
					best[i] = c
				}
			}
		}
	}
	return best, nil
}

// throughQueue submits a shape's documents at once and waits for the last.
func throughQueue(ctx context.Context, p *pipeline.Pipeline, s shape, seed int) (cost, error) {
	before, err := processorTimes(p)
	if err != nil {
		return cost{}, err
	}
	started := time.Now()
	file := corpus.Report(s.pages, seed)
	ids := make([]string, s.documents)
	for i := range ids {
		accepted, err := p.Client.Submit(ctx, "report.pdf", bytes.NewReader(file), client.Options{DPI: documents.DPI})
		if err != nil {
			return cost{}, fmt.Errorf("submit: %w", err)
		}
		ids[i] = accepted.DocumentID
	}
	for _, id := range ids {
		d, err := p.Client.Wait(ctx, id, nil)
		if err != nil {
			return cost{}, err
		}
		if d.State != schemas.Completed || d.PagesDone != s.pages {
			return cost{}, fmt.Errorf("document %s: %s, %d of %d pages done", id, d.State, d.PagesDone, s.pages)
		}
	}
	c := cost{shape: s, seconds: time.Since(started).Seconds()}
	after, err := processorTimes(p)
	if err != nil {
		return cost{}, err
	}
	for name, spent := range after {
		c.cpu += spent - before[name]
	}
	return c, nil
}
