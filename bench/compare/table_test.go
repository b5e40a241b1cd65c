package main

import (
	"strings"
	"testing"
	"time"

	"leafcutter/bench/peers"
)

func TestRatiosAreOfTheBestRounds(t *testing.T) {
	var m measurement
	m.latencies = []latency{{300 * time.Millisecond, 60 * time.Millisecond}, {200 * time.Millisecond, 50 * time.Millisecond}, {900 * time.Millisecond, 70 * time.Millisecond}}
	for name, seconds := range map[string][]float64{whole: {12, 10}, "straight 1 × 2": {9.5, 20}, "straight 2 × 1": {9, 30}, "peer 1 × 1": {40}, "peer 2 × 1": {21, 20}} {
		for _, s := range seconds {
			m.add(name, outcome{seconds: s, pages: 100})
		}
	}
	text := m.table().Text()
	for _, want := range []string{"times as fast as straight 2 × 1  0.90", "times as fast as peer 2 × 1      2.00", "200 ms, of which inference 50; half of 3 take up to 300", "inference + 250: 300"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestEveryPageIsSharedOnce(t *testing.T) {
	pages := []peers.Selection{{Path: "a", Pages: []int{1, 2, 3, 4, 5, 6, 7}}, {Path: "b", Pages: []int{1}}, {Path: "c", Pages: []int{4, 9, 10}}}
	for processes := 1; processes <= 12; processes++ {
		seen := map[string]int{}
		least, most := 11, 0
		shares := share(pages, processes)
		for _, s := range shares {
			n := 0
			for _, one := range s {
				for _, page := range one.Pages {
					seen[one.Path+"/"+string(rune('0'+page))]++
					n++
				}
			}
			least, most = min(least, n), max(most, n)
		}
		if len(seen) != 11 {
			t.Errorf("%d processes: %d pages of 11", processes, len(seen))
		}
		for page, times := range seen {
			if times != 1 {
				t.Errorf("%d processes: page %s is shared %d times", processes, page, times)
			}
		}
		if most > (11+processes-1)/processes {
			t.Errorf("%d processes: shares of %d to %d pages", processes, least, most)
		}
	}
}

func TestCostsAreComparedWithTheFirst(t *testing.T) {
	m := measurement{latencies: []latency{{time.Second, time.Second}}, costs: []cost{
		{shape{10, 10}, 10, 14 * time.Second}, {shape{100, 10}, 90, 147 * time.Second}, {shape{1, 500}, 50, 77 * time.Second},
	}}
	for _, name := range []string{whole, "straight 1 × 1", "peer 1 × 1"} {
		m.add(name, outcome{seconds: 1, pages: 1})
	}
	text := m.table().Text()
	for _, want := range []string{
		"(f) 100 pages queued, documents of 10 ", "140.0 CPU ms a page, 100.00 ms  ", "147.0 CPU ms a page, 90.00 ms, 1.05 times the first",
		"(f) a document of 500 pages ", "154.0 CPU ms a page, 100.00 ms, 1.10 times the first",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}
