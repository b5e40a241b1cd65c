//go:build cgo

// Command straight does what the pipeline does to a page in one straight line: render, encode, detect, cut, draw, upload.
// One process, the same libraries, the same objects on the same S3 server, and nothing else: no queue, no records, no
// sandbox, no retries, no ClickHouse. It is what the pipeline's speed is measured against (bench/compare), so it is
// written to be fast: pages are in work in several workers at once, encoded pictures are uploaded while the next step
// goes on, and nothing that was rendered is read again but by the detector, which takes PNG.
//
//	straight [-workers=2] [-dpi=108] FILE.pdf#1,2,3 ...
//
// Where S3 is and how many threads an inference uses comes from the environment, as for the stages; a page's objects go
// below straight/. The last line on stdout is a JSON object: pages, boxes, objects, seconds, cpu_seconds, peak_bytes.
// Loading the model is not in seconds.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"leafcutter/pkg/config"
	"leafcutter/pkg/objectstore"
	"leafcutter/stages/detector"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Environ())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "straight:", err)
		os.Exit(1)
	}
}

// settings are read as every binary of the project reads its own.
type settings struct {
	Workers int `env:"STRAIGHT_WORKERS" flag:"workers" envDefault:"2" desc:"pages in work at once"`
	DPI     int `env:"STRAIGHT_DPI" flag:"dpi" envDefault:"108" desc:"resolution of the page images"`
	Store   objectstore.Config
	Model   detector.Config
}

// report is what one run says of itself.
type report struct {
	Pages   int     `json:"pages"`
	Boxes   int     `json:"boxes"` // at or above the threshold
	Objects int     `json:"objects"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_seconds"`
	Peak    int64   `json:"peak_bytes"` // resident memory at most
}

func run(ctx context.Context, args, environ []string) error {
	var flags, jobs []string
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			flags, jobs = args[:i], args[i:]
			break
		}
	}
	var s settings
	if _, err := config.Load("straight", flags, environ, &s); err != nil {
		return err
	}
	s.Model.Runs, s.Model.Pages = s.Workers, s.Workers
	pages, files, err := read(jobs)
	if err != nil {
		return err
	}
	model, err := detector.New(ctx, s.Model, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer model.Close() // the process ends with it
	store, err := objectstore.Open(ctx, s.Store)
	if err != nil {
		return err
	}
	defer store.Close()

	started, cpu := time.Now(), processorTime()
	l := &line{dpi: s.DPI, model: model, store: store}
	if err := l.all(ctx, s.Workers, pages, files); err != nil {
		return err
	}
	r := report{
		Pages: len(pages), Boxes: int(l.boxes.Load()), Objects: int(l.objects.Load()),
		Seconds: time.Since(started).Seconds(), CPU: (processorTime() - cpu).Seconds(), Peak: peakMemory(),
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// job is one page of one file.
type job struct {
	file int // in the list of files
	page int // from 1
}

// read makes the list of pages, and takes every file into memory as the page-splitter's cache has it on disk.
func read(args []string) (pages []job, files [][]byte, err error) {
	for i, arg := range args {
		path, list, _ := strings.Cut(arg, "#")
		file, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read a document: %w", err)
		}
		files = append(files, file)
		for n := range strings.SplitSeq(list, ",") {
			page, err := strconv.Atoi(n)
			if err != nil {
				return nil, nil, fmt.Errorf("read the pages of %s: %w", path, err)
			}
			pages = append(pages, job{i, page})
		}
	}
	return pages, files, nil
}

// line is what workers share.
type line struct {
	dpi     int
	model   *detector.Detector
	store   *objectstore.Store
	boxes   atomic.Int64
	objects atomic.Int64
}

// all does every page. Neighbouring pages go to different workers, so all are busy to the end.
func (l *line) all(ctx context.Context, workers int, pages []job, files [][]byte) error {
	todo := make(chan job)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error {
		defer close(todo)
		for _, p := range pages {
			select {
			case todo <- p:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	all.Go(func() error { // the documents themselves are objects too
		for i, file := range files {
			if err := l.put(ctx, fmt.Sprintf("straight/%d/source", i), file, "application/pdf"); err != nil {
				return err
			}
		}
		return nil
	})
	for range workers {
		all.Go(func() error {
			w := newWorker(l, files)
			defer w.close()
			for p := range todo {
				if err := w.page(ctx, p); err != nil {
					return fmt.Errorf("page %d of file %d: %w", p.page, p.file, err)
				}
			}
			return w.uploads.Wait()
		})
	}
	return all.Wait()
}

func (l *line) put(ctx context.Context, key string, body []byte, contentType string) error {
	l.objects.Add(1)
	return l.store.Put(ctx, key, body, contentType)
}
