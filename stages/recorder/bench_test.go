package recorder

import (
	"fmt"
	"testing"
)

// BenchmarkLandPages lands batches of 1,000 pages with 20 boxes each, of 10 documents, in the embedded ClickHouse. First
// is the first time, Replay the same records again by a recorder that has forgotten them.
func BenchmarkLandPages(b *testing.B) {
	db := openDatabase(b)
	n := 0
	fill := func() *partition {
		p := &partition{t: b}
		for range 10 {
			n++
			run := runOf(fmt.Sprintf("0198a000-0000-7000-8000-%012d", n), 99)
			p.add(planned(run))
			for page := range 99 {
				p.add(done(run, page+1, 20))
			}
		}
		return p
	}
	land := func(b *testing.B, r *Recorder, p *partition) {
		if events := handle(b, r, p.in, len(p.in)); len(events) != 10 {
			b.Fatalf("%d events", len(events))
		}
	}
	fresh := func() *Recorder {
		r, err := New(Config{DB: db})
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	b.Run("First", func(b *testing.B) {
		r := fresh()
		for b.Loop() {
			b.StopTimer()
			p := fill()
			b.StartTimer()
			land(b, r, p)
		}
		b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("Replay", func(b *testing.B) {
		p := fill()
		land(b, fresh(), p)
		for b.Loop() {
			land(b, fresh(), p)
		}
		b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "records/s")
	})
}
