package pipeline

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Names are those of the processes that up runs: the servers, then the stages in the order of the flow.
func Names() []string {
	return []string{"broker", "objects", "sql", "ingest-api", "page-splitter", "detector", "annotator", "recorder"}
}

// Child is a process that up runs.
type Child struct {
	Name string
	PID  int
}

// Children are the processes whose parent is up.
func (p *Pipeline) Children() ([]Child, error) {
	table, err := processes()
	if err != nil {
		return nil, err
	}
	var all []Child
	for _, one := range table {
		if one.parent != p.cmd.Process.Pid || len(one.args) == 0 {
			continue
		}
		name := filepath.Base(one.args[0])
		if name == "leafcutter" && len(one.args) > 2 && one.args[1] == "service" {
			name = one.args[2]
		}
		all = append(all, Child{name, one.pid})
	}
	return all, nil
}

// Family is a child and the processes that it started itself: a page-splitter renders in such.
func (p *Pipeline) Family(c Child) ([]int, error) {
	table, err := processes()
	if err != nil {
		return nil, err
	}
	family := []int{c.PID}
	for _, one := range table {
		if one.parent == c.PID {
			family = append(family, one.pid)
		}
	}
	return family, nil
}

// PID is the process of one child, 0 while there is none.
func (p *Pipeline) PID(name string) (int, error) {
	all, err := p.Children()
	if err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(all, func(c Child) bool { return c.Name == name }); i >= 0 {
		return all[i].PID, nil
	}
	return 0, nil
}

// KillChild ends a child as kill -9 does and gives the process that it was.
func (p *Pipeline) KillChild(name string) (int, error) {
	pid, err := p.PID(name)
	if err != nil {
		return 0, err
	}
	if pid == 0 {
		return 0, fmt.Errorf("%s is not running", name)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, fmt.Errorf("kill %s: %w", name, err)
	}
	return pid, nil
}

// AwaitChild waits until a child runs as another process than before.
func (p *Pipeline) AwaitChild(ctx context.Context, name string, before int) error {
	for {
		pid, err := p.PID(name)
		if err != nil {
			return err
		}
		if pid != 0 && pid != before {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not back: %w", name, ctx.Err())
		case <-p.done:
			return errors.New("leafcutter up has ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Alive reports whether a process exists and has not ended.
func Alive(pid int) bool {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		_, after, _ := bytes.Cut(b, []byte(") "))
		return !bytes.HasPrefix(after, []byte("Z")) // ended, and not yet waited for by whoever inherited it
	}
	return syscall.Kill(pid, 0) == nil
}

type listed struct {
	pid, parent int
	args        []string
}

// processes lists this machine's processes: from /proc, or by ps where there is none.
func processes() ([]listed, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(entries) == 0 {
		return processesByPS()
	}
	var all []listed
	for _, path := range entries {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		cmdline, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil {
			continue
		}
		_, after, _ := bytes.Cut(stat, []byte(") ")) // the name in brackets may hold blanks
		fields := strings.Fields(string(after))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || len(fields) < 2 || fields[0] == "Z" {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		all = append(all, listed{pid, parent, strings.FieldsFunc(string(cmdline), func(r rune) bool { return r == 0 })})
	}
	return all, nil
}

func processesByPS() ([]listed, error) {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,command=").Output()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []listed
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, fmt.Errorf("read the list of processes: %w", err)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("read the list of processes: %w", err)
		}
		all = append(all, listed{pid, parent, fields[2:]})
	}
	return all, nil
}

// Memory is a process's resident memory and its peak in bytes, where the system tells (Linux does).
func Memory(pid int) (resident, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read the memory of a process: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue // not one of those in kB
		}
		switch name {
		case "VmRSS":
			resident = kib << 10
		case "VmHWM":
			peak = kib << 10
		}
	}
	return resident, peak, nil
}

// CPU is the processor time that a process has used (Linux tells), in seconds.
func CPU(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the processor time of a process: %w", err)
	}
	_, after, _ := bytes.Cut(b, []byte(") "))
	fields := strings.Fields(string(after)) // from the third on: state is field 3, utime 14, stime 15
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the processor time of a process: %q", b)
	}
	sum := 0.0
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, fmt.Errorf("read the processor time of a process: %w", err)
		}
		sum += ticks / 100 // USER_HZ
	}
	return sum, nil
}
