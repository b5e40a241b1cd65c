package render

import (
	"context"
	"testing"

	"leafcutter/stages/page-splitter/internal/testpdf"
)

// BenchmarkPage is the whole way of a page as the splitter sees it: to the child,
// rendering, text, PNG, and back.
func BenchmarkPage(b *testing.B) {
	pool := newPool(b, func(c *Config) { c.RecyclePages = 1 << 30 })
	doc := open(b, pool, testpdf.Text(50))
	number := 0
	for b.Loop() {
		if _, err := doc.Page(context.Background(), number%50+1, 108); err != nil {
			b.Fatal(err)
		}
		number++
	}
}

// BenchmarkOpen is what a range costs before its first page.
func BenchmarkOpen(b *testing.B) {
	pool := newPool(b)
	path := write(b, testpdf.Text(300))
	for b.Loop() {
		doc, err := pool.Open(context.Background(), path)
		if err != nil {
			b.Fatal(err)
		}
		doc.Close()
	}
}

// BenchmarkReplacement is a child killed and another one ready.
func BenchmarkReplacement(b *testing.B) {
	pool := newPool(b)
	for b.Loop() {
		c, err := pool.acquire(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		c.kill()
		<-c.exited
		pool.release(c)
	}
}
