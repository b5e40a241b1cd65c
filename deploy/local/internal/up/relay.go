package up

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
)

// relay passes a child's log on to this process's: lines of JSON at their level, under the child's name. Anything else
// is kept in the child's log file alone.
type relay struct {
	name string
	log  *slog.Logger

	mu   sync.Mutex
	rest []byte // of a line that has not ended yet
}

// maxLine bounds what is kept of a line without an end.
const maxLine = 64 << 10

// Write never fails: a child must not die of what its log says.
func (r *relay) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rest = append(r.rest, b...)
	for {
		line, rest, ended := bytes.Cut(r.rest, []byte("\n"))
		if !ended {
			break
		}
		r.pass(line)
		r.rest = rest
	}
	if len(r.rest) > maxLine {
		r.rest = nil
	}
	r.rest = slices.Clone(r.rest)
	return len(b), nil
}

func (r *relay) pass(line []byte) {
	var fields map[string]any
	if json.Unmarshal(line, &fields) != nil {
		return
	}
	var level slog.Level
	text, _ := fields[slog.LevelKey].(string)
	if level.UnmarshalText([]byte(text)) != nil || !r.log.Enabled(context.Background(), level) {
		return
	}
	message, _ := fields[slog.MessageKey].(string)
	var names []string
	for name := range fields {
		if name != slog.TimeKey && name != slog.LevelKey && name != slog.MessageKey && name != "service" && name != "version" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	attrs := []any{"child", r.name}
	for _, name := range names {
		attrs = append(attrs, name, fields[name])
	}
	r.log.Log(context.Background(), level, message, attrs...)
}

// tail is the last lines of a file, or why it cannot be read.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
