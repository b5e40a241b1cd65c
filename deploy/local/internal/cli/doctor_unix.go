//go:build !windows

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"leafcutter/deploy/local/internal/up"
)

// leastSpace is what a pipeline needs to start and to take a few documents, in bytes.
const leastSpace = 2 << 30

// machine looks at what up needs of this machine.
func (t *terminal) machine(data string) []finding {
	findings := []finding{errorOr("version", fmt.Sprintf("%s on %s/%s, %d processors", t.version, runtime.GOOS, runtime.GOARCH, runtime.NumCPU()))}
	var err error
	if data == "" {
		if data, err = up.DefaultData(t.getenv); err != nil {
			return append(findings, errorOr("data", "", err))
		}
	}
	executable, err := os.Executable()
	if err != nil {
		return append(findings, errorOr("binaries", "", err))
	}
	layout, err := up.FindLayout(executable, data, t.getenv)
	findings = append(findings, errorOr("binaries", "all in "+layout.Bin, err))
	findings = append(findings, space(data))
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		f := errorOr("open files", fmt.Sprint(files.Cur))
		if files.Cur < 1024 {
			f.err = fmt.Errorf("%d may be open: raise it to 1024 or more with ulimit -n", files.Cur)
		}
		findings = append(findings, f)
	}
	if _, err := up.ReadState(data); err != nil {
		findings = append(findings, errorOr("ports", "free", up.DefaultPorts().Free()))
	} else {
		findings = append(findings, errorOr("running", "on "+data))
	}
	return findings
}

// space looks at the file system that holds, or would hold, the data directory.
func space(data string) finding {
	dir := data
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return errorOr("data", "", fmt.Errorf("%s: %w", dir, err))
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < leastSpace {
		return errorOr("data", "", fmt.Errorf("%s has %d MB free: make room, or give another --data-dir", dir, free>>20))
	}
	return errorOr("data", fmt.Sprintf("%s, %d GB free", data, free>>30))
}
