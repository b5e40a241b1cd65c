//go:build !windows

package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"leafcutter/deploy/local/internal/up"
	"leafcutter/pkg/config"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// modelsAt is where models lie, "" for the folder beside the binaries, and the environment in which to look there: of S3,
// that of the deployment or of the pipeline that runs here.
func (t *terminal) modelsAt(p modelPlace) (location string, environ []string, err error) {
	location = p.location
	if location == "" && p.data == "" {
		location = t.getenv("LEAFCUTTER_MODELS_DIR")
	}
	if location == "" {
		data := p.data
		if data == "" {
			data, _ = up.DefaultData(t.getenv) // where there is no home, nothing runs below it
		}
		s, err := up.ReadState(data)
		switch {
		case err == nil:
			location = s.ModelsFrom
		case p.data != "":
			return "", nil, fmt.Errorf("%s: %w", p.data, err)
		}
	}
	if !strings.HasPrefix(location, "s3://") {
		return location, t.environ, nil
	}
	servers, err := t.clusterEnviron(p.data, s3Variable)
	if err != nil {
		return "", nil, err
	}
	environ = slices.Clone(servers)
	// What a program needs besides what a pipeline's environment has.
	for _, name := range []string{"HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME"} {
		if v := t.getenv(name); v != "" {
			environ = append(environ, name+"="+v)
		}
	}
	return location, environ, nil
}

// modelTopics makes the topics of a model, if a pipeline on this machine takes its models from the location: what names a
// model whose topics are not there waits for them. In a deployment that is for whoever may make topics.
func (t *terminal) modelTopics(ctx context.Context, data, location, name string) (taken bool, err error) {
	if data == "" {
		if data, err = up.DefaultData(t.getenv); err != nil {
			return false, nil // there is no home, and nothing runs below it
		}
	}
	s, err := up.ReadState(data)
	if err != nil || s.ModelsFrom != location {
		return false, nil // none runs there that would want them
	}
	var cfg kafka.Config
	if _, err := config.Load("leafcutter", nil, pipelineEnviron(t.environ, s), &cfg); err != nil {
		return true, err
	}
	ctx, cancel := context.WithTimeout(ctx, modelPatience)
	defer cancel()
	_, err = kafka.Apply(ctx, cfg, schemas.Topics(name), up.Partitions)
	return true, err
}

// tool runs one of the binaries that are deployed, found beside this one, to answer a question. What it complains of is
// the error.
func (t *terminal) tool(ctx context.Context, out io.Writer, environ []string, name string, args ...string) error {
	bin := t.getenv("LEAFCUTTER_BIN_DIR")
	if bin == "" {
		executable, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		bin = filepath.Dir(executable)
	}
	path := filepath.Join(bin, name)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("model-tool-missing: there is no %s: unpack the whole tarball, run make build, or set LEAFCUTTER_BIN_DIR to where the binaries are", path)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var complaints bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = environ, out, &complaints
	// It removes what it has made when it is asked to end, and else is ended.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	said := errors.New(cmp.Or(strings.TrimSpace(complaints.String()), err.Error()))
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == exitUsage {
		return usageError{said}
	}
	return said
}
