// Package pipeline runs the product for the end-to-end tests: `leafcutter up` as a child process on a data directory of
// its own, with the binaries of build/bin and the embedded servers, and the clients that users have (the API's client,
// franz-go, S3, clickhouse-go). Nothing of the product runs inside the test's own process.
package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"leafcutter/ingest-api/client"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
)

// State is what `leafcutter status -o json` says of a running pipeline.
type State struct {
	PID       int    `json:"pid"`
	Data      string `json:"data"`
	API       string `json:"api"`
	Kafka     string `json:"kafka"`
	S3        string `json:"s3"`
	S3Bucket  string `json:"s3_bucket"`
	S3Key     string `json:"s3_access_key"`
	S3Secret  string `json:"s3_secret_key"`
	SQL       string `json:"clickhouse"`
	SQLUser   string `json:"clickhouse_writer"`
	SQLSecret string `json:"clickhouse_writer_password"`
	Model     string `json:"model"`
}

// Pipeline is a running pipeline.
type Pipeline struct {
	State
	Root    string // of the repository
	Client  *client.Client
	Objects *objectstore.Store

	bin     string       // folder of the binaries; "" for build/bin
	cluster kafka.Config // where it is not up's own broker; no brokers otherwise
	http    *http.Client
	cmd     *exec.Cmd
	said    *said
	done    chan struct{} // closed once up has ended
	err     error         // of its end, once done is closed
}

// startTime bounds the start of everything on a busy machine; stopTime is above the time that up itself allows.
const (
	startTime = 3 * time.Minute
	stopTime  = 90 * time.Second
)

// binDir names the folder of the binaries where it is not build/bin.
const binDir = "LEAFCUTTER_BIN_DIR"

// Start starts a pipeline on the data directory and returns once it is ready. env are variables for the stages.
func Start(data string, env ...string) (*Pipeline, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	p := &Pipeline{Root: root, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, said: &said{}, done: make(chan struct{})}
	p.bin = os.Getenv(binDir)
	for _, v := range env {
		if name, value, _ := strings.Cut(v, "="); name == binDir {
			p.bin = value
		}
	}
	// Port 0 is any free one. The usual ports would be taken by whichever of several pipelines looks first, and lost to it.
	p.cmd = exec.Command(p.Binary("leafcutter"), "up", "--any-port", "--data-dir", data,
		"--api-port", "0", "--kafka-port", "0", "--s3-port", "0", "--clickhouse-port", "0")
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	if err := p.checkBinaries(); err != nil {
		return nil, err
	}
	if err := startTied(p.cmd, p.done); err != nil {
		return nil, fmt.Errorf("start leafcutter up: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.connect(data); err != nil {
		_ = p.Kill() // it may have ended by itself, which err says then
		return nil, fmt.Errorf("%w\n%s\n%s", err, p.said, logsOf(data, nil))
	}
	return p, nil
}

// connect waits until the pipeline is up and makes the clients.
func (p *Pipeline) connect(data string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		var s State
		b, err := os.ReadFile(filepath.Join(data, "run", "state.json"))
		if err == nil && json.Unmarshal(b, &s) == nil && s.PID == p.cmd.Process.Pid { // not what a killed one left behind
			break
		}
		select {
		case <-p.done:
			return fmt.Errorf("leafcutter up ended: %w", errors.Join(p.err, errors.New("before it was ready")))
		case <-ctx.Done():
			return errors.New("leafcutter up was not ready in time")
		case <-time.After(50 * time.Millisecond):
		}
	}
	out, code, err := p.CLI(ctx, nil, "status", "--data-dir", data, "-o", "json")
	if err != nil || code != 0 {
		return fmt.Errorf("leafcutter status: exit status %d: %w\n%s", code, err, out)
	}
	if err := json.Unmarshal(out.Stdout, &p.State); err != nil {
		return fmt.Errorf("leafcutter status: %w", err)
	}
	return p.clients(ctx)
}

// clients makes the clients that a user of the pipeline has.
func (p *Pipeline) clients(ctx context.Context) (err error) {
	if p.Client, err = client.New(p.API, client.WithHTTPClient(p.http), client.WithPolling(100*time.Millisecond)); err != nil {
		return err
	}
	p.Objects, err = objectstore.Open(ctx, objectstore.Config{
		Endpoint: p.S3, Region: "us-east-1", AccessKeyID: p.S3Key, SecretAccessKey: p.S3Secret, Bucket: p.S3Bucket,
		ForcePathStyle: true, Checksum: "when-supported", Connections: 32,
	})
	return err
}

