package reliability

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// verdict is what the oracle finds in the answers after a fault.
type verdict struct {
	pages     int // that had to end as done
	lost      int // rows, objects or ends that are missing
	doubled   int // that are there twice, or that nobody asked for
	condemned int // healthy pages, runs and documents that were given up
	changed   int // that say something else
	details   []string
}

// detailed is how much of what is wrong is kept to be printed.
const detailed = 40

func (v *verdict) note(count *int, format string, args ...any) {
	*count++
	if len(v.details) < detailed {
		v.details = append(v.details, fmt.Sprintf(format, args...))
	}
}

func (v *verdict) add(w verdict) {
	v.pages += w.pages
	v.lost += w.lost
	v.doubled += w.doubled
	v.condemned += w.condemned
	v.changed += w.changed
	v.details = append(v.details, w.details...)
	v.details = v.details[:min(len(v.details), detailed)]
}

func (v verdict) sound() bool { return v.lost+v.doubled+v.condemned+v.changed == 0 }

func (v verdict) String() string {
	return fmt.Sprintf("%d pages: %d lost, %d doubled, %d condemned, %d changed\n%s", v.pages, v.lost, v.doubled, v.condemned, v.changed, strings.Join(v.details, "\n"))
}

// oracle knows what every copy of the corpus must end with: what the first copy ended with, undisturbed.
type oracle struct {
	want  answers
	pages map[string]int // by item, the pages that come to be done
}

func newOracle(undisturbed answers, items []item) oracle {
	o := oracle{want: undisturbed, pages: map[string]int{}}
	for _, i := range items {
		o.pages[i.name] = i.pages
	}
	return o
}

// judge holds what was found to what must be: every item of each copy in submitted, and nothing else.
func (o oracle) judge(submitted map[string]ref, found map[int]answers) verdict {
	var v verdict
	wanted := map[int]map[string]bool{}
	for _, r := range submitted {
		if wanted[r.copy] == nil {
			wanted[r.copy] = map[string]bool{}
		}
		wanted[r.copy][r.item] = true
	}
	for copy, items := range wanted {
		v.add(o.judgeCopy(copy, items, found[copy]))
	}
	for copy, got := range found {
		for f, says := range got {
			if !wanted[copy][f.item] {
				v.note(&v.doubled, "copy %d: %s was never asked for: %.300s", copy, f, says[0])
			}
		}
	}
	return v
}

func (o oracle) judgeCopy(copy int, items map[string]bool, got answers) verdict {
	var v verdict
	for item := range items {
		v.pages += o.pages[item]
	}
	for _, f := range slices.SortedFunc(maps.Keys(o.want), byName) {
		if !items[f.item] {
			continue
		}
		want, says := o.want[f][0], got[f]
		switch {
		case len(says) == 0:
			v.note(&v.lost, "copy %d: %s is lost: %.300s", copy, f, want)
		case len(says) > 1:
			v.note(&v.doubled, "copy %d: %s is there %d times:\n\t%.300s\n\t%.300s", copy, f, len(says), says[0], says[1])
		case says[0] == want:
		case failed(says[0]) && !failed(want):
			v.note(&v.condemned, "copy %d: %s was given up: %.600s", copy, f, says[0])
		default:
			v.note(&v.changed, "copy %d: %s is another:\n\t%.600s\n\t%.600s", copy, f, want, says[0])
		}
	}
	for _, f := range slices.SortedFunc(maps.Keys(got), byName) {
		if _, known := o.want[f]; known || !items[f.item] {
			continue
		}
		switch f.kind {
		case "letter", "failure":
			v.note(&v.condemned, "copy %d: %s was given up: %.600s", copy, f, got[f][0])
		default:
			v.note(&v.doubled, "copy %d: %s is there besides: %.300s", copy, f, got[f][0])
		}
	}
	return v
}

// failed tells of a page's or run's row whether it was given up.
func failed(says string) bool {
	return strings.Contains(says, `"state":"failed"`) || strings.Contains(says, `"state":"completed_with_failures"`)
}

func byName(a, b fact) int { return strings.Compare(a.String(), b.String()) }
