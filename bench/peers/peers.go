// Package peers runs what Leafcutter is measured against: programs in Python as a user would write them today. Their
// packages are installed by pip into build/bench, once, at the versions of requirements.txt. The commands accuracy and
// compare call it.
package peers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Python is an interpreter that finds the pinned packages.
type Python struct {
	root    string // of the repository
	program string
	env     []string
}

// Install finds the interpreter and installs the packages where they are not there yet. It asks for no more than make
// deps does: Python with pip, and no virtual environment. progress is told before a download.
func Install(ctx context.Context, root string, progress io.Writer) (Python, error) {
	none := Python{}
	program, version, err := interpreter(ctx)
	if err != nil {
		return none, err
	}
	list := filepath.Join(root, "bench", "peers", "requirements.txt")
	wanted, err := os.ReadFile(list)
	if err != nil {
		return none, fmt.Errorf("read what the peers need: %w", err)
	}
	// Another list or another interpreter gets a folder of its own: pip does not replace what lies in one.
	sum := sha256.Sum256(append(wanted, version...))
	dir := filepath.Join(root, "build", "bench", "python-"+hex.EncodeToString(sum[:6]))
	p := Python{root: root, program: program, env: append(os.Environ(), "PYTHONPATH="+dir, "PYTHONDONTWRITEBYTECODE=1")}
	if _, err := os.Stat(dir); err == nil {
		return p, nil
	}
	fmt.Fprintln(progress, "installing the peers' packages by pip, about 100 MB, once …")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return none, fmt.Errorf("install the peers' packages: %w", err)
	}
	staged, err := os.MkdirTemp(filepath.Dir(dir), "unfinished-")
	if err != nil {
		return none, fmt.Errorf("install the peers' packages: %w", err)
	}
	defer os.RemoveAll(staged) // under its final name by then, or of no use
	pip := exec.CommandContext(ctx, program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--only-binary=:all:", "--target", staged, "--requirement", list)
	if out, err := pip.CombinedOutput(); err != nil {
		return none, fmt.Errorf("install the peers' packages (Python 3.11 or newer is needed): %w\n%s", err, out)
	}
	if err := os.Rename(staged, dir); err != nil {
		return none, fmt.Errorf("install the peers' packages: %w", err)
	}
	return p, nil
}

func interpreter(ctx context.Context) (program string, version []byte, err error) {
	for _, program := range []string{"python3", "python"} {
		version, err = exec.CommandContext(ctx, program, "-c", "import sys, sysconfig; print(sys.version, sysconfig.get_platform())").Output()
		if err == nil {
			return program, version, nil
		}
	}
	return "", nil, fmt.Errorf("find Python 3: %w", err)
}

// Run runs a script of the repository and gives what it printed.
func (p Python) Run(ctx context.Context, script string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.program, append([]string{filepath.Join(p.root, script)}, args...)...)
	cmd.Env = p.env
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w\n%s", script, err, complaint.Bytes())
	}
	return out, nil
}

// Selection is some pages of a file.
type Selection struct {
	Path  string
	Pages []int // from 1
}

// List is the pages between commas, as the API and the peers take them.
func (s Selection) List() string {
	var numbers []string
	for _, n := range s.Pages {
		numbers = append(numbers, strconv.Itoa(n))
	}
	return strings.Join(numbers, ",")
}

// Report is what one process of the peer says of its work. Its start is not in Seconds.
type Report struct {
	Pages   int                `json:"pages"`
	Boxes   int                `json:"boxes"`
	Seconds float64            `json:"seconds"`
	CPU     float64            `json:"cpu_seconds"` // of all threads
	Peak    int64              `json:"peak_bytes"`  // resident memory at most
	Parts   map[string]float64 `json:"parts"`       // seconds of render, detect and write
}

// Box is a box that the peer found. Rect is [x0,y0,x1,y1] in pixels at 108 dpi, origin top left.
type Box struct {
	File  string     `json:"file"`
	Page  int        `json:"page"` // from 1
	Class string     `json:"class"`
	Score float64    `json:"score"`
	Rect  [4]float64 `json:"rect"`
}

// Layout runs layout.py in one process and leaves its files in out.
func (p Python) Layout(ctx context.Context, out string, threads int, work []Selection) (Report, error) {
	args := []string{"--out", out, "--threads", strconv.Itoa(threads)}
	for _, s := range work {
		args = append(args, s.Path+"#"+s.List())
	}
	var r Report
	said, err := p.Run(ctx, filepath.Join("bench", "peers", "layout.py"), args...)
	if err != nil {
		return r, err
	}
	lines := bytes.Split(bytes.TrimSpace(said), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &r); err != nil {
		return r, fmt.Errorf("read the report of layout.py: %w", err)
	}
	return r, nil
}

// Boxes reads what Layout found, score 0.4 or more.
func Boxes(out string) ([]Box, error) {
	f, err := os.Open(filepath.Join(out, "boxes.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("read the peer's boxes: %w", err)
	}
	defer f.Close()
	var boxes []Box
	for d := json.NewDecoder(bufio.NewReader(f)); ; {
		var b Box
		err := d.Decode(&b)
		if errors.Is(err, io.EOF) {
			return boxes, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the peer's boxes: %w", err)
		}
		boxes = append(boxes, b)
	}
}
