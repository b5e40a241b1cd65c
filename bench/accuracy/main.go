// Command accuracy measures how many headings of real PDFs the whole pipeline finds, beside what the same model finds in
// the hands of the peer, on the same pages. It prints a table and fails where the bars are not reached; make accuracy
// runs it after make build.
//
// The pages are those of 13 PDFs that have a heading which the file's outline names (package documents). They go through
// `leafcutter up`, submitted as any user submits them, and the boxes are read by SQL from the view detections.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"leafcutter/bench/documents"
	"leafcutter/bench/peers"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// The bars.
const (
	minRecall    = 0.85
	minPrecision = 0.75
	maxBehind    = 0.02 // recall, behind the peer's
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "accuracy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("accuracy", flag.ContinueOnError)
	record := flags.Bool("record", false, "write the result into docs/accuracy.md")
	list := flags.String("list", "", "write every heading that was missed and every box that is on none into this file, as JSON lines")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := pipeline.Root()
	if err != nil {
		return err
	}
	python, err := peers.Install(ctx, root, out)
	if err != nil {
		return err
	}
	paths, err := documents.Paths(ctx, root)
	if err != nil {
		return err
	}
	docs, err := documents.Headings(ctx, python, paths)
	if err != nil {
		return err
	}

	work, err := os.MkdirTemp("", "leafcutter-accuracy-")
	if err != nil {
		return fmt.Errorf("make a folder to work in: %w", err)
	}
	defer os.RemoveAll(work)
	started := time.Now()
	ours, err := throughPipeline(ctx, filepath.Join(work, "data"), docs)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "the pipeline took %s with its start\n", time.Since(started).Round(time.Second))
	started = time.Now()
	theirs, err := throughPeer(ctx, python, filepath.Join(work, "peer"), docs)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "the peer took %s with its start\n\n", time.Since(started).Round(time.Second))

	faults := &faultList{}
	r := result{}
	for i, d := range docs {
		r.rows = append(r.rows, row{
			name: d.Name(), pages: len(d.Pages),
			ours:   score(d, ours[i], faults.of("ours", "missed", d), faults.of("ours", "alarm", d)),
			theirs: score(d, theirs[i], faults.of("peer", "missed", d), faults.of("peer", "alarm", d)),
		})
	}
	if *list != "" {
		if err := faults.write(*list); err != nil {
			return err
		}
	}
	fmt.Fprint(out, r.table().Text())
	if *record {
		if err := r.record(ctx, root); err != nil {
			return err
		}
	}
	return r.check()
}

// found is the boxes of class title at minScore or more, by page number.
type found map[int][]documents.Rect

// throughPipeline puts every document through a pipeline of its own and reads what it found by SQL.
func throughPipeline(ctx context.Context, data string, docs []documents.Document) (all []found, err error) {
	p, err := pipeline.Start(data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	var ids []string
	for _, d := range docs {
		accepted, err := p.Client.SubmitFile(ctx, d.Path, client.Options{Title: d.Name(), DPI: documents.DPI, Pages: d.Selection().List()})
		if err != nil {
			return nil, fmt.Errorf("submit %s: %w", d.Name(), err)
		}
		ids = append(ids, accepted.DocumentID)
	}
	for i, d := range docs {
		done, err := p.Client.Wait(ctx, ids[i], nil)
		if err != nil {
			return nil, fmt.Errorf("wait for %s: %w", d.Name(), err)
		}
		if done.State != schemas.Completed || done.PagesDone != len(d.Pages) {
			return nil, fmt.Errorf("%s: %s, %d of %d pages done: %v", d.Name(), done.State, done.PagesDone, len(d.Pages), done.Failures)
		}
		var rows []struct {
			Page uint32  `ch:"page"`
			X0   float64 `ch:"x0"`
			Y0   float64 `ch:"y0"`
			X1   float64 `ch:"x1"`
			Y1   float64 `ch:"y1"`
		}
		err = p.Select(ctx, &rows, "SELECT page, x0, y0, x1, y1 FROM detections WHERE document_id = ? AND class = 'title' AND score >= ?", ids[i], minScore)
		if err != nil {
			return nil, err
		}
		boxes := found{}
		for _, r := range rows {
			boxes[int(r.Page)] = append(boxes[int(r.Page)], documents.Rect{r.X0, r.Y0, r.X1, r.Y1})
		}
		all = append(all, boxes)
	}
	return all, nil
}

// throughPeer puts the same pages through the peer.
func throughPeer(ctx context.Context, python peers.Python, out string, docs []documents.Document) ([]found, error) {
	var work []peers.Selection
	index := map[string]int{}
	var all []found
	for i, d := range docs {
		work = append(work, d.Selection())
		index[d.Path] = i
		all = append(all, found{})
	}
	if _, err := python.Layout(ctx, out, runtime.NumCPU(), work); err != nil {
		return nil, err
	}
	boxes, err := peers.Boxes(out)
	if err != nil {
		return nil, err
	}
	for _, b := range boxes {
		if b.Class == "title" && b.Score >= minScore {
			pages := all[index[b.File]]
			pages[b.Page] = append(pages[b.Page], b.Rect)
		}
	}
	return all, nil
}
