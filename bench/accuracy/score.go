package main

import (
	"slices"

	"leafcutter/bench/documents"
)

// What counts. A heading is a line of text, and detectors cut it generously or short; 30 % of it is enough to tell which
// line was meant. A box over a whole page covers every heading and says nothing.
const (
	minScore   = 0.4
	minCovered = 0.3 // of a heading's line
	maxBox     = 0.2 // of a page, above which a box is no hit
)

// tally counts headings and boxes.
type tally struct {
	Headings int // lines that outlines name
	Found    int // those that a box covers
	Titles   int // boxes of class title
	Right    int // those on a heading, told by outline or font
}

func (t tally) plus(u tally) tally {
	return tally{t.Headings + u.Headings, t.Found + u.Found, t.Titles + u.Titles, t.Right + u.Right}
}

// recall is the share of headings that were found; 0 where there are none.
func (t tally) recall() float64 { return float64(t.Found) / float64(max(1, t.Headings)) }

// precision is the share of boxes that are right; 0 where there are none.
func (t tally) precision() float64 { return float64(t.Right) / float64(max(1, t.Titles)) }

// score compares boxes of class title at minScore or more, by page number, with the headings of a document. missed is
// told each heading that was not found, alarm each box that is not right.
func score(d documents.Document, boxes map[int][]documents.Rect, missed, alarm func(page int, r documents.Rect)) tally {
	var t tally
	for _, p := range d.Pages {
		titles := boxes[p.Number]
		small := slices.DeleteFunc(slices.Clone(titles), func(b documents.Rect) bool { return b.Area() > maxBox*p.Width*p.Height })
		t.Headings += len(p.Outline)
		t.Titles += len(titles)
		for _, line := range p.Outline {
			if slices.ContainsFunc(small, func(b documents.Rect) bool { return covers(b, line) }) {
				t.Found++
			} else {
				missed(p.Number, line)
			}
		}
		headings := slices.Concat(p.Outline, p.Font)
		for _, b := range titles {
			if slices.Contains(small, b) && slices.ContainsFunc(headings, func(line documents.Rect) bool { return covers(b, line) }) {
				t.Right++
			} else {
				alarm(p.Number, b)
			}
		}
	}
	return t
}

// covers reports whether box covers enough of a line.
func covers(box, line documents.Rect) bool {
	both := documents.Rect{max(box[0], line[0]), max(box[1], line[1]), min(box[2], line[2]), min(box[3], line[3])}
	return line.Area() > 0 && both.Area() >= minCovered*line.Area()
}
