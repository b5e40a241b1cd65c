package adler_test

import (
	"bytes"
	"fmt"
	"hash/adler32"
	"math/rand/v2"
	"testing"

	"leafcutter/pkg/internal/adler"
)

// TestSumIsThatOfTheStandardLibrary goes through all lengths about the size of a step, and past the size of a part. Bytes
// of 255 make every lane as full as it gets.
func TestSumIsThatOfTheStandardLibrary(t *testing.T) {
	const long = 3<<20 + 77
	random := rand.New(rand.NewPCG(5, 6))
	noise := make([]byte, long)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	lengths := []int{1<<20 - 1, 1 << 20, 1<<20 + 1, long}
	for n := range 400 {
		lengths = append(lengths, n)
	}
	for name, data := range map[string][]byte{
		"noise": noise, "zeros": make([]byte, long), "ones": bytes.Repeat([]byte{1}, long), "255": bytes.Repeat([]byte{255}, long),
	} {
		for _, n := range lengths {
			if got, want := adler.Update(1, data[:n]), adler32.Checksum(data[:n]); got != want {
				t.Fatalf("%d bytes of %s: %08x, want %08x", n, name, got, want)
			}
		}
	}
}

// TestLargestSumsBefore starts where both sums are as large as they can be.
func TestLargestSumsBefore(t *testing.T) {
	full := bytes.Repeat([]byte{255}, 1<<20+40)
	a, b := uint64(65520), uint64(65520)
	for _, v := range full {
		a = (a + uint64(v)) % 65521
		b = (b + a) % 65521
	}
	if got, want := adler.Update(65520<<16|65520, full), uint32(b<<16|a); got != want {
		t.Fatalf("%08x, want %08x", got, want)
	}
}

// FuzzUpdate cuts the data in two: where a sum was interrupted must not matter.
func FuzzUpdate(f *testing.F) {
	f.Add([]byte{}, uint(0))
	f.Add([]byte("a row of a page, and then some more of the same page"), uint(33))
	f.Add(bytes.Repeat([]byte{255}, 6000), uint(31))
	f.Fuzz(func(t *testing.T, data []byte, cut uint) {
		cut %= uint(len(data)) + 1
		got := adler.Update(adler.Update(1, data[:cut]), data[cut:])
		if want := adler32.Checksum(data); got != want {
			t.Fatalf("%d bytes, cut at %d: %08x, want %08x", len(data), cut, got, want)
		}
	})
}

// BenchmarkUpdate sums a row of an A4 page at 108 dpi, grey and in colour, beside the standard library.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{894, 2680} {
		row := make([]byte, n)
		for i := range row {
			row[i] = byte(i * i)
		}
		b.Run(fmt.Sprintf("%d/ours", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				adler.Update(1, row)
			}
		})
		b.Run(fmt.Sprintf("%d/standard", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				adler32.Checksum(row)
			}
		})
	}
}
