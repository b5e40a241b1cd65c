package realservers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"leafcutter/e2e/pipeline"
	"leafcutter/pkg/kafka"
)

// sessionTimeout is the shortest that Kafka's brokers allow by default: a dead member's partitions are free after it.
const sessionTimeout = 6 * time.Second

// Stages are the binaries, the recorder first.
func Stages() []string {
	return []string{"recorder", "annotator", "detector", "page-splitter", "ingest-api"}
}

// StackOptions say on what a stack runs.
type StackOptions struct {
	Dir     string // data of SQL and the stages, and their logs
	Kafka   kafka.Config
	Objects *Objects
	// Environ is what one stage is given besides, and instead: where it meets a proxy rather than the server itself.
	Environ func(stage string) []string
	// BeforeStages is called once the SQL server is there, with its URL. Nil for nothing.
	BeforeStages func(sql string) error
	// Partitions is how many each work topic has; 4 where 0.
	Partitions int
}

// Stack is the product on real servers: the five binaries and the embedded SQL server, each a process of the test's.
// The pipeline in it has the clients of a user; it goes straight to the servers.
type Stack struct {
	*pipeline.Pipeline
	SQLServer *Process
	Stage     map[string]*Process

	o StackOptions
}

// NewStack makes bucket, topics and tables by `leafcutter init`, starts the stages, and returns once all are ready. When
// it fails it has stopped what it started.
func NewStack(ctx context.Context, o StackOptions) (_ *Stack, err error) {
	ports, err := Ports(2)
	if err != nil {
		return nil, err
	}
	attached, err := pipeline.Attach(ctx, pipeline.State{
		Data: o.Dir, API: "http://" + local(ports[0]), Kafka: strings.Join(o.Kafka.Brokers, ","),
		S3: o.Objects.URL, S3Bucket: "leafcutter", S3Key: o.Objects.AccessKey, S3Secret: o.Objects.SecretKey,
		SQL: "http://" + local(ports[1]), SQLUser: "leafcutter", SQLSecret: "cut-and-carried", Model: "layout_cdla",
	}, o.Kafka)
	if err != nil {
		return nil, err
	}
	s := &Stack{Pipeline: attached, o: o, Stage: map[string]*Process{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	for _, folder := range []string{"run", "spool"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, folder), 0o755); err != nil {
			return nil, fmt.Errorf("make the data directory: %w", err)
		}
	}
	s.SQLServer = newProcess("sql", s.log("sql"), func() *exec.Cmd {
		cmd := exec.Command(s.Binary("leafcutter"), "service", "sql", "--addr", local(ports[1]), "--dir", filepath.Join(o.Dir, "clickhouse"),
			"--library", filepath.Join(s.Root, "build", "lib", "libchdb.so"))
		cmd.Env = s.environ("sql")
		return cmd
	})
	if err := s.SQLServer.Start(); err != nil {
		return nil, err
	}
	if err := s.SQLServer.await(ctx, func(ctx context.Context) error { return get(ctx, s.SQL+"/ping") }); err != nil {
		return nil, err
	}
	if o.BeforeStages != nil {
		if err := o.BeforeStages(s.SQL); err != nil {
			return nil, err
		}
	}
	partitions := o.Partitions
	if partitions == 0 {
		partitions = 4
	}
	if _, err := s.Command(ctx, "init", "--partitions", strconv.Itoa(partitions)); err != nil {
		return nil, err
	}
	for _, name := range Stages() {
		s.Stage[name] = newProcess(name, s.log(name), func() *exec.Cmd {
			cmd := exec.Command(s.Binary(name))
			cmd.Env, cmd.Dir = s.environ(name), o.Dir
			return cmd
		})
	}
	for _, name := range Stages() {
		if err := s.StartStage(name); err != nil {
			return nil, err
		}
	}
	if err := s.AwaitReady(ctx, Stages()...); err != nil {
		return nil, err
	}
	return s, nil
}

