package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// said keeps what a process wrote.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Watch prints, where the test has failed by its end, what every child has logged since now.
func (p *Pipeline) Watch(t testing.TB) {
	t.Helper()
	marks := marksOf(p.Data)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the processes logged during the test:\n%s", logsOf(p.Data, marks))
		}
	})
}

func marksOf(data string) map[string]int64 {
	marks := map[string]int64{}
	for _, path := range logFiles(data) {
		if info, err := os.Stat(path); err == nil {
			marks[path] = info.Size()
		}
	}
	return marks
}

func logFiles(data string) []string {
	files, err := filepath.Glob(filepath.Join(data, "logs", "*.log"))
	if err != nil {
		return nil // the pattern is good
	}
	slices.Sort(files)
	return files
}

// kept is how much of each child's log is shown, from its end.
const kept = 4 << 10

// logsOf is the end of each child's log after its mark.
func logsOf(data string, marks map[string]int64) string {
	var b strings.Builder
	for _, path := range logFiles(data) {
		text, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintln(&b, err)
			continue
		}
		text = text[min(marks[path], int64(len(text))):]
		text = text[max(0, len(text)-kept):]
		if len(text) > 0 {
			fmt.Fprintf(&b, "--- %s\n%s\n", filepath.Base(path), bytes.TrimSpace(text))
		}
	}
	return b.String()
}
