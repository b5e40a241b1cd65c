package render

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"leafcutter/stages/page-splitter/internal/testpdf"
)

// TestBookMemory: what a child holds of a document does not grow with its pages.
// A book of 5,000 of them may cost it a table of their places, some 200 bytes a
// page, and neither its 11 MB nor its objects.
func TestBookMemory(t *testing.T) {
	most := func(pages int) int64 {
		pool := newPool(t, func(c *Config) { c.MaxPages = 5000 })
		doc := open(t, pool, report(pages))
		for number := pages - 9; number <= pages; number++ {
			page(t, doc, number, 72)
		}
		return mostResident(t, pid(doc.(*document).child))
	}
	small := most(10)
	book := most(5000)
	t.Logf("%d KiB with 10 pages, %d KiB with 5,000", small>>10, book>>10)
	if book > small+3<<20 {
		t.Errorf("a child held %d KiB with 10 pages and %d KiB with 5,000", small>>10, book>>10)
	}
}

// report is a document of n pages full of text.
func report(n int) []byte {
	pages := make([]testpdf.Page, n)
	for i := range pages {
		for line := range 30 {
			pages[i].Lines = append(pages[i].Lines, testpdf.Line{Text: fmt.Sprintf("Page %d, line %d: the quick brown fox jumps over.", i+1, line), X: 72, Y: 720 - 20*float64(line), Size: 11})
		}
	}
	return testpdf.Document(pages)
}

// mostResident is the most memory that a process has had resident, in bytes.
func mostResident(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("the kernel says nothing of the most memory")
	return 0
}

// BenchmarkBookPage is a page of a document of 5,000 that is open.
func BenchmarkBookPage(b *testing.B) {
	pool := newPool(b, func(c *Config) { c.RecyclePages, c.MaxPages = 1<<30, 5000 })
	doc := open(b, pool, report(5000))
	number := 0
	for b.Loop() {
		if _, err := doc.Page(context.Background(), number*37%5000+1, 72); err != nil {
			b.Fatal(err)
		}
		number++
	}
}

// BenchmarkBookFirstPage is what a range of a document of 5,000 pages costs until
// its first page is there.
func BenchmarkBookFirstPage(b *testing.B) {
	pool := newPool(b, func(c *Config) { c.RecyclePages, c.MaxPages = 1<<30, 5000 })
	path := write(b, report(5000))
	for b.Loop() {
		doc, err := pool.Open(context.Background(), path)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := doc.Page(context.Background(), 4000, 72); err != nil {
			b.Fatal(err)
		}
		doc.Close()
	}
}
