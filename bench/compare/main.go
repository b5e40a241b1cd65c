// Command compare measures the whole pipeline against what does the same work without it, in one run on one machine:
//
//   - straight: one process with the same libraries and the same S3 server, and neither queue nor ClickHouse (bench/straight)
//   - the peer: what a user would write in Python today (bench/peers/layout.py), with 1 thread, 2 threads, 2 processes
//
// on the same pages of real PDFs (package documents). It prints one table: times and ratios, time and CPU a page by part,
// peak memory of each process, what a page costs where many are queued, latency of one page. Single times say little on a machine that does other work, so rounds
// alternate, the minimum of each contender counts, and the load is printed; processor time, which other work disturbs
// less, stands beside. make bench runs it after make build.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"leafcutter/bench/documents"
	"leafcutter/bench/peers"
	"leafcutter/bench/report"
	"leafcutter/e2e/pipeline"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// plan is how much is measured.
type plan struct {
	quick, record bool
	rounds        int
	latencies     int
	documents     int // the last so many of package documents, which are the smallest; 0 for all
	queued        []int
	book          int
}

func read(args []string) (plan, error) {
	var p plan
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.BoolVar(&p.quick, "quick", false, "one round on the two smallest documents: shows that everything still runs, its figures mean nothing")
	flags.BoolVar(&p.record, "record", false, "write the result into docs/benchmarks.md")
	flags.IntVar(&p.rounds, "rounds", 3, "rounds; the minimum of each contender counts")
	flags.IntVar(&p.documents, "documents", 0, "the smallest so many of the 13 documents; 0 for all")
	queued := flags.String("queued", "100,1000", "how many pages are queued at once to see what a page costs then; empty for none")
	flags.IntVar(&p.book, "book", 1000, "pages of the one document that is compared with documents of 10; 0 for none")
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	p.latencies = 20
	if p.quick {
		p.rounds, p.documents, p.latencies = 1, 2, 3
	}
	for n := range strings.SplitSeq(*queued, ",") {
		if n == "" {
			continue
		}
		pages, err := strconv.Atoi(n)
		if err != nil || pages < 1 {
			return p, fmt.Errorf("-queued: %q is not a number of pages", n)
		}
		p.queued = append(p.queued, pages)
	}
	if p.quick {
		p.queued, p.book = []int{10, 20}, 20
	}
	if p.book < 0 {
		return p, errors.New("-book must be 0 or more")
	}
	if p.rounds < 1 || p.documents < 0 || p.documents > len(documents.Names()) {
		return p, errors.New("-rounds must be 1 or more, -documents 0 to 13")
	}
	return p, nil
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	p, err := read(args)
	if err != nil {
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
	pages, err := selections(ctx, root, python, p.documents)
	if err != nil {
		return err
	}
	straight := filepath.Join(root, "build", "bench", "straight") // finds libraries and models as the binaries in build/bin do
	build := exec.CommandContext(ctx, "go", "build", "-o", straight, "./bench/straight")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=1")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the straight line: %w\n%s", err, text)
	}
	work, err := os.MkdirTemp("", "leafcutter-bench-")
	if err != nil {
		return fmt.Errorf("make a folder to work in: %w", err)
	}
	defer os.RemoveAll(work)
	running, err := pipeline.Start(filepath.Join(work, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()

	m := measurement{load: report.Load()}
	if m.latencies, err = latencies(ctx, running, pages[len(pages)-1], p.latencies); err != nil {
		return err
	}
	all := contenders(running, straight, python, work, p.quick)
	for round := range p.rounds {
		for _, c := range all {
			was := report.Load()
			r, err := c.run(ctx, pages)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			m.add(c.name, r)
			fmt.Fprintf(out, "round %d of %d: %-24s %7.2f s, %6.0f CPU ms a page, load %s\n", round+1, p.rounds, c.name, r.seconds, perPage(r.cpu, r.pages), was)
		}
	}
	shapes := queued(p.queued)
	if p.book > 0 {
		shapes = append(shapes, shape{1, p.book})
	}
	if m.costs, err = costs(ctx, running, shapes, p.rounds, out); err != nil {
		return err
	}
	if m.parts, err = parts(ctx, running, m.best(whole).ids); err != nil {
		return err
	}
	if m.memory, err = memories(running); err != nil {
		return err
	}
	m.load += " at the start, " + report.Load() + " at the end"
	fmt.Fprintf(out, "\n%s; load %s\n\n%s", report.Hardware(), m.load, m.table().Text())
	if p.record {
		return m.record(ctx, root, strings.Join(append([]string{"go run ./bench/compare"}, args...), " "))
	}
	return nil
}

// selections are the pages that are measured on.
func selections(ctx context.Context, root string, python peers.Python, count int) ([]peers.Selection, error) {
	paths, err := documents.Paths(ctx, root)
	if err != nil {
		return nil, err
	}
	if count > 0 {
		paths = paths[len(paths)-count:]
	}
	docs, err := documents.Headings(ctx, python, paths)
	if err != nil {
		return nil, err
	}
	var pages []peers.Selection
	for _, d := range docs {
		pages = append(pages, d.Selection())
	}
	return pages, nil
}

// whole is the name of the contender that is measured against the others.
const whole = "leafcutter"

// contender does all pages once.
type contender struct {
	name string
	run  func(ctx context.Context, pages []peers.Selection) (outcome, error)
}

// outcome is what one round of a contender took.
type outcome struct {
	seconds float64
	pages   int
	boxes   int                      // at or above the threshold
	peak    int64                    // resident memory at most in bytes, of the largest process
	cpu     time.Duration            // of all processes, the S3 server's included
	by      map[string]time.Duration // cpu by process; of the pipeline alone
	ids     []string                 // of the documents; of the pipeline alone
}

func contenders(running *pipeline.Pipeline, straight string, python peers.Python, work string, quick bool) []contender {
	n := runtime.NumCPU()
	line := func(workers, threads int) contender {
		return contender{fmt.Sprintf("straight %d × %d", workers, threads), func(ctx context.Context, pages []peers.Selection) (outcome, error) {
			return throughStraight(ctx, running, straight, workers, threads, pages)
		}}
	}
	peer := func(processes, threads int) contender {
		return contender{fmt.Sprintf("peer %d × %d", processes, threads), func(ctx context.Context, pages []peers.Selection) (outcome, error) {
			return throughPeer(ctx, python, work, processes, threads, pages)
		}}
	}
	all := []contender{
		{whole, func(ctx context.Context, pages []peers.Selection) (outcome, error) {
			return throughPipeline(ctx, running, pages)
		}},
		line(n, 1), peer(1, n),
	}
	if !quick {
		all = append(all, line(1, n), line(n+1, 1), peer(1, 1), peer(n, 1))
	}
	return all
}
