// Package prune removes what has become old: objects from S3, rows from ClickHouse. `leafcutter prune` calls it, by hand, by
// cron or in a loop of `leafcutter up`. It talks to both servers directly and needs no stage to be running.
//
// A document is as old as the end of its last run, and one with a run that has not ended is never touched. Objects go
// before the rows that lead to them: a prune that was cut off is repeated, and finds what it left.
package prune

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What can be pruned.
const (
	Images    = "images"    // page images and the text lines beside them
	Annotated = "annotated" // page images with boxes drawn
	Crops     = "crops"     // of all boxes
	Sources   = "sources"   // documents as they were submitted; nothing can be done again without them
	Rows      = "rows"      // page by page what was found; the document, its runs and their counters stay
	Documents = "documents" // everything of a document, objects and rows
	Traces    = "traces"    // spans, whole days of them
)

// All is everything that can be pruned, the parts before the whole.
func All() []string { return []string{Images, Annotated, Crops, Sources, Rows, Documents, Traces} }

// parts are what can be pruned of a document that stays.
func parts() []string { return []string{Images, Annotated, Crops, Sources, Rows} }

// Age is a duration that may also be written in days: 720h, 30d.
type Age time.Duration

// UnmarshalText reads a duration of Go's, or a number of days.
func (a *Age) UnmarshalText(text []byte) error {
	if days, ok := strings.CutSuffix(strings.TrimSpace(string(text)), "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return errors.New("not an age such as 720h or 30d")
		}
		*a = Age(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	d, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil || d < 0 {
		return errors.New("not an age such as 720h or 30d")
	}
	*a = Age(d)
	return nil
}

// MarshalText writes hours, minutes and seconds.
func (a Age) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// String is what MarshalText writes.
func (a Age) String() string { return time.Duration(a).String() }

// Set reads a flag.
func (a *Age) Set(text string) error { return a.UnmarshalText([]byte(text)) }

// Type is what the help of a flag calls it.
func (a *Age) Type() string { return "age" }

// Keep says how long to keep what. 0 means for ever.
type Keep struct {
	Images    Age `env:"LEAFCUTTER_KEEP_IMAGES" desc:"how long page images and their text lines are kept after the last run of their document has ended, such as 720h or 30d; empty: for ever"`
	Annotated Age `env:"LEAFCUTTER_KEEP_ANNOTATED" desc:"the same for page images with boxes drawn"`
	Crops     Age `env:"LEAFCUTTER_KEEP_CROPS" desc:"the same for crops"`
	Sources   Age `env:"LEAFCUTTER_KEEP_SOURCES" desc:"the same for documents as they were submitted, as far as they lie in our bucket below documents/"`
	Rows      Age `env:"LEAFCUTTER_KEEP_ROWS" desc:"the same for what was found page by page; the document, its runs and their counters stay"`
	Documents Age `env:"LEAFCUTTER_KEEP_DOCUMENTS" desc:"the same for everything of a document, objects and rows"`
	Traces    Age `env:"LEAFCUTTER_KEEP_TRACES" desc:"how long spans are kept in otel_traces"`
}

// of is the field of a name; nil for none.
func (k *Keep) of(what string) *Age {
	switch what {
	case Images:
		return &k.Images
	case Annotated:
		return &k.Annotated
	case Crops:
		return &k.Crops
	case Sources:
		return &k.Sources
	case Rows:
		return &k.Rows
	case Documents:
		return &k.Documents
	case Traces:
		return &k.Traces
	default:
		return nil
	}
}

// Only is a Keep of the kinds named, all kept as long.
func Only(age Age, what ...string) (Keep, error) {
	var k Keep
	for _, name := range what {
		field := k.of(name)
		if field == nil {
			return k, fmt.Errorf("%q cannot be pruned; there are %s", name, strings.Join(All(), ", "))
		}
		*field = age
	}
	return k, nil
}

// Empty reports whether everything is kept for ever.
func (k Keep) Empty() bool { return k == Keep{} }

// cutoffs are the times before which things are old, by name; without those that are kept for ever.
func (k Keep) cutoffs(now time.Time) map[string]time.Time {
	cutoffs := map[string]time.Time{}
	for _, what := range All() {
		if age := *k.of(what); age > 0 {
			cutoffs[what] = now.Add(-time.Duration(age))
		}
	}
	return cutoffs
}

// latest is the latest cutoff of some kinds; zero where none of them is pruned.
func latest(cutoffs map[string]time.Time, what ...string) (last time.Time) {
	for name, at := range cutoffs {
		if slices.Contains(what, name) && at.After(last) {
			last = at
		}
	}
	return last
}
