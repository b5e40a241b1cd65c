package pagetext

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"leafcutter/schemas"
)

// Bounds of what is kept, so that a record of the results topic stays one that any broker takes.
const (
	MaxBox  = 4 << 10   // bytes of the text of one box
	MaxPage = 256 << 10 // bytes that the texts of a page's boxes take in JSON, together
)

// Assign gives the text of each box, in the order of boxes: the lines of which more than half lies in it, in the order of
// lines, joined by newlines. Lines and boxes are in pixels of the page image, origin top left.
//
// A line may belong to several boxes, as boxes overlap, and to none. A text longer than MaxBox is cut before the
// character that would pass it; once a page's texts take MaxPage, the boxes after those have none, and the first boxes
// are the best.
func Assign(lines []schemas.TextLine, boxes []schemas.Box) []string {
	texts := make([]string, len(boxes))
	cleaned := make([]string, len(lines))
	done := make([]bool, len(lines))
	left := MaxPage
	for i, box := range boxes {
		var text strings.Builder
		for j, line := range lines {
			if text.Len() > MaxBox {
				break
			}
			if !belongs(line.Rect, box.Rect) {
				continue
			}
			if !done[j] {
				cleaned[j], done[j] = clean(line.Text), true
			}
			if cleaned[j] == "" {
				continue
			}
			if text.Len() > 0 {
				text.WriteByte('\n')
			}
			text.WriteString(cleaned[j])
		}
		texts[i] = cut(text.String(), MaxBox)
		if left -= inJSON(texts[i]); left < 0 {
			texts[i] = ""
			break
		}
	}
	return texts
}

// belongs reports whether more than half of the line's core lies in the box. A line without area is where its middle is.
//
// The core is the middle half across the line: a text layer's line is as high as its font may reach, with room for
// accents and descenders that are seldom there, and a detector's box is as high as the ink. A box that fits a heading
// closely would miss half of the line's area.
func belongs(line, box [4]float64) bool {
	width, height := line[2]-line[0], line[3]-line[1]
	if !(width > 0 && height > 0) {
		x, y := line[0]+width/2, line[1]+height/2
		return x >= box[0] && x < box[2] && y >= box[1] && y < box[3]
	}
	if height <= width {
		line[1], line[3], height = line[1]+height/4, line[3]-height/4, height/2
	} else { // it is written upwards or downwards
		line[0], line[2], width = line[0]+width/4, line[2]-width/4, width/2
	}
	w := min(line[2], box[2]) - max(line[0], box[0])
	h := min(line[3], box[3]) - max(line[1], box[1])
	// Shares, not areas: a product of coordinates may be too large for a number.
	return w > 0 && h > 0 && (w/width)*(h/height) > 0.5
}

// clean makes one line of a line: what is not printable becomes a space, and there is none at either end.
func clean(line string) string {
	line = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(line, "\uFFFD"))
	return strings.TrimSpace(line)
}

// cut is text, or as many of its first characters as fit into limit bytes.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return strings.TrimSpace(text[:limit])
}

// inJSON is how many bytes a cleaned text takes between the quotes of a JSON string as encoding/json writes it.
func inJSON(text string) int {
	n := len(text)
	for i := range len(text) {
		switch text[i] {
		case '<', '>', '&':
			n += 5
		case '"', '\\', '\n':
			n++
		}
	}
	return n
}
