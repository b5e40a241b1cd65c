package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"leafcutter/bench/documents"
)

// row is one document's figures.
type row struct {
	name         string
	pages        int
	ours, theirs tally
}

// result is one run's figures.
type result struct{ rows []row }

func (r result) total() row {
	t := row{name: "all"}
	for _, one := range r.rows {
		t.pages += one.pages
		t.ours = t.ours.plus(one.ours)
		t.theirs = t.theirs.plus(one.theirs)
	}
	return t
}

// check tells every bar that is not reached.
func (r result) check() error {
	var faults []error
	t := r.total()
	if got := t.ours.recall(); got < minRecall {
		faults = append(faults, fmt.Errorf("recall is %.3f, at least %.2f is wanted", got, minRecall))
	}
	if got := t.ours.precision(); got < minPrecision {
		faults = append(faults, fmt.Errorf("precision is %.3f, at least %.2f is wanted", got, minPrecision))
	}
	if ours, theirs := t.ours.recall(), t.theirs.recall(); ours < theirs-maxBehind {
		faults = append(faults, fmt.Errorf("recall is %.3f, the peer's %.3f: at most %.2f behind is wanted", ours, theirs, maxBehind))
	}
	return errors.Join(faults...)
}

func (r row) cells() []string {
	share := func(f float64) string { return fmt.Sprintf("%.3f", f) }
	return []string{
		r.name, fmt.Sprint(r.pages), fmt.Sprint(r.ours.Headings), fmt.Sprint(r.ours.Found), share(r.ours.recall()), share(r.ours.precision()),
		share(r.theirs.recall()), share(r.theirs.precision()),
	}
}

func columns() []string {
	return []string{"file", "pages", "headings", "found", "recall", "precision", "peer's recall", "peer's precision"}
}

// table is the result for a terminal.
func (r result) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, cells := range r.all() {
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // into memory
	return b.String()
}

// all is every line of the table, its head first.
func (r result) all() [][]string {
	lines := [][]string{columns()}
	for _, one := range r.rows {
		lines = append(lines, one.cells())
	}
	return append(lines, r.total().cells())
}

// record writes the result into docs/accuracy.md: the table of files replaces the last one, the totals become the newest
// line of the history.
func (r result) record(ctx context.Context, root string) error {
	commit, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return fmt.Errorf("ask git for the commit: %w", err)
	}
	path := filepath.Join(root, "docs", "accuracy.md")
	page, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("record the result: %w", err)
	}
	t := r.total()
	head := append([]string{"date", "commit"}, columns()[1:]...)
	line := append([]string{time.Now().UTC().Format(time.DateOnly), strings.TrimSpace(string(commit))}, t.cells()[1:]...)
	page, err = between(page, "files", func([]byte) []byte { return markdown(r.all()) })
	if err == nil {
		page, err = between(page, "history", func(old []byte) []byte {
			_, body, _ := bytes.Cut(old, []byte("---|\n")) // what follows the head
			return append(markdown([][]string{head, line}), body...)
		})
	}
	if err != nil {
		return fmt.Errorf("record the result: %s: %w", path, err)
	}
	return os.WriteFile(path, page, 0o644)
}

// markdown is a table whose first line is the head.
func markdown(lines [][]string) []byte {
	var b bytes.Buffer
	for i, cells := range lines {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(cells)))
		}
	}
	return b.Bytes()
}

// between replaces what stands between the comments <!-- name --> and <!-- /name -->.
func between(page []byte, name string, with func(old []byte) []byte) ([]byte, error) {
	open, end := []byte("<!-- "+name+" -->\n"), []byte("<!-- /"+name+" -->")
	before, rest, found := bytes.Cut(page, open)
	old, after, ended := bytes.Cut(rest, end)
	if !found || !ended {
		return nil, fmt.Errorf("the comments around %s are missing", name)
	}
	return bytes.Join([][]byte{before, open, with(old), end, after}, nil), nil
}

// faultList keeps what was missed and what was found where nothing is, for whoever looks at the pages.
type faultList struct{ lines [][]byte }

func (f *faultList) of(whose, what string, d documents.Document) func(page int, r documents.Rect) {
	return func(page int, r documents.Rect) {
		// Strings, numbers and lists of these always marshal.
		line, _ := json.Marshal(map[string]any{"whose": whose, "what": what, "file": d.Path, "page": page, "rect": r})
		f.lines = append(f.lines, append(line, '\n'))
	}
}

func (f *faultList) write(path string) error {
	if err := os.WriteFile(path, bytes.Join(f.lines, nil), 0o644); err != nil {
		return fmt.Errorf("write what was missed: %w", err)
	}
	return nil
}
