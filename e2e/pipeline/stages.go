package pipeline

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"leafcutter/pkg/kafka"
)

// Ready is nil while a child does its work: a server answers, a stage is a member of its groups.
func (p *Pipeline) Ready(ctx context.Context, name string) error {
	switch name {
	case "broker":
		return kafka.Probe(p.KafkaConfig())(ctx)
	case "objects":
		return p.answers(ctx, p.S3+"/livez")
	case "sql":
		return p.answers(ctx, p.SQL+"/ping")
	}
	addr, err := p.adminAddr(name)
	if err != nil {
		return err
	}
	return p.answers(ctx, "http://"+addr+"/readyz")
}

func (p *Pipeline) answers(ctx context.Context, at string) error {
	status, body, err := p.Get(ctx, at)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %.300s", at, status, body)
	}
	return err
}

func (p *Pipeline) adminAddr(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.Data, "run", name+".admin"))
	if err != nil {
		return "", fmt.Errorf("find the admin server of %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Metrics are the figures that a stage gives at /metrics, those of one name added up.
func (p *Pipeline) Metrics(ctx context.Context, name string) (map[string]float64, error) {
	addr, err := p.adminAddr(name)
	if err != nil {
		return nil, err
	}
	status, body, err := p.Get(ctx, "http://"+addr+"/metrics")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: status %d", name, status)
	}
	sums := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			continue // with a timestamp behind, which ours have not
		}
		metric, _, _ := strings.Cut(line[:at], "{")
		sums[metric] += value
	}
	return sums, nil
}

// Signal sends a signal to a child and gives its process.
func (p *Pipeline) Signal(name string, signal syscall.Signal) (int, error) {
	pid, err := p.PID(name)
	if err != nil {
		return 0, err
	}
	if pid == 0 {
		return 0, fmt.Errorf("%s is not running", name)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return 0, fmt.Errorf("signal %s: %w", name, err)
	}
	return pid, nil
}

// Stage is a stage that a test runs beside those of up.
type Stage struct {
	Name string

	cmd  *exec.Cmd
	dir  string
	said *said
	done chan struct{} // closed once it has ended
	err  error         // of its end, once done is closed
}

// StartStage starts one more process of a stage on the pipeline's servers, as its environment says besides. It lives in a
// folder of its own below the data directory.
func (p *Pipeline) StartStage(name string, env ...string) (*Stage, error) {
	dir, err := os.MkdirTemp(p.Data, name+"-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for %s: %w", name, err)
	}
	s := &Stage{Name: name, cmd: exec.Command(p.Binary(name)), dir: dir, said: &said{}, done: make(chan struct{})}
	s.cmd.Dir = dir
	s.cmd.Env = append(append(p.Env(), "LEAFCUTTER_ADMIN_ADDR=127.0.0.1:0", "LEAFCUTTER_CACHE_DIR="+filepath.Join(dir, "cache"),
		"LEAFCUTTER_MODEL="+p.Model, "LEAFCUTTER_LOG_FORMAT=json", "KAFKA_SESSION_TIMEOUT=6s"), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	if err := startTied(s.cmd, s.done); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// PID is the stage's process.
func (s *Stage) PID() int { return s.cmd.Process.Pid }

// Said is what the stage wrote.
func (s *Stage) Said() string { return s.said.String() }

// Stop ends the stage in order; one that has ended with a fault is an error.
func (s *Stage) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.Name, err)
	}
	select {
	case <-s.done:
	case <-time.After(stopTime):
		_ = s.cmd.Process.Kill() // whether it could be is seen by the next line
		<-s.done
		return fmt.Errorf("%s did not stop within %s\n%s", s.Name, stopTime, s.said)
	}
	if s.err != nil {
		return fmt.Errorf("%s: %w\n%s", s.Name, s.err, s.said)
	}
	return os.RemoveAll(s.dir)
}

// Kill ends the stage as kill -9 does.
func (s *Stage) Kill() error {
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", s.Name, err)
	}
	<-s.done
	return os.RemoveAll(s.dir)
}
