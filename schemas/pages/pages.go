// Package pages reads page selections such as "1-3,7,10-". ingest-api checks
// their syntax when a document is submitted, and the planner resolves them once
// the document is open and its pages are counted.
package pages

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxLength is the longest selection, in bytes, that [Parse] accepts.
const MaxLength = 4096

// maxPage bounds page numbers so that arithmetic on them never overflows.
const maxPage = 1<<31 - 1

// SyntaxError says which part of a selection could not be read, and why.
type SyntaxError struct {
	Selection string // the whole selection, cut to a printable length
	Part      string // the part between commas that is at fault
	Reason    string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("page selection %q: %q %s", e.Selection, e.Part, e.Reason)
}

// Selection is a set of pages, numbered from 1, that may be open at its end.
// The zero value selects every page.
type Selection struct {
	spans []span // sorted, disjoint, not touching; none means every page
}

// span is first..last with both ends included.
type span struct{ first, last int }

// Parse reads a selection: parts between commas, each a page ("7"), a range
// ("1-3"), a range to the last page ("10-") or from the first one ("-3"). Pages
// count from 1. "all" and the empty string select every page. Blanks around
// parts are allowed, order and overlaps mean nothing. The error is a
// *SyntaxError.
func Parse(s string) (Selection, error) {
	if len(s) > MaxLength {
		return Selection{}, &SyntaxError{Selection: s[:32] + "…", Part: s[:32] + "…",
			Reason: fmt.Sprintf("is longer than %d bytes", MaxLength)}
	}
	if t := strings.TrimSpace(s); t == "" || t == "all" {
		return Selection{}, nil
	}
	var spans []span
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		one, reason := parseSpan(part)
		if reason != "" {
			return Selection{}, &SyntaxError{Selection: s, Part: part, Reason: reason}
		}
		spans = append(spans, one)
	}
	return Selection{spans: merge(spans)}, nil
}

func parseSpan(part string) (one span, reason string) {
	from, to, isRange := strings.Cut(part, "-")
	from, to = strings.TrimSpace(from), strings.TrimSpace(to)
	switch {
	case part == "":
		return span{}, "is empty: write a page or a range between commas"
	case part == "all":
		return span{}, "cannot stand beside other parts"
	case isRange && from == "" && to == "":
		return span{}, "has neither a first nor a last page"
	}
	one = span{first: 1, last: maxPage}
	if from != "" {
		if one.first, reason = parsePage(from); reason != "" {
			return span{}, reason
		}
	}
	switch {
	case !isRange:
		one.last = one.first
	case to != "":
		if one.last, reason = parsePage(to); reason != "" {
			return span{}, reason
		}
	}
	if one.last < one.first {
		return span{}, "ends before it begins"
	}
	return one, ""
}

// parsePage accepts decimal digits alone: no sign, no other notation.
func parsePage(s string) (page int, reason string) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, "is not a page number or a range such as 3-7"
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil || n > maxPage:
		return 0, "names a page that no document has"
	case n == 0:
		return 0, "names page 0; pages count from 1"
	}
	return int(n), ""
}

func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last))
	})
	merged := spans[:1]
	for _, s := range spans[1:] {
		last := &merged[len(merged)-1]
		if s.first <= last.last || s.first == last.last+1 {
			last.last = max(last.last, s.last)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// String returns the selection in its shortest form; equal selections have
// equal strings, so it may stand in a hash. Every page is "all".
func (s Selection) String() string {
	if len(s.spans) == 0 {
		return "all"
	}
	var b strings.Builder
	for i, one := range s.spans {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(one.first))
		switch one.last {
		case one.first:
		case maxPage:
			b.WriteByte('-')
		default:
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(one.last))
		}
	}
	if b.String() == "1-" {
		return "all"
	}
	return b.String()
}

// Of returns the selected pages of a document of pageCount pages, ascending and
// without repeats. Selected pages past the end do not exist and are left out,
// so the answer may be empty.
func (s Selection) Of(pageCount int) []int {
	spans := s.spans
	if len(spans) == 0 {
		spans = []span{{1, maxPage}}
	}
	var selected []int
	for _, one := range spans {
		for page := one.first; page <= min(one.last, pageCount); page++ {
			selected = append(selected, page)
		}
	}
	return selected
}
