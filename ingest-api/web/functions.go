package web

import (
	"fmt"
	"hash/fnv"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// functions are those that the templates use.
var functions = template.FuncMap{
	"bytes": bytesOf, "when": when, "iso": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"words": words, "score": func(s float64) string { return fmt.Sprintf("%.2f", s) }, "hue": hue,
	"final": func(s schemas.State) bool { return s.Final() }, "took": took, "percent": percent,
	"finished": func(done, failed int) int { return done + failed }, "count": count,
	"cropWidth": func(b api.Box) int { w, _ := thumb(b); return w }, "cropHeight": func(b api.Box) int { _, h := thumb(b); return h },
	"short": func(id string) string { return id[:min(8, len(id))] }, "ms": func(v float64) string { return fmt.Sprintf("%.0f ms", v) },
}

func bytesOf(n int64) string {
	size, unit := float64(n), 0
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", size), ".0") + " " + units[unit]
}

// when is a time for people; the script says it in their own zone and words.
func when(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") }

// words is a state or class for people.
func words(s any) string {
	return strings.NewReplacer("_", " ", "-", " ").Replace(fmt.Sprint(s))
}

// painted are the classes that have a colour of their own on annotated pages, in the order of the rules .hue0 to .hue9
// of the style sheet. The annotator's palette is the original.
var painted = []string{"title", "text", "figure", "figure_caption", "table", "table_caption", "header", "footer", "reference", "equation"}

// hue is the style of a class: the colour that its boxes have on the annotated page, where other classes' names pick one.
func hue(class string) string {
	i := slices.Index(painted, class)
	if i < 0 {
		h := fnv.New32a()
		_, _ = h.Write([]byte(class)) // a hash takes everything
		i = int(h.Sum32() % uint32(len(painted)))
	}
	return "hue" + strconv.Itoa(i)
}

// took is how long a run lasted.
func took(r api.Run) string {
	if r.PlannedAt == nil || r.FinishedAt == nil || r.FinishedAt.Before(*r.PlannedAt) {
		return ""
	}
	d := r.FinishedAt.Sub(*r.PlannedAt)
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func percent(s api.Summary) int {
	if s.PagesSelected == 0 {
		return 0
	}
	return int(math.Floor(100 * float64(s.PagesDone+s.PagesFailed) / float64(s.PagesSelected)))
}

// count is a number with its word.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Thumbnails of crops fit into this many pixels.
const (
	thumbWidth  = 220
	thumbHeight = 90
)

// thumb is the size of a crop's thumbnail, so that the page does not jump while pictures arrive.
func thumb(b api.Box) (width, height int) {
	w, h := math.Max(b.Rect[2]-b.Rect[0], 1), math.Max(b.Rect[3]-b.Rect[1], 1)
	scale := math.Min(1, math.Min(thumbWidth/w, thumbHeight/h))
	return max(1, int(w*scale)), max(1, int(h*scale))
}
