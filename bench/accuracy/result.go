package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"leafcutter/bench/documents"
	"leafcutter/bench/report"
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

// table is a line for each document, and their total.
func (r result) table() report.Table {
	lines := report.Table{columns()}
	for _, one := range r.rows {
		lines = append(lines, one.cells())
	}
	return append(lines, r.total().cells())
}

// record writes the result into docs/accuracy.md: the table of files replaces the last one, the totals become the newest
// line of the history.
func (r result) record(ctx context.Context, root string) error {
	commit, err := report.Commit(ctx, root)
	if err != nil {
		return err
	}
	page, err := report.Open(root, "accuracy.md")
	if err != nil {
		return err
	}
	head := append([]string{"date", "commit"}, columns()[1:]...)
	line := append([]string{time.Now().UTC().Format(time.DateOnly), commit}, r.total().cells()[1:]...)
	if err := errors.Join(page.Replace("files", r.table().Markdown()), page.Prepend("history", report.Table{head, line})); err != nil {
		return err
	}
	return page.Save()
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
