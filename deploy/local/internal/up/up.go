package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"leafcutter/deploy/local/internal/datadir"
	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
	migrations "leafcutter/schemas/clickhouse"
)

// Options say how to run.
type Options struct {
	Layout     Layout
	Executable string // this program, which is also the three embedded servers
	Ports      Ports
	AnyPort    bool
	Model      string // default model; the only one there is where empty
	Logger     *slog.Logger
	// Environ is given to the stages besides what the pipeline sets: what Tuning keeps of the user's environment.
	Environ []string
	// Progress is told what is being waited for.
	Progress func(what string)
}

// Pipeline is a running pipeline.
type Pipeline struct {
	State State

	opts    Options
	log     *slog.Logger
	lock    *datadir.Lock
	ports   Ports
	hold    held // of them those whose processes have not started yet
	servers []*process
	stages  []*process
	stop    []func() // in the order of starting
}

// Start locks the data directory, starts the servers, prepares topics and tables, starts the stages and returns once
// all of them are ready. When it fails it has stopped what it started.
func Start(ctx context.Context, o Options) (_ *Pipeline, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if err := o.Layout.Check(); err != nil {
		return nil, err
	}
	lock, err := datadir.Take(o.Layout.Data)
	if err != nil {
		return nil, fmt.Errorf("%w\na second pipeline needs a --data-dir of its own and --any-port", err)
	}
	p := &Pipeline{opts: o, log: o.Logger, lock: lock}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	if err := o.Layout.Prepare(); err != nil {
		return nil, err
	}
	// What a killed pipeline left would pass for this one's, now that the directory is locked again.
	if err := (State{Data: o.Layout.Data}).remove(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove an earlier pipeline's state: %w", err)
	}
	if err := p.configure(); err != nil {
		return nil, err
	}

	o.Progress("servers")
	p.servers = p.serverProcesses()
	p.hold.release(p.ports.Kafka, p.ports.S3, p.ports.SQL)
	p.stop = append(p.stop, supervise("servers", p.log, p.servers))
	if err := p.awaitServers(ctx); err != nil {
		return nil, err
	}
	o.Progress("topics and tables")
	if err := p.prepareServers(ctx); err != nil {
		return nil, err
	}
	o.Progress("stages")
	p.stages = p.stageProcesses()
	for _, s := range p.stages {
		_ = os.Remove(adminFile(o.Layout.Data, s.name)) // an earlier run's, if any: it names a port that is another's now
	}
	p.hold.release(p.ports.API, p.ports.OTLP)
	// The recorder takes the others' spans, so it starts before them and stops after them.
	p.stop = append(p.stop, supervise("recorder", p.log, p.stages[:1]), supervise("stages", p.log, p.stages[1:]))
	if err := p.awaitStages(ctx); err != nil {
		return nil, err
	}
	if err := p.State.write(); err != nil {
		return nil, err
	}
	return p, nil
}

// Stop stops the stages in order, then the servers, then lets the data directory go. It may be called twice.
func (p *Pipeline) Stop() {
	for _, stop := range slices.Backward(p.stop) {
		stop()
	}
	p.stop = nil
	p.hold.release(p.ports.API, p.ports.Kafka, p.ports.S3, p.ports.SQL, p.ports.OTLP)
	if p.State.PID != 0 {
		if err := p.State.remove(); err != nil && !errors.Is(err, os.ErrNotExist) {
			p.log.Warn("the state file stays behind", "error", err)
		}
	}
	if p.lock != nil {
		if err := p.lock.Release(); err != nil {
			p.log.Warn("releasing the data directory failed", "error", err)
		}
		p.lock = nil
	}
}

// configure chooses ports, credentials and model.
func (p *Pipeline) configure() error {
	ports, hold, err := p.opts.Ports.choose(p.opts.AnyPort)
	if err != nil {
		return err
	}
	p.ports, p.hold = ports, hold
	secrets, err := loadCredentials(p.opts.Layout.Data)
	if err != nil {
		return err
	}
	if own := value(p.opts.Environ, "LEAFCUTTER_WEBHOOK_SECRET"); own != "" {
		secrets.Webhooks = own
	}
	models, err := p.opts.Layout.ModelNames()
	if err != nil {
		return err
	}
	model := p.opts.Model
	if model == "" {
		model = models[0]
		if slices.Contains(models, defaultModel) {
			model = defaultModel
		}
	}
	if !slices.Contains(models, model) {
		return fmt.Errorf("model %q is not in %s; there are %v", model, p.opts.Layout.Models, models)
	}
	p.State = State{
		PID: os.Getpid(), Data: p.opts.Layout.Data,
		API: "http://" + local(ports.API), Kafka: local(ports.Kafka),
		S3: "http://" + local(ports.S3), S3Bucket: "leafcutter", S3Key: secrets.S3Key, S3Secret: secrets.S3Secret,
		SQL: "http://" + local(ports.SQL), SQLUser: secrets.SQLUser, SQLSecret: secrets.SQLSecret,
		Webhooks: secrets.Webhooks, OTLP: "http://" + local(ports.OTLP), Model: model, ModelsFrom: p.opts.Layout.Models,
	}
	return nil
}

const defaultModel = "layout_cdla"

