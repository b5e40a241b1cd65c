package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"leafcutter/bench/documents"
	"leafcutter/bench/peers"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// throughPipeline submits everything at once and waits for its end as users do: by the API, once every row has landed.
func throughPipeline(ctx context.Context, p *pipeline.Pipeline, pages []peers.Selection) (outcome, error) {
	before, err := processorTimes(p)
	if err != nil {
		return outcome{}, err
	}
	var r outcome
	started := time.Now()
	for _, s := range pages {
		accepted, err := p.Client.SubmitFile(ctx, s.Path, client.Options{DPI: documents.DPI, Pages: s.List()})
		if err != nil {
			return r, fmt.Errorf("submit %s: %w", s.Path, err)
		}
		r.ids = append(r.ids, accepted.DocumentID)
	}
	for i, id := range r.ids {
		d, err := p.Client.Wait(ctx, id, nil)
		if err != nil {
			return r, err
		}
		if d.State != schemas.Completed || d.PagesDone != len(pages[i].Pages) {
			return r, fmt.Errorf("%s: %s, %d of %d pages done", pages[i].Path, d.State, d.PagesDone, len(pages[i].Pages))
		}
		r.pages += d.PagesDone
	}
	r.seconds = time.Since(started).Seconds()
	after, err := processorTimes(p)
	if err != nil {
		return r, err
	}
	r.by = map[string]time.Duration{}
	for name, spent := range after {
		r.by[name] = spent - before[name]
		r.cpu += r.by[name]
	}
	var kept []struct {
		Boxes uint64 `ch:"boxes"`
	}
	if err := p.Select(ctx, &kept, "SELECT count() AS boxes FROM detections WHERE document_id IN (?) AND crop_key != ''", r.ids); err != nil {
		return r, err
	}
	r.boxes = int(kept[0].Boxes)
	return r, nil
}

// throughStraight runs the straight line against the pipeline's S3 server while the pipeline has nothing to do.
func throughStraight(ctx context.Context, p *pipeline.Pipeline, binary string, workers, threads int, pages []peers.Selection) (outcome, error) {
	before, err := processorTimes(p)
	if err != nil {
		return outcome{}, err
	}
	args := []string{"-workers=" + strconv.Itoa(workers)}
	for _, s := range pages {
		args = append(args, s.Path+"#"+s.List())
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(p.Env(), "LEAFCUTTER_INFERENCE_THREADS="+strconv.Itoa(threads))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	said, err := cmd.Output()
	if err != nil {
		return outcome{}, fmt.Errorf("%w\n%s", err, complaint.Bytes())
	}
	var r struct {
		Pages, Boxes int
		Seconds      float64
		CPU          float64 `json:"cpu_seconds"`
		Peak         int64   `json:"peak_bytes"`
	}
	if err := json.Unmarshal(said, &r); err != nil {
		return outcome{}, fmt.Errorf("read what it says: %w", err)
	}
	after, err := processorTimes(p)
	if err != nil {
		return outcome{}, err
	}
	cpu := time.Duration(r.CPU*float64(time.Second)) + after["objects"] - before["objects"]
	return outcome{seconds: r.Seconds, pages: r.Pages, boxes: r.Boxes, peak: r.Peak, cpu: cpu}, nil
}

// throughPeer runs the peer as one process or several, each with its share of the documents, in a new folder below dir. The
// time is that of the slowest; starting Python and loading the model is in nobody's. What it has written stays until the
// end: where thousands of files have just been deleted, a file system may be slow to make new ones, which the next
// contender would pay for.
func throughPeer(ctx context.Context, python peers.Python, dir string, processes, threads int, pages []peers.Selection) (outcome, error) {
	out, err := os.MkdirTemp(dir, "peer-")
	if err != nil {
		return outcome{}, fmt.Errorf("make a folder for the peer: %w", err)
	}
	shares := share(pages, processes)
	reports := make([]peers.Report, len(shares))
	all, running := errgroup.WithContext(ctx)
	for i, s := range shares {
		all.Go(func() (err error) {
			reports[i], err = python.Layout(running, filepath.Join(out, strconv.Itoa(i)), threads, s)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return outcome{}, err
	}
	var r outcome
	for _, one := range reports {
		r.seconds, r.peak = max(r.seconds, one.Seconds), max(r.peak, one.Peak)
		r.pages, r.boxes = r.pages+one.Pages, r.boxes+one.Boxes
		r.cpu += time.Duration(one.CPU * float64(time.Second))
	}
	return r, nil
}

// share deals pages out evenly: a document's pages are split where that is needed, so no process waits long for another.
func share(pages []peers.Selection, processes int) [][]peers.Selection {
	shares := make([][]peers.Selection, processes)
	sizes := make([]int, processes)
	total := 0
	for _, s := range pages {
		total += len(s.Pages)
	}
	limit := (total + processes - 1) / processes
	for _, s := range pages {
		for rest := s.Pages; len(rest) > 0; {
			i := slices.Index(sizes, slices.MinFunc(sizes, cmp.Compare))
			n := min(len(rest), limit-sizes[i])
			shares[i] = append(shares[i], peers.Selection{Path: s.Path, Pages: rest[:n]})
			sizes[i], rest = sizes[i]+n, rest[n:]
		}
	}
	return slices.DeleteFunc(shares, func(s []peers.Selection) bool { return len(s) == 0 })
}

// latency is how long one page took from its upload to its row.
type latency struct{ whole, infer time.Duration }

// latencies submits a document of one page, waits until its boxes can be read by SQL, and does it again. The first time is
// not counted.
func latencies(ctx context.Context, p *pipeline.Pipeline, s peers.Selection, times int) ([]latency, error) {
	var all []latency
	for range times + 1 {
		started := time.Now()
		accepted, err := p.Client.SubmitFile(ctx, s.Path, client.Options{DPI: documents.DPI, Pages: strconv.Itoa(s.Pages[0])})
		if err != nil {
			return nil, fmt.Errorf("submit one page: %w", err)
		}
		for {
			_, rows, err := p.Curl(ctx, "SELECT count() > 0 FROM detections WHERE document_id = '"+accepted.DocumentID+"' FORMAT TSV")
			if err != nil {
				return nil, err
			}
			if rows == "1\n" {
				break
			}
			if time.Since(started) > time.Minute {
				return nil, fmt.Errorf("the row of one page did not appear within a minute: %s", rows)
			}
			time.Sleep(10 * time.Millisecond) // asking costs processor time that the pipeline needs
		}
		took := time.Since(started)
		of, err := parts(ctx, p, []string{accepted.DocumentID})
		if err != nil {
			return nil, err
		}
		all = append(all, latency{took, time.Duration(of.Infer * float64(time.Millisecond))})
	}
	return all[1:], nil
}

// partTimes are milliseconds a page, as the stages wrote them into page_results.
type partTimes struct {
	Render   float64 `ch:"render"`
	Infer    float64 `ch:"infer"`
	Annotate float64 `ch:"annotate"`
}

// parts is the mean over all pages of some documents.
func parts(ctx context.Context, p *pipeline.Pipeline, ids []string) (partTimes, error) {
	var rows []partTimes
	err := p.Select(ctx, &rows, "SELECT avg(toFloat64(render_ms)) AS render, avg(toFloat64(infer_ms)) AS infer, avg(toFloat64(annotate_ms)) AS annotate FROM page_results FINAL WHERE document_id IN (?)", ids)
	if err != nil {
		return partTimes{}, err
	}
	return rows[0], nil
}
