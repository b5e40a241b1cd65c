// Command tutorial measures the detector with the tutorial's model, Detectron2's Faster R-CNN R50-FPN, against the
// tutorial's own code, which runs it in torch, on the same pages in one run:
//
//	go run ./bench/tutorial -models DIR -model NAME [-int8 NAME] -weights model_final.pth -python v/bin/python
//
// and says how much memory the detector took, at its first start with the model and later. The detector is the binary in
// build/bin as users run it, with a Kafka and an S3 server in this process. Weights and torch cannot be fetched by make, so
// it is no part of make bench unless that is told where they are: make bench TUTORIAL="-models …". docs/models.md says how
// to make each of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"leafcutter/bench/documents"
	"leafcutter/bench/report"
	"leafcutter/e2e/pipeline"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tutorial:", err)
		os.Exit(1)
	}
}

// plan is what is measured, and where it is.
type plan struct {
	models, model, int8 string
	binary              string
	tutorial            tutorial
	rounds              int
	memory              []string // models whose peak of memory is measured
	record              bool
	said                string // the command, without what lies where on this machine
}

func read(args []string, root string) (plan, error) {
	var p plan
	flags := flag.NewFlagSet("tutorial", flag.ContinueOnError)
	flags.StringVar(&p.models, "models", "", "folder of models")
	flags.StringVar(&p.model, "model", "", "the model that export_detectron2.py made of -weights, with --whole-pixels and --channels rgb")
	flags.StringVar(&p.int8, "int8", "", "what quantize_rcnn.py made of it; empty for none")
	memory := flags.String("memory", "", "models whose peak of memory is measured, between commas; empty for these two")
	flags.StringVar(&p.tutorial.weights, "weights", "", "the checkpoint; which the tutorial's code runs")
	flags.StringVar(&p.tutorial.python, "python", "python3", "Python with torch, detectron2, PyMuPDF and Pillow")
	flags.StringVar(&p.binary, "detector", filepath.Join(root, "build", "bin", "detector"), "the detector's binary")
	flags.IntVar(&p.tutorial.pages, "n", 8, "pages on which the tutorial's code finds something")
	flags.IntVar(&p.tutorial.start, "from", 12, "first page of each document")
	flags.IntVar(&p.rounds, "rounds", 2, "rounds; the minimum of each contender counts")
	flags.BoolVar(&p.record, "record", false, "write the result into docs/benchmarks.md")
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	if p.models == "" || p.model == "" || p.tutorial.weights == "" {
		return p, errors.New("-models, -model and -weights are wanted")
	}
	if p.rounds < 1 || p.tutorial.pages < 1 || p.tutorial.start < 1 {
		return p, errors.New("-rounds, -n and -from must be 1 or more")
	}
	p.memory = slices.DeleteFunc([]string{p.model, p.int8}, func(s string) bool { return s == "" })
	if *memory != "" {
		p.memory = strings.Split(*memory, ",")
	}
	p.said = fmt.Sprintf("go run ./bench/tutorial -models … -model %s -int8 %s -weights … -python … -n %d -from %d -rounds %d -memory %s",
		p.model, p.int8, p.tutorial.pages, p.tutorial.start, p.rounds, strings.Join(p.memory, ","))
	p.tutorial.script = filepath.Join(root, "stages", "detector", "tools", "tutorial_crops.py")
	return p, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	root, err := pipeline.Root()
	if err != nil {
		return err
	}
	p, err := read(args, root)
	if err != nil {
		return err
	}
	paths, err := documents.Paths(ctx, root)
	if err != nil {
		return err
	}
	p.tutorial.pdfs = paths[:min(4, len(paths))]
	work, err := os.MkdirTemp("", "leafcutter-tutorial-")
	if err != nil {
		return fmt.Errorf("make a folder to work in: %w", err)
	}
	defer os.RemoveAll(work)

	m := measurement{outcomes: map[string]outcome{}, load: report.Load()}
	threads := slices.Compact([]int{1, runtime.NumCPU()})
	for round := range p.rounds {
		for _, n := range threads {
			if err := m.round(ctx, p, work, n, func(name string, o outcome) {
				fmt.Fprintf(out, "round %d of %d: %-34s %6.2f s, %6.2f CPU s a page, load %s\n", round+1, p.rounds, name, o.seconds, o.cpu, report.Load())
			}); err != nil {
				return err
			}
		}
	}
	for _, model := range p.memory {
		o, err := memoryOf(ctx, p, work, model, m.pages)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "memory of %s: first start %d MB, child %d MB, later %d MB, up to %d boxes a page\n", model, o.first/1e6, o.child/1e6, o.later/1e6, o.most)
		m.memory = append(m.memory, o)
	}
	m.load += " at the start, " + report.Load() + " at the end"
	fmt.Fprintf(out, "\n%s; load %s\n\n%s", report.Hardware(), m.load, m.table(p, threads).Text())
	if p.record {
		return m.record(ctx, root, p, threads)
	}
	return nil
}

// outcome is the best that a contender did with so many threads: seconds a page.
type outcome struct {
	seconds, cpu float64
	peak         int64 // bytes
}