func (p *Pipeline) serverProcesses() []*process {
	data, s := p.opts.Layout.Data, p.State
	at := func(url string) string { return url[len("http://"):] }
	return []*process{
		p.process("broker", p.opts.Executable, []string{"service", "broker", "--addr", s.Kafka, "--dir", filepath.Join(data, "kafka")}, p.environment(nil, nil)),
		p.process("objects", p.opts.Executable, []string{"service", "objects", "--addr", at(s.S3), "--dir", filepath.Join(data, "objects"), "--bucket", s.S3Bucket},
			p.environment(nil, []string{"AWS_ACCESS_KEY_ID=" + s.S3Key, "AWS_SECRET_ACCESS_KEY=" + s.S3Secret})),
		p.process("sql", p.opts.Executable, []string{"service", "sql", "--addr", at(s.SQL), "--dir", filepath.Join(data, "clickhouse"), "--library", p.opts.Layout.ChDB},
			p.environment(nil, []string{"CLICKHOUSE_USER=" + s.SQLUser, "CLICKHOUSE_PASSWORD=" + s.SQLSecret})),
	}
}

// stageNames are the binaries, as deployed, the recorder first.
var stageNames = []string{"recorder", "annotator", "detector", "page-splitter", "ingest-api"}

func (p *Pipeline) stageProcesses() []*process {
	var all []*process
	for _, name := range stageNames {
		command := []string{filepath.Join(p.opts.Layout.Bin, name)}
		if name == "annotator" {
			command = yielding(command[0])
		}
		all = append(all, p.process(name, command[0], command[1:], p.stageEnvironment(name)))
	}
	return all
}

// yielding is a command line of path at a lower priority, where the machine has nice(1). Pages are inferred one after
// another: what the annotator takes of the processors meanwhile all pages wait for, and what an inference leaves is
// enough for it.
func yielding(path string) []string {
	nice, err := exec.LookPath("nice")
	if err != nil {
		return []string{path}
	}
	return []string{nice, "-n", strconv.Itoa(niceness), path}
}

const niceness = 10

// process is a child with its log.
func (p *Pipeline) process(name, path string, args, env []string) *process {
	return &process{name: name, path: path, args: args, env: env, dir: p.opts.Layout.Data,
		logs: filepath.Join(p.opts.Layout.Data, "logs", name+".log"), say: &relay{name: name, log: p.log}, log: p.log}
}

func (p *Pipeline) awaitServers(ctx context.Context) error {
	k, err := p.kafka()
	if err != nil {
		return err
	}
	for _, w := range []struct {
		name string
		ask  func(context.Context) error
	}{
		{"broker", kafka.Probe(k)},
		{"objects", func(ctx context.Context) error { return get(ctx, p.State.S3+"/livez") }},
		{"sql", func(ctx context.Context) error { return get(ctx, p.State.SQL+"/ping") }},
	} {
		if err := p.await(ctx, w.name, w.ask); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pipeline) awaitStages(ctx context.Context) error {
	for _, s := range p.stages {
		p.opts.Progress(s.name)
		if err := p.await(ctx, s.name, func(ctx context.Context) error {
			addr, err := adminAddr(p.opts.Layout.Data, s.name)
			if err != nil {
				return err
			}
			return get(ctx, "http://"+addr+"/readyz")
		}); err != nil {
			return err
		}
	}
	return nil
}

// startTime is how long a child may take until it is ready: a first start optimises the model's graph.
const startTime = 90 * time.Second

// await asks a child until it is ready. A child that keeps ending is not waited for: its log says why.
func (p *Pipeline) await(ctx context.Context, name string, ask func(context.Context) error) error {
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	all := append(slices.Clone(p.servers), p.stages...)
	child := all[slices.IndexFunc(all, func(c *process) bool { return c.name == name })]
	pause := 20 * time.Millisecond
	for {
		once, done := context.WithTimeout(ctx, 3*time.Second)
		err := ask(once)
		done()
		if err == nil {
			return nil
		}
		if child.starts.Load() > 3 {
			return fmt.Errorf("%s does not stay up; its log ends:\n%s", name, tail(child.logs, 12))
		}
		select {
		case <-ctx.Done():
			if whole.Err() != nil { // interrupted: nothing is wrong with the child
				return whole.Err()
			}
			return fmt.Errorf("%s is not ready: %w; its log ends:\n%s", name, err, tail(child.logs, 12))
		case <-time.After(pause):
			pause = min(2*pause, 250*time.Millisecond)
		}
	}
}

func (p *Pipeline) prepareServers(ctx context.Context) error {
	k, err := p.kafka()
	if err != nil {
		return err
	}
	models, err := p.opts.Layout.ModelNames()
	if err != nil {
		return err
	}
	if _, err := kafka.Apply(ctx, k, schemas.Topics(models...), Partitions); err != nil {
		return err
	}
	return clickhouse.Migrate(ctx, p.SQLConfig(), migrations.Migrations, p.log)
}

// Partitions of a work topic are enough for one machine; a fake broker's cost grows with the number.
const Partitions = 4

// SQLConfig is how the pipeline's writer reaches ClickHouse.
func (p *Pipeline) SQLConfig() clickhouse.Config {
	return clickhouse.Config{Addr: []string{p.State.SQL[len("http://"):]}, Database: "leafcutter", User: p.State.SQLUser, Password: p.State.SQLSecret, Timeout: time.Minute}
}

// Child is one process of the pipeline as it is now.
type Child struct {
	Name     string
	PID      int
	Starts   int
	Resident int64 // bytes
	Peak     int64 // bytes, since its start
}

// Children are the processes of the pipeline, servers first.
func (p *Pipeline) Children() []Child {
	var all []Child
	for _, c := range append(slices.Clone(p.servers), p.stages...) {
		one := Child{Name: c.name, PID: int(c.pid.Load()), Starts: int(c.starts.Load())}
		one.Resident, one.Peak = memory(one.PID)
		all = append(all, one)
	}
	return all
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(strconv.Itoa(res.StatusCode) + " " + string(body))
	}
	return nil
}
