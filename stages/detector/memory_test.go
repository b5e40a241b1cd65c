//go:build linux

package detector

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"leafcutter/pkg/pngenc"
)

// resident is the process's resident memory in kilobytes.
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb
		}
	}
	t.Fatal("no VmRSS in /proc/self/status")
	return 0
}

// scan is a page of the size given that compresses badly in its upper part.
func scan(t *testing.T, w, h int) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{255, 255, 255, 255}
			if y < h/4 {
				v := uint32(x*73856093 ^ y*19349663)
				c = color.RGBA{byte(v >> 3), byte(v >> 7), byte(v >> 11), 255}
			}
			m.SetRGBA(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := pngenc.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Memory stays where it is, whatever the number and the size of pages.
func TestMemoryStaysFlat(t *testing.T) {
	staysFlat(t, 60, 240, []image.Point{{300, 400}, {1240, 1754}, {50, 3000}})
}

// staysFlat puts pages of mixed sizes through and compares the memory after
// some with that after many.
func staysFlat(t *testing.T, early, late int64, sizes []image.Point) {
	t.Helper()
	d := open(t, testConfig(t))
	pages := [][]byte{samplePage, read(t, "testdata/walden.png")}
	for _, size := range sizes {
		pages = append(pages, scan(t, size.X, size.Y))
	}
	debug.SetGCPercent(25) // as the command does
	debug.FreeOSMemory()   // what making the pages took is not the detector's
	var next atomic.Int64
	through := func(n int64) int {
		var wg sync.WaitGroup
		for range d.config.Pages + 1 {
			wg.Go(func() {
				for i := next.Add(1); i <= n; i = next.Add(1) {
					// A copy, as each page comes in a buffer of its own.
					if _, err := d.Detect(t.Context(), bytes.Clone(pages[i%int64(len(pages))])); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		next.Store(n)
		return resident(t)
	}
	before := through(early)
	after := through(late)
	fmt.Printf("resident after %d pages %d KiB, after %d pages %d KiB\n", early, before, late, after)
	if float64(after) > 1.1*float64(before) {
		t.Errorf("resident memory grew from %d KiB at page %d to %d KiB at page %d", before, early, after, late)
	}
}