// KafkaConfig is how the pipeline's broker is reached.
func (p *Pipeline) KafkaConfig() kafka.Config {
	if len(p.cluster.Brokers) > 0 {
		return p.cluster
	}
	return kafka.Config{Brokers: []string{p.Kafka}, SessionTimeout: 6 * time.Second}
}

// Env is the pipeline's addresses and credentials as the stages' environment, for a stage that a test starts itself.
func (p *Pipeline) Env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"KAFKA_BROKERS=" + p.Kafka,
		"AWS_ENDPOINT_URL=" + p.S3, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=" + p.S3Key, "AWS_SECRET_ACCESS_KEY=" + p.S3Secret,
		"S3_BUCKET=" + p.S3Bucket, "S3_FORCE_PATH_STYLE=true",
		"CLICKHOUSE_ADDR=" + strings.TrimPrefix(p.SQL, "http://"), "CLICKHOUSE_DATABASE=leafcutter",
		"CLICKHOUSE_USER=" + p.SQLUser, "CLICKHOUSE_PASSWORD=" + p.SQLSecret,
	}
}

// HTTP is a client of the test's own, closed with the pipeline.
func (p *Pipeline) HTTP() *http.Client { return p.http }

// Stop ends the pipeline in order, as Ctrl-C does. Stopping what has ended is legal.
func (p *Pipeline) Stop() error {
	if err := p.end(syscall.SIGTERM); err != nil {
		return err
	}
	if p.err != nil {
		return fmt.Errorf("leafcutter up: %w\n%s", p.err, p.said)
	}
	return nil
}

// Kill ends the pipeline as kill -9 of up does; its children go with it.
func (p *Pipeline) Kill() error { return p.end(syscall.SIGKILL) }

func (p *Pipeline) end(how syscall.Signal) error {
	if p.Objects != nil {
		p.Objects.Close()
	}
	p.http.CloseIdleConnections()
	// With what the children started themselves: renderers must not outlive their stage either.
	outlive := map[int]string{}
	children, err := p.Children()
	for _, c := range children {
		family, familyErr := p.Family(c)
		err = errors.Join(err, familyErr)
		for _, pid := range family {
			outlive[pid] = c.Name
		}
	}
	if err != nil {
		return err
	}
	if err := p.cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal leafcutter up: %w", err)
	}
	deadline := time.After(stopTime)
	select {
	case <-p.done:
	case <-deadline:
		_ = p.cmd.Process.Kill() // whether it could be is seen by the next line
		<-p.done
		return fmt.Errorf("leafcutter up did not stop within %s\n%s", stopTime, p.said)
	}
	for pid, name := range outlive {
		for Alive(pid) {
			select {
			case <-deadline:
				return fmt.Errorf("process %d of %s outlives leafcutter up", pid, name)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

// Said is what up wrote to its terminal.
func (p *Pipeline) Said() string { return p.said.String() }

// Binary is the path of a binary of the product: in build/bin, or in the folder that LEAFCUTTER_BIN_DIR names, with lib
// and models beside that one.
func (p *Pipeline) Binary(name string) string {
	if p.bin != "" {
		return filepath.Join(p.bin, name)
	}
	return filepath.Join(p.Root, "build", "bin", name)
}

func (p *Pipeline) checkBinaries() error {
	for _, name := range []string{"leafcutter", "ingest-api", "page-splitter", "detector", "annotator", "recorder"} {
		if _, err := os.Stat(p.Binary(name)); err != nil {
			return fmt.Errorf("%w: run make build", err)
		}
	}
	return nil
}

// Output is what a command wrote.
type Output struct{ Stdout, Stderr []byte }

func (o Output) String() string { return string(o.Stdout) + string(o.Stderr) }

// CLI runs the command line and gives its exit status; err is that of starting it.
func (p *Pipeline) CLI(ctx context.Context, stdin io.Reader, args ...string) (Output, int, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, p.Binary("leafcutter"), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		err = nil
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return Output{out.Bytes(), errs.Bytes()}, code, err
}

// Root is the repository's folder, found from the test's.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no go.work above this folder")
}