// measurement is what one run of this command found.
type measurement struct {
	outcomes map[string]outcome
	pages    []page
	crops    agreement // of the tutorial's code and the detector
	boxes    agreement // of float32 and int8
	memory   []footprint
	load     string
}

// keep keeps the best of each figure.
func (m *measurement) keep(name string, o outcome) {
	was, ok := m.outcomes[name]
	if ok {
		o = outcome{min(o.seconds, was.seconds), min(o.cpu, was.cpu), max(o.peak, was.peak)}
	}
	m.outcomes[name] = o
}

// round is each contender once.
func (m *measurement) round(ctx context.Context, p plan, work string, threads int, progress func(string, outcome)) error {
	dir := filepath.Join(work, "pages")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder for pages: %w", err)
	}
	want, peak, err := p.tutorial.run(ctx, dir, threads)
	if err != nil {
		return err
	}
	var o outcome
	m.pages = m.pages[:0]
	for _, r := range want {
		o.seconds, o.cpu = o.seconds+r.Seconds/float64(len(want)), o.cpu+r.CPU/float64(len(want))
		one, err := readPage(filepath.Join(dir, r.Page))
		if err != nil {
			return err
		}
		m.pages = append(m.pages, one)
	}
	o.peak = peak
	m.keep(named("torch", threads), o)
	progress(named("torch", threads), o)

	first, err := m.detect(ctx, p, work, p.model, threads, progress)
	if err != nil {
		return err
	}
	m.crops, m.boxes = agreement{}, agreement{}
	for i, r := range want {
		got, err := cut(m.pages[i], first.pages[i].boxes)
		if err != nil {
			return err
		}
		m.crops = m.crops.add(sameCrops(r.Crops, got))
	}
	if p.int8 == "" {
		return nil
	}
	second, err := m.detect(ctx, p, work, p.int8, threads, progress)
	if err != nil {
		return err
	}
	for i := range want {
		m.boxes = m.boxes.add(sameBoxes(first.pages[i].boxes, second.pages[i].boxes))
	}
	return nil
}

func named(what string, threads int) string { return fmt.Sprintf("%s, threads %d", what, threads) }

// detect puts all pages through a detector.
func (m *measurement) detect(ctx context.Context, p plan, work, model string, threads int, progress func(string, outcome)) (_ pass, err error) {
	s, err := startDetector(ctx, p.binary, p.models, model, filepath.Join(work, "cache"), m.pages, threadsOf(threads))
	if err != nil {
		return pass{}, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	all, err := s.all(ctx)
	if err != nil {
		return all, err
	}
	n := float64(len(m.pages))
	o := outcome{all.seconds / n, all.cpu / n, all.peak}
	m.keep(named(model, threads), o)
	progress(named(model, threads), o)
	return all, nil
}

// table is everything, a line for each figure.
func (m *measurement) table(p plan, threads []int) report.Table {
	t := report.Table{{"what", "measured", "wanted"}}
	add := func(what, wanted, format string, values ...any) {
		t = append(t, []string{what, fmt.Sprintf(format, values...), wanted})
	}
	for _, name := range slices.Sorted(maps.Keys(m.outcomes)) {
		o := m.outcomes[name]
		add(name, "", "%.2f s, %.2f CPU s a page, %.0f MB", o.seconds, o.cpu, float64(o.peak)/1e6)
	}
	for _, n := range threads {
		torch := m.outcomes[named("torch", n)]
		for _, of := range []struct{ model, wanted string }{{p.model, "1.3"}, {p.int8, "2.5"}} {
			if o, ok := m.outcomes[named(of.model, n)]; ok {
				add("(c) times as fast as torch: "+named(of.model, n), of.wanted, "%.2f; by processor time %.2f", torch.seconds/o.seconds, torch.cpu/o.cpu)
			}
		}
	}
	add("(c) identical crops", "all", "%d of %d on %d pages", m.crops.same, max(m.crops.first, m.crops.second), len(m.pages))
	if p.int8 != "" {
		add("(c) boxes above 0.9 that int8 and float32 agree on", "", "%d of %d and %d, %.0f %%", m.boxes.same, m.boxes.first, m.boxes.second, 100*m.boxes.share())
	}
	for _, f := range m.memory {
		add("(e) peak MB: detector, "+f.model, "512", "%d at its first start, %d later; up to %d boxes a page; %d in the child that prepares the model",
			f.first/1e6, f.later/1e6, f.most, f.child/1e6)
	}
	return t
}

// record writes the result into docs/benchmarks.md.
func (m *measurement) record(ctx context.Context, root string, p plan, threads []int) error {
	commit, err := report.Commit(ctx, root)
	if err != nil {
		return err
	}
	file, err := report.Open(root, "benchmarks.md")
	if err != nil {
		return err
	}
	said := fmt.Sprintf("%s, commit %s, `%s`. %s. Load %s.\n\n", time.Now().UTC().Format(time.DateOnly), commit, p.said, report.Hardware(), m.load)
	if err := file.Replace("tutorial", append([]byte(said), m.table(p, threads).Markdown()...)); err != nil {
		return err
	}
	return file.Save()
}
