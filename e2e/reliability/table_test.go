package reliability

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"leafcutter/e2e/pipeline"
)

// result is a row of the table.
type result struct {
	fault    string
	times    int
	recovery []time.Duration // of each time, where there is one
	verdict
	note string
}

// table keeps the results of a run.
type table struct {
	mu   sync.Mutex
	rows []result
}

func (t *table) add(r result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

const heading = `| fault | times | pages | lost | doubled | condemned though healthy | changed | recovery, s: median, most | what else | commit, seed |
|---|---|---|---|---|---|---|---|---|---|
`

func (r result) cells() string {
	recovery := ""
	if len(r.recovery) > 0 {
		sorted := slices.Sorted(slices.Values(r.recovery))
		recovery = fmt.Sprintf("%.1f, %.1f", sorted[len(sorted)/2].Seconds(), sorted[len(sorted)-1].Seconds())
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d | %s | %s |", r.fault, r.times, r.pages, r.lost, r.doubled, r.condemned, r.changed, recovery, r.note)
}

func (t *table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	b.WriteString(heading)
	for _, r := range t.rows {
		b.WriteString(r.cells() + " |\n")
	}
	return b.String()
}

// Around the table in docs/reliability.md.
const begins, ends = "<!-- table -->\n", "<!-- end -->\n"

// record writes the rows into docs/reliability.md, each in the place of an earlier one of the same fault.
func (t *table) record(seed uint64) error {
	root, err := pipeline.Root()
	if err != nil {
		return err
	}
	said, err := exec.Command(binary(root, "recorder"), "-version").Output()
	if err != nil {
		return fmt.Errorf("ask for the version of what was tested: %w", err)
	}
	_, commit, _ := strings.Cut(strings.TrimSpace(string(said)), " ")
	path := filepath.Join(root, "docs", "reliability.md")
	page, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	before, rest, found := bytes.Cut(page, []byte(begins))
	old, after, closed := bytes.Cut(rest, []byte(ends))
	if !found || !closed {
		return errors.New("docs/reliability.md has no place for the table")
	}
	var lines []string
	for line := range strings.Lines(strings.TrimPrefix(string(old), heading)) {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| fault |") {
			lines = append(lines, line)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rows {
		line := fmt.Sprintf("%s %s, %d, %s |\n", r.cells(), commit, seed, time.Now().UTC().Format(time.DateOnly))
		if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "| "+r.fault+" |") }); i >= 0 {
			lines[i] = line
		} else {
			lines = append(lines, line)
		}
	}
	written := string(before) + begins + heading + strings.Join(lines, "") + ends + string(after)
	return os.WriteFile(path, []byte(written), 0o644)
}

// binary is the path of a binary of the product, as package pipeline finds it.
func binary(root, name string) string {
	return filepath.Join(cmp.Or(os.Getenv("LEAFCUTTER_BIN_DIR"), filepath.Join(root, "build", "bin")), name)
}
