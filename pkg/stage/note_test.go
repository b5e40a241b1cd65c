package stage

import (
	"testing"

	"pgregory.net/rapid"
)

func TestNotesAreReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := note{running: true, width: rapid.IntRange(0, maxWidth).Draw(t, "width"), alone: -1}
		if rapid.Bool().Draw(t, "somebody is alone") {
			n.alone, n.deaths = rapid.Int64Range(0, 1<<60).Draw(t, "alone"), rapid.IntRange(1, maxDeaths).Draw(t, "deaths")
		}
		if got := parseNote(n.String()); got != n {
			t.Fatalf("%q is read as %+v, want %+v", n.String(), got, n)
		}
	})
}

func TestAPartitionThatWasGivenBackSaysNothing(t *testing.T) {
	if s := noNote.String(); s != "" {
		t.Errorf("it says %q", s)
	}
}

func FuzzParseNote(f *testing.F) {
	f.Add("lc1 running width=4 alone=17 deaths=2")
	f.Add("lc1 running width=99999999999999999999 deaths=-1")
	f.Add("another program's")
	f.Add("")
	f.Fuzz(func(t *testing.T, metadata string) {
		n := parseNote(metadata)
		if n.width < 0 || n.width > maxWidth || n.deaths < 0 || n.deaths > maxDeaths || n.alone < -1 || !n.running && n != noNote {
			t.Fatalf("%q is read as %+v", metadata, n)
		}
	})
}

func TestCommitsFollowTheLowestUnfinishedInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offsets := rapid.SliceOfNDistinct(rapid.Int64Range(0, 1000), 1, 40, rapid.ID[int64]).Draw(t, "offsets")
		sorted := append([]int64(nil), offsets...)
		for i := range sorted { // insertion sort: few and small
			for j := i; j > 0 && sorted[j] < sorted[j-1]; j-- {
				sorted[j], sorted[j-1] = sorted[j-1], sorted[j]
			}
		}
		p := newPartition("t", 0)
		for _, o := range sorted {
			p.take(o, 0)
		}
		finished := map[int64]bool{}
		for _, o := range offsets {
			p.finish(o)
			p.finish(o) // twice is legal
			finished[o] = true
			want := sorted[0]
			for i := 0; i < len(sorted) && finished[sorted[i]]; i++ {
				want = sorted[i] + 1
			}
			if at, _, _ := p.committable(true); at.Offset != want {
				t.Fatalf("after %v: %d may be committed, want %d", finished, at.Offset, want)
			}
		}
		p.revoke()
		if _, _, ok := p.committable(true); ok {
			t.Fatal("a revoked partition commits")
		}
	})
}