// Command runs the command line as an operator of the deployment does, and gives what it said.
func (s *Stack) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Binary("leafcutter"), args...)
	cmd.Env = s.environ("leafcutter")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("leafcutter %s: %w\n%s", args[0], err, out)
	}
	return string(out), nil
}

// StartStage starts a stage that does not run.
func (s *Stack) StartStage(name string) error {
	// An earlier process's, if any: it names a port that is another's now.
	if err := os.Remove(s.admin(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return s.Stage[name].Start()
}

// AwaitReady waits until each stage named says that it is ready.
func (s *Stack) AwaitReady(ctx context.Context, stages ...string) error {
	for _, name := range stages {
		if err := s.Stage[name].await(ctx, func(ctx context.Context) error {
			address, err := os.ReadFile(s.admin(name))
			if err != nil {
				return err
			}
			return get(ctx, "http://"+strings.TrimSpace(string(address))+"/readyz")
		}); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends all processes in order: those that take documents in first, the recorder and SQL last.
func (s *Stack) Stop() error {
	s.Detach()
	var faults []error
	for i := range Stages() {
		if p := s.Stage[Stages()[len(Stages())-1-i]]; p != nil {
			faults = append(faults, p.Stop())
		}
	}
	if s.SQLServer != nil {
		faults = append(faults, s.SQLServer.Stop())
	}
	return errors.Join(faults...)
}

func (s *Stack) log(name string) string { return filepath.Join(s.o.Dir, "logs", name+".log") }

// admin is where pipeline.Pipeline looks for a stage's address too.
func (s *Stack) admin(name string) string { return filepath.Join(s.o.Dir, "run", name+".admin") }

// environ is what an operator would write into a stage's environment. The last word on a name wins.
func (s *Stack) environ(name string) []string {
	c := s.o.Kafka
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(),
		"KAFKA_BROKERS=" + strings.Join(c.Brokers, ","), "KAFKA_SESSION_TIMEOUT=" + c.SessionTimeout.String(),
		"KAFKA_TLS_CA=" + c.TLSCA, "KAFKA_TLS_CERT=" + c.TLSCert, "KAFKA_TLS_KEY=" + c.TLSKey,
		"KAFKA_SASL_MECHANISM=" + c.SASLMechanism, "KAFKA_SASL_USERNAME=" + c.SASLUser, "KAFKA_SASL_PASSWORD=" + c.SASLPassword,
		"AWS_ENDPOINT_URL=" + s.S3, "AWS_ACCESS_KEY_ID=" + s.S3Key, "AWS_SECRET_ACCESS_KEY=" + s.S3Secret,
		"S3_BUCKET=" + s.S3Bucket, "S3_FORCE_PATH_STYLE=true",
		"CLICKHOUSE_ADDR=" + s.SQL, "CLICKHOUSE_USER=" + s.SQLUser, "CLICKHOUSE_PASSWORD=" + s.SQLSecret,
		"LEAFCUTTER_API_ADDR=" + strings.TrimPrefix(s.API, "http://"),
		"LEAFCUTTER_ADMIN_ADDR=127.0.0.1:0", "LEAFCUTTER_ADMIN_FILE=" + s.admin(name),
		"LEAFCUTTER_CACHE_DIR=" + filepath.Join(s.o.Dir, "cache", name), "LEAFCUTTER_SPOOL_DIR=" + filepath.Join(s.o.Dir, "spool"),
		"LEAFCUTTER_LOG_FORMAT=json", "LEAFCUTTER_DEFAULT_MODEL=" + s.Model, "LEAFCUTTER_MODEL=" + s.Model, "LEAFCUTTER_OTLP_ADDR=",
		"OTEL_TRACES_EXPORTER=none",
	}
	if s.o.Environ != nil {
		env = append(env, s.o.Environ(name)...)
	}
	return env
}

func get(ctx context.Context, at string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", at, err)
	}
	// Not kept: the address may be another process's next time.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", at, response.Status)
	}
	return nil
}
