package stage

import (
	"fmt"
	"strings"
)

// note is what a commit's metadata says of the partition beside its offset. Whoever owns the partition next reads it.
//
// A partition whose last commit says "running" was not given back: its owner died, and one of the records that it had in
// its handler may be why. Those are the first few that are not done.
type note struct {
	running bool
	width   int   // how many records may have been in the handler at once
	alone   int64 // offset of the record that was being handled alone; -1 for none
	deaths  int   // how often the process died of it, as far as anybody knows: this time included
}

var noNote = note{alone: -1}

const noteVersion = "lc1"

// String is the metadata. A partition that was given back has none.
func (n note) String() string {
	if !n.running {
		return ""
	}
	s := fmt.Sprintf("%s running width=%d", noteVersion, n.width)
	if n.alone >= 0 {
		s += fmt.Sprintf(" alone=%d deaths=%d", n.alone, n.deaths)
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
		var number int64
		if _, err := fmt.Sscanf(value, "%d", &number); err != nil || number < 0 {
			continue
		}
		switch name {
		case "width":
			n.width = int(min(number, maxWidth))
		case "alone":
			n.alone = number
		case "deaths":
			n.deaths = int(min(number, maxDeaths))
		}
	}
	return n
}

const (
	// maxWidth bounds how many records of a partition are handled alone after a death. A stage that takes large batches
	// may have had more in its handler: it dies again, and the first ones, done alone and committed, are out of doubt.
	maxWidth = 16
	// maxDeaths is how often a process may die while it handles one record and nothing else.
	maxDeaths = 3
)
