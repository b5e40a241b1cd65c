package stage

import (
	"fmt"
	"slices"
	"strings"
)

// note is what a commit's metadata says of the partition beside its offset. Whoever owns the partition next reads it.
//
// A partition whose last commit says "running" was not given back: its owner died, and one of the records that it had in
// its handler may be why. Those are the first few that are not done and whose time has come.
type note struct {
	running bool
	width   int   // how many of those handed out first may be why: as many as may have been in the handler at once, or more
	from    int64 // the lowest offset that was not done when the owner began
	alone   int64 // offset of the record that was being handled alone; -1 for none
	deaths  int   // how often the process died of it, as far as anybody knows: this time included

	// also are other records that a process died of while it handled them alone, and that were not survived or settled
	// since. Suspects are handled in no fixed order: without this, one that goes ahead would wipe out what is known of the
	// one that kills. Never changed, only replaced: copies of a note share it.
	also []deaths
}

// deaths are how often the process died of a record.
type deaths struct {
	offset int64
	times  int
}

// of is how often the process died of a record.
func (n note) of(offset int64) int {
	if n.alone == offset {
		return n.deaths
	}
	for _, d := range n.also {
		if d.offset == offset {
			return d.times
		}
	}
	return 0
}

// enter is n with a record that is about to be handled alone, and of which a death would be the deaths-th.
func (n note) enter(offset int64, times int) note {
	also := n.without(func(o int64) bool { return o == offset }).also
	if n.alone >= 0 && n.alone != offset && len(also) < maxWidth {
		also = append(slices.Clip(also), deaths{n.alone, n.deaths})
	}
	n.alone, n.deaths, n.also = offset, times, also
	return n
}

// without is n without what is said of some records.
func (n note) without(which func(offset int64) bool) note {
	if n.alone >= 0 && which(n.alone) {
		n.alone, n.deaths = -1, 0
	}
	var left []deaths
	for _, d := range n.also {
		if !which(d.offset) {
			left = append(left, d)
		}
	}
	n.also = left
	return n
}

var noNote = note{alone: -1}

const noteVersion = "lc1"

// String is the metadata. A partition that was given back has none.
func (n note) String() string {
	if !n.running {
		return ""
	}
	s := fmt.Sprintf("%s running width=%d from=%d", noteVersion, n.width, n.from)
	if n.alone >= 0 {
		s += fmt.Sprintf(" alone=%d deaths=%d", n.alone, n.deaths)
	}
	for i, d := range n.also {
		s += fmt.Sprintf("%s%d:%d", []string{" also=", ","}[min(i, 1)], d.offset, d.times)
	}
	return s
}

// parseNote reads metadata. What it does not know, another program's or a later version's, says nothing.
func parseNote(metadata string) note {
	n := noNote
	fields := strings.Fields(metadata)
	if len(fields) < 2 || fields[0] != noteVersion || fields[1] != "running" {
		return n
	}
	n.running = true
	for _, f := range fields[2:] {
		name, value, _ := strings.Cut(f, "=")
		if name == "also" {
			n.also = parseDeaths(value)
			continue
		}
		var number int64
		if _, err := fmt.Sscanf(value, "%d", &number); err != nil || number < 0 {
			continue
		}
		switch name {
		case "width":
			n.width = int(min(number, maxReach))
		case "from":
			n.from = number
		case "alone":
			n.alone = number
		case "deaths":
			n.deaths = int(min(number, maxDeaths))
		}
	}
	return n
}

func parseDeaths(text string) []deaths {
	var all []deaths
	for one := range strings.SplitSeq(text, ",") {
		var d deaths
		if _, err := fmt.Sscanf(one, "%d:%d", &d.offset, &d.times); err == nil && d.offset >= 0 && d.times > 0 && len(all) < maxWidth {
			d.times = min(d.times, maxDeaths)
			all = append(all, d)
		}
	}
	return all
}

const (
	// maxWidth bounds how many records of a partition are handled alone after a death. A stage that takes large batches
	// may have had more in its handler: it dies again, and the first ones, done alone and committed, are out of doubt.
	maxWidth = 16
	// maxReach is the same where lives end without a commit: more than may be put off and in flight in one lane, by default.
	maxReach = 1 << 13
	// maxDeaths is how often a process may die while it handles one record and nothing else.
	maxDeaths = 3
)
