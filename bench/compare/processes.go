package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"leafcutter/e2e/pipeline"
)

// process is one of this machine's.
type process struct {
	parent int
	cpu    time.Duration // its own and that of children that have ended
}

// processes lists this machine's from /proc.
func processes() (map[int]process, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("processor time is read from /proc, which is not there: measure on Linux")
	}
	table := map[int]process{}
	for _, path := range paths {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		_, after, _ := bytes.Cut(stat, []byte(") ")) // the name in brackets may hold blanks
		fields := strings.Fields(string(after))
		if len(fields) < 15 {
			return nil, fmt.Errorf("read %s: %d fields", path, len(fields))
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		var ticks int64
		for _, f := range fields[11:15] { // utime, stime, cutime, cstime
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", path, err)
			}
			ticks += n
		}
		table[pid] = process{parent, time.Duration(ticks) * time.Second / 100} // Linux counts a hundred a second towards programs
	}
	return table, nil
}

// family is the child of up that a process belongs to, "" where it belongs to none.
func family(table map[int]process, children map[int]string, pid int) string {
	for range 8 { // deeper than any
		if name := children[pid]; name != "" {
			return name
		}
		pid = table[pid].parent
	}
	return ""
}

func childNames(p *pipeline.Pipeline) (map[int]string, error) {
	all, err := p.Children()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, c := range all {
		names[c.PID] = c.Name
	}
	return names, nil
}

// processorTimes is the processor time of each of the pipeline's processes since it started, that of its own children
// included.
func processorTimes(p *pipeline.Pipeline) (map[string]time.Duration, error) {
	names, err := childNames(p)
	if err != nil {
		return nil, err
	}
	table, err := processes()
	if err != nil {
		return nil, err
	}
	spent := map[string]time.Duration{}
	for pid, one := range table {
		if name := family(table, names, pid); name != "" {
			spent[name] += one.cpu
		}
	}
	return spent, nil
}

// memory is the peak of a process's resident memory in bytes.
type memory struct {
	name string
	peak int64
}

// memories are those of the pipeline's processes, and the largest of those that the page-splitter renders in.
func memories(p *pipeline.Pipeline) ([]memory, error) {
	names, err := childNames(p)
	if err != nil {
		return nil, err
	}
	table, err := processes()
	if err != nil {
		return nil, err
	}
	peaks := map[string]int64{}
	for pid := range table {
		name := family(table, names, pid)
		if name == "" {
			continue
		}
		if names[pid] == "" {
			name = renderer
		}
		_, peak, err := pipeline.Memory(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		peaks[name] = max(peaks[name], peak)
	}
	var all []memory
	for _, name := range append(pipeline.Names(), renderer) {
		if peaks[name] > 0 {
			all = append(all, memory{name, peaks[name]})
		}
	}
	return all, nil
}

// renderer is what the page-splitter's children are called here.
const renderer = "one that renders"
