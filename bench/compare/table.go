package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"leafcutter/bench/report"
	"leafcutter/e2e/pipeline"
)

// measurement is what one run of this command found.
type measurement struct {
	names     []string // of contenders, in order
	outcomes  map[string][]outcome
	latencies []latency
	parts     partTimes
	memory    []memory
	costs     []cost // the first is what the others are compared with
	load      string
}

func (m *measurement) add(name string, r outcome) {
	if m.outcomes == nil {
		m.outcomes = map[string][]outcome{}
	}
	if m.outcomes[name] == nil {
		m.names = append(m.names, name)
	}
	m.outcomes[name] = append(m.outcomes[name], r)
}

// best is a contender's fastest round.
func (m *measurement) best(name string) outcome {
	return slices.MinFunc(m.outcomes[name], func(a, b outcome) int { return cmp.Compare(a.seconds, b.seconds) })
}

// leastCPU is the processor time of the round that took least of it.
func (m *measurement) leastCPU(name string) time.Duration {
	return slices.MinFunc(m.outcomes[name], func(a, b outcome) int { return cmp.Compare(a.cpu, b.cpu) }).cpu
}

// fastest is the best round of all contenders whose name begins so.
func (m *measurement) fastest(prefix string) (name string, r outcome) {
	for _, n := range m.names {
		if strings.HasPrefix(n, prefix) && (name == "" || m.best(n).seconds < r.seconds) {
			name, r = n, m.best(n)
		}
	}
	return name, r
}

// ratio is how many times as fast as another the pipeline is.
func (m *measurement) ratio(other outcome) float64 { return other.seconds / m.best(whole).seconds }

// latency is the least and the middle one, and how long the model took in the least.
func (m *measurement) latency() (least latency, middle time.Duration) {
	sorted := slices.SortedFunc(slices.Values(m.latencies), func(a, b latency) int { return cmp.Compare(a.whole, b.whole) })
	return sorted[0], sorted[len(sorted)/2].whole
}

// table is everything, a line for each figure.
func (m *measurement) table() report.Table {
	t := report.Table{{"what", "measured", "wanted"}}
	add := func(what, wanted, format string, values ...any) {
		t = append(t, []string{what, fmt.Sprintf(format, values...), wanted})
	}
	for _, name := range m.names {
		r := m.best(name)
		add(name, "", "%.2f s, %.2f pages/s, %.0f CPU ms a page, %d pages, %d boxes kept%s",
			r.seconds, float64(r.pages)/r.seconds, perPage(m.leastCPU(name), r.pages), r.pages, r.boxes, megabytes(r.peak))
	}
	name, line := m.fastest("straight")
	add("(a) times as fast as "+name, "0.90", "%.2f", m.ratio(line))
	name, peer := m.fastest("peer")
	add("(b) times as fast as "+name, "1.8; 2.5 is the goal", "%.2f", m.ratio(peer))
	add("(d) ms a page: render", "", "%.1f", m.parts.Render)
	add("(d) ms a page: infer", "", "%.1f", m.parts.Infer)
	add("(d) ms a page: annotate", "", "%.1f", m.parts.Annotate)
	r := m.best(whole)
	for _, name := range pipeline.Names() {
		add("(d) CPU ms a page: "+name, "", "%.1f", perPage(r.by[name], r.pages))
	}
	add("(d) CPU ms a page: all", "", "%.1f", perPage(r.cpu, r.pages))
	for _, one := range m.memory {
		add("(e) peak MB: "+one.name, wantedMemory(one.name), "%.0f", float64(one.peak)/1e6)
	}
	for i, c := range m.costs {
		each, times, wanted := perPage(c.cpu, c.total()), "", ""
		if i > 0 {
			times, wanted = fmt.Sprintf(", %.2f times the first", each/perPage(m.costs[0].cpu, m.costs[0].total())), "1.05"
		}
		add("(f) "+c.String(), wanted, "%.1f CPU ms a page, %.2f ms%s", each, c.seconds*1e3/float64(c.total()), times)
	}
	least, middle := m.latency()
	add("(g) one page, from upload to row", fmt.Sprintf("inference + 250: %.0f", milliseconds(least.infer)+250), "%.0f ms, of which inference %.0f; half of %d take up to %.0f",
		milliseconds(least.whole), milliseconds(least.infer), len(m.latencies), milliseconds(middle))
	return t
}

func megabytes(peak int64) string {
	if peak == 0 {
		return ""
	}
	return fmt.Sprintf(", %.0f MB", float64(peak)/1e6)
}

func wantedMemory(name string) string {
	switch name {
	case "detector":
		return "100"
	case "ingest-api":
		return "60; 30 is the goal"
	}
	return ""
}

func perPage(d time.Duration, pages int) float64 { return milliseconds(d) / float64(pages) }

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// record writes the result into docs/benchmarks.md.
func (m *measurement) record(ctx context.Context, root, command string) error {
	commit, err := report.Commit(ctx, root)
	if err != nil {
		return err
	}
	page, err := report.Open(root, "benchmarks.md")
	if err != nil {
		return err
	}
	date := time.Now().UTC().Format(time.DateOnly)
	said := fmt.Sprintf("%s, commit %s, `%s`. %s. Load %s.\n\n", date, commit, command, report.Hardware(), m.load)
	_, line := m.fastest("straight")
	_, peer := m.fastest("peer")
	r := m.best(whole)
	least, _ := m.latency()
	history := report.Table{
		{"date", "commit", "load", "pages", "pages/s", "(a)", "(b)", "latency ms, of which inference"},
		{date, commit, m.load, fmt.Sprint(r.pages), fmt.Sprintf("%.2f", float64(r.pages)/r.seconds), fmt.Sprintf("%.2f", m.ratio(line)),
			fmt.Sprintf("%.2f", m.ratio(peer)), fmt.Sprintf("%.0f, %.0f", milliseconds(least.whole), milliseconds(least.infer))},
	}
	if err := errors.Join(page.Replace("newest", append([]byte(said), m.table().Markdown()...)), page.Prepend("history", history)); err != nil {
		return err
	}
	return page.Save()
}
