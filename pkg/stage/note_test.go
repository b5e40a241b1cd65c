package stage

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestNotesAreReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := note{running: true, width: rapid.IntRange(0, maxReach).Draw(t, "width"), from: rapid.Int64Range(0, 1<<60).Draw(t, "from"), alone: -1}
		if rapid.Bool().Draw(t, "somebody is alone") {
			n.alone, n.deaths = rapid.Int64Range(0, 1<<60).Draw(t, "alone"), rapid.IntRange(1, maxDeaths).Draw(t, "deaths")
		}
		for range rapid.IntRange(0, maxWidth).Draw(t, "others") {
			n.also = append(n.also, deaths{rapid.Int64Range(0, 1<<60).Draw(t, "offset"), rapid.IntRange(1, maxDeaths).Draw(t, "times")})
		}
		if got := parseNote(n.String()); !reflect.DeepEqual(got, n) {
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
	f.Add("lc1 running width=4 from=12 alone=17 deaths=2 also=3:1,12:2")
	f.Add("lc1 running width=4 also=-3:1,12:0,x,9:9999999999")
	f.Add("lc1 running width=99999999999999999999 deaths=-1")
	f.Add("another program's")
	f.Add("")
	f.Fuzz(func(t *testing.T, metadata string) {
		n := parseNote(metadata)
		if n.width < 0 || n.width > maxReach || n.deaths < 0 || n.deaths > maxDeaths || n.alone < -1 || len(n.also) > maxWidth || !n.running && !reflect.DeepEqual(n, noNote) {
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

// Suspects are handled in whatever order the workers come: what is known of one must not be forgotten for another, or the
// one that kills would never be found out.
func TestDeathsOfOneAreKeptWhileAnotherIsHandled(t *testing.T) {
	const poison, healthy = 5, 3
	last := noNote
	for life := 1; life <= maxDeaths; life++ {
		p := newPartition("t", 0)
		p.suspect(last)
		for _, offset := range []int64{healthy, poison} {
			p.take(offset, 0)
			if life > 1 && !p.judge(offset, false) {
				t.Fatalf("life %d: %d is no suspect", life, offset)
			}
		}
		p.open(4)
		// Another is ahead, and the process dies of neither it nor the next: it is survived in the second life only.
		p.enter(healthy, p.deathsOf(healthy)+1)
		if life == 2 {
			p.survived(healthy)
		}
		p.enter(poison, p.deathsOf(poison)+1)
		_, note, _ := p.committable(true)
		last = parseNote(note.String())
	}
	if last.of(poison) != maxDeaths {
		t.Errorf("after %d deaths with the poison alone, %d are known", maxDeaths, last.of(poison))
	}
	if last.of(healthy) != 1 {
		t.Errorf("of the one that was survived, %d deaths are known, want that of the last life", last.of(healthy))
	}
	p := newPartition("t", 0)
	p.suspect(last)
	p.take(healthy, 0)
	p.take(poison, 0)
	p.open(4)
	p.finish(healthy)
	if n := p.note; len(n.also) != 0 || n.of(healthy) != 0 || n.of(poison) != maxDeaths {
		t.Errorf("once the first is settled, it says %q", n)
	}
}
