// Package report keeps measured results in pages of docs/: a table between two comments of the page, and what it was
// measured with. The commands accuracy and compare call it.
package report

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
)

// Table is lines of cells; the first line is the head.
type Table [][]string

// Text is the table for a terminal.
func (t Table) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, cells := range t {
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // into memory
	return b.String()
}

// Markdown is the table for a page.
func (t Table) Markdown() []byte {
	var b bytes.Buffer
	for i, cells := range t {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(cells)))
		}
	}
	return b.Bytes()
}

// Page is a page of docs/ that results are written into.
type Page struct {
	path string
	text []byte
}

// Open reads docs/name. root is the repository's folder.
func Open(root, name string) (*Page, error) {
	path := filepath.Join(root, "docs", name)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open a page of results: %w", err)
	}
	return &Page{path, text}, nil
}

// Replace puts text between the comments <!-- part --> and <!-- /part -->.
func (p *Page) Replace(part string, text []byte) error {
	return p.change(part, func([]byte) []byte { return text })
}

// Prepend puts the line of t, which has a head and one line, before those of the table between the part's comments.
func (p *Page) Prepend(part string, t Table) error {
	return p.change(part, func(old []byte) []byte {
		_, lines, _ := bytes.Cut(old, []byte("---|\n")) // what follows the head
		return append(t.Markdown(), lines...)
	})
}

// Save writes the page.
func (p *Page) Save() error { return os.WriteFile(p.path, p.text, 0o644) }

func (p *Page) change(part string, with func(old []byte) []byte) error {
	open, end := []byte("<!-- "+part+" -->\n"), []byte("<!-- /"+part+" -->")
	before, rest, found := bytes.Cut(p.text, open)
	old, after, ended := bytes.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s: the comments around %s are missing", p.path, part)
	}
	p.text = bytes.Join([][]byte{before, open, with(old), end, after}, nil)
	return nil
}

// Commit is the one that is checked out, with -dirty after it where files differ from it.
func Commit(ctx context.Context, root string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "", fmt.Errorf("ask git for the commit: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Hardware is processor, number of processors and memory, as far as the system tells.
func Hardware() string {
	what := []string{fmt.Sprintf("%d × %s", runtime.NumCPU(), runtime.GOARCH)}
	if name := field("/proc/cpuinfo", "model name"); name != "" {
		what[0] = fmt.Sprintf("%d × %s", runtime.NumCPU(), name)
	}
	var kib int64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib); err == nil {
		what = append(what, fmt.Sprintf("%d GiB", (kib+1<<19)>>20))
	}
	return strings.Join(append(what, runtime.GOOS), ", ")
}

// field is the value of the first line "name: value" of a file, "" where there is none.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Load is the mean number of running processes over the last minute, "unknown" where the system does not tell.
func Load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(text), " ")
	return load
}
