package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/pipeline"
	"leafcutter/pkg/pngenc"
	"leafcutter/schemas"
)

// served is a detector as users run it, the binary of its own with its own defaults, between a Kafka and an S3 server
// that are in this process. It is given page images and says what it found on them.
type served struct {
	model   string
	cmd     *exec.Cmd
	ended   chan struct{}
	said    bytes.Buffer // read after ended
	broker  *kfake.Cluster
	client  *kgo.Client
	objects *http.Server
	pages   []page
	rounds  int
	child   int64 // bytes that a child, which prepares the model, had resident at most while the detector started
}

// page is a page image and its size in pixels.
type page struct {
	name          string
	png           []byte
	width, height int
}

// found is what the detector said of a page: its boxes, and milliseconds from image to boxes.
type found struct {
	boxes []schemas.Box
	ms    float64
}

// pass is all pages once.
type pass struct {
	seconds float64 // from the first record to the last
	cpu     float64 // seconds of processor time of the detector
	peak    int64   // resident memory at most since it started, in bytes
	pages   []found
}

// startDetector starts the binary on a model. It returns once the model is announced: loaded, and warm. env are variables
// of its own.
func startDetector(ctx context.Context, binary, models, model, cache string, pages []page, env ...string) (_ *served, err error) {
	s := &served{model: model, ended: make(chan struct{}), pages: pages}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	var topics []string
	for _, t := range schemas.Topics(model) {
		topics = append(topics, t.Name)
	}
	if s.broker, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics...)); err != nil {
		return nil, fmt.Errorf("start a broker: %w", err)
	}
	if s.client, err = kgo.NewClient(kgo.SeedBrokers(s.broker.ListenAddrs()...), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumeTopics(schemas.TopicModels, schemas.TopicDetections, schemas.TopicResults), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart())); err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start an S3 server: %w", err)
	}
	s.objects = &http.Server{Handler: http.HandlerFunc(s.object), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.objects.Serve(listener) }() // until it is closed

	s.cmd = exec.CommandContext(ctx, binary)
	s.cmd.Env = append(os.Environ(),
		"LEAFCUTTER_MODELS_DIR="+models, "LEAFCUTTER_MODEL="+model, "LEAFCUTTER_CACHE_DIR="+cache, "LEAFCUTTER_ADMIN_ADDR=off", "LEAFCUTTER_LOG_FORMAT=text",
		"KAFKA_BROKERS="+s.broker.ListenAddrs()[0], "AWS_ENDPOINT_URL=http://"+listener.Addr().String(), "S3_FORCE_PATH_STYLE=true",
		"AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret", "S3_BUCKET=pages")
	s.cmd.Env = append(s.cmd.Env, env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	if err := pipeline.StartTied(s.cmd, s.ended); err != nil {
		return nil, fmt.Errorf("start the detector: %w", err)
	}
	go func() {
		_ = s.cmd.Wait() // what it said tells more
		close(s.ended)
	}()
	starting, started := context.WithCancel(ctx)
	watched := make(chan int64)
	go func() { watched <- peakOfChildren(starting, s.cmd.Process.Pid) }()
	_, err = s.next(ctx, schemas.TopicModels)
	started()
	s.child = <-watched
	return s, err
}

// object answers GET and HEAD of a page image.
func (s *served) object(w http.ResponseWriter, r *http.Request) {
	for _, p := range s.pages {
		if r.URL.Path == "/pages/"+p.name {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.png))
			return
		}
	}
	http.NotFound(w, r)
}

// next is the next record of a topic. It is an error where the detector gives a page up, or ends.
func (s *served) next(ctx context.Context, topic string) (*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	go func() {
		select {
		case <-s.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		fetches := s.client.PollRecords(ctx, 1)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the detector of model %s says nothing: %w", s.model, ctx.Err())
		}
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read what the detector says: %w", err)
		}
		for _, r := range fetches.Records() {
			switch r.Topic {
			case topic:
				return r, nil
			case schemas.TopicResults:
				return nil, fmt.Errorf("the detector gave a page up: %s", r.Value)
			}
		}
	}
}

// all puts all pages through once.
func (s *served) all(ctx context.Context) (pass, error) {
	s.rounds++
	before, err := pipeline.CPU(s.cmd.Process.Pid)
	if err != nil {
		return pass{}, err
	}
	place := map[int]int{}
	var records []*kgo.Record
	for i, p := range s.pages {
		r := schemas.PageRendered{RenderedPage: schemas.RenderedPage{
			Run: schemas.Run{
				DocumentID: "0190a2c0-0000-7000-8000-000000000001", RunID: fmt.Sprintf("0190a2c0-0000-5000-8000-%012d", s.rounds),
				SubmittedAt: time.Now(), ContentType: "application/pdf", PagesSelected: len(s.pages),
				Options: schemas.RunOptions{Model: s.model, DPI: 108, Pages: "1-", Thresholds: map[string]float64{schemas.AllClasses: 0.9}},
			},
			Page: i + 1, ImageKey: p.name, Width: p.width, Height: p.height, DPI: 108,
		}}
		value, err := schemas.Marshal(r)
		if err != nil {
			return pass{}, fmt.Errorf("ask for a page: %w", err)
		}
		place[i+1] = i
		records = append(records, &kgo.Record{Topic: schemas.PagesTopic(s.model), Key: []byte(r.Key()), Value: value})
	}
	out := pass{pages: make([]found, len(s.pages))}
	began := time.Now()
	if err := s.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return pass{}, fmt.Errorf("ask for pages: %w", err)
	}
	for range s.pages {
		r, err := s.next(ctx, schemas.TopicDetections)
		if err != nil {
			return pass{}, err
		}
		d, err := schemas.Unmarshal[schemas.PageDetected](r.Value)
		if err != nil {
			return pass{}, fmt.Errorf("read what the detector found: %w", err)
		}
		out.pages[place[d.Page]] = found{d.Boxes, d.InferMS}
	}
	out.seconds = time.Since(began).Seconds()
	after, err := pipeline.CPU(s.cmd.Process.Pid)
	if err != nil {
		return pass{}, err
	}
	out.cpu = after - before
	_, out.peak, err = pipeline.Memory(s.cmd.Process.Pid)
	return out, err
}

// stop ends the detector and the servers. Where it ended by itself, its log is the error.
func (s *served) stop() error {
	var errs []error
	if s.cmd != nil && s.cmd.Process != nil {
		select {
		case <-s.ended:
			errs = append(errs, fmt.Errorf("the detector ended by itself: %s\n%s", s.cmd.ProcessState, s.said.Bytes()))
		default:
			errs = append(errs, s.cmd.Process.Signal(syscall.SIGTERM))
			<-s.ended
		}
	}
	if s.objects != nil {
		errs = append(errs, s.objects.Close())
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.broker != nil {
		s.broker.Close()
	}
	return errors.Join(errs...)
}

// readPage reads a page image.
func readPage(file string) (page, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return page{}, fmt.Errorf("read page: %w", err)
	}
	h, err := pngenc.ReadHeader(bytes.NewReader(b))
	if err != nil {
		return page{}, fmt.Errorf("read page %s: %w", file, err)
	}
	return page{filepath.Base(file), b, h.Width, h.Height}, nil
}

func threadsOf(n int) string { return "LEAFCUTTER_INFERENCE_THREADS=" + strconv.Itoa(n) }
