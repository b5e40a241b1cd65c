package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore/objectstoretest"
	"leafcutter/pkg/program"
	"leafcutter/schemas"
	pagesplitter "leafcutter/stages/page-splitter"
	"leafcutter/stages/page-splitter/internal/testpdf"
)

// asProgram makes a test binary behave as the program itself.
const asProgram = "PAGE_SPLITTER_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	// A render child of the program has no environment to be known by.
	if os.Getenv(asProgram) != "" || pagesplitter.IsRenderChild(os.Args) {
		main()
		return
	}
	os.Exit(m.Run())
}

func command(t *testing.T, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env = append([]string{asProgram + "=1", "HOME=" + t.TempDir()}, environ...)
	return c
}

func TestConfigVerify(t *testing.T) {
	out, err := command(t, nil, "-config.verify", "-stages", "splitter").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"KAFKA_BROKERS", "S3_BUCKET", "AWS_ENDPOINT_URL", "LEAFCUTTER_STAGES", "LEAFCUTTER_DEFAULT_MODEL",
		"LEAFCUTTER_CACHE_DIR", "LEAFCUTTER_CACHE_BYTES", "LEAFCUTTER_MAX_PAGE_PIXELS", "LEAFCUTTER_RENDER_TIMEOUT", "LEAFCUTTER_WORKERS", "LEAFCUTTER_ADMIN_ADDR"} {
		if !bytes.Contains(out, []byte(name)) {
			t.Errorf("%s is not told:\n%s", name, out)
		}
	}

	out, err = command(t, []string{"LEAFCUTTER_STAGES=planner,binder", "LEAFCUTTER_UPLOADS=0", "LEAFCUTTER_RENDER_TIMEOUT=1ms", "S3_BUCKET=x"}, "-config.verify").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a bad configuration: %v", err)
	}
	for _, name := range []string{"LEAFCUTTER_STAGES", "LEAFCUTTER_UPLOADS", "LEAFCUTTER_RENDER_TIMEOUT", "S3_BUCKET"} {
		if !bytes.Contains(out, []byte(name)) {
			t.Errorf("the fault of %s is not told:\n%s", name, out)
		}
	}
}

// report is what a program says of being ready.
type report program.Report

func (r report) unready() (names []string) {
	for _, c := range r.Checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

// readiness asks the program whose address lies in a file.
func readiness(ctx context.Context, file string) (r report, err error) {
	host, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.TrimSpace(string(host))+"/readyz", nil)
	if err != nil {
		return r, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return r, err
	}
	err = json.NewDecoder(response.Body).Decode(&r)
	return r, errors.Join(err, response.Body.Close())
}

// TestProgram starts the program as it is deployed, produces a PDF, a broken one
// and a reference, reads what comes out, and stops it by a signal.
func TestProgram(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var topics []string
	for _, topic := range schemas.Topics("layout_cdla") {
		topics = append(topics, topic.Name)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	server := objectstoretest.NewServer(t)
	store := server.Open(t)
	if err := store.EnsureBucket(ctx); err != nil {
		t.Fatal(err)
	}
	objects := server.Config()

	folder := t.TempDir()
	address := filepath.Join(folder, "admin")
	environ := []string{
		"KAFKA_BROKERS=" + strings.Join(cluster.ListenAddrs(), ","),
		"AWS_ENDPOINT_URL=" + objects.Endpoint, "AWS_REGION=" + objects.Region, "S3_FORCE_PATH_STYLE=true", "S3_BUCKET=" + objects.Bucket,
		"AWS_ACCESS_KEY_ID=" + objects.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + objects.SecretAccessKey,
		"LEAFCUTTER_CACHE_DIR=" + filepath.Join(folder, "cache"),
		"LEAFCUTTER_ADMIN_ADDR=127.0.0.1:0", "LEAFCUTTER_ADMIN_FILE=" + address,
	}
	running := command(t, environ)
	var log bytes.Buffer
	running.Stderr = &log
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- running.Wait() }()
	// until asks until what the program waits for is what is given, by name.
	until := func(unready ...string) {
		t.Helper()
		for {
			report, err := readiness(ctx, address)
			if err == nil && slices.Equal(report.unready(), unready) {
				return
			}
			select {
			case err := <-ended:
				t.Fatalf("ended: %v\n%s", err, log.String())
			case <-ctx.Done():
				t.Fatalf("never waits for just %q: %+v, %v", unready, report, err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	until("default model")
	if out, err := command(t, environ, "-health").CombinedOutput(); err == nil || !bytes.Contains(out, []byte("no detector has announced the model layout_cdla yet: start one")) {
		t.Errorf("without a detector: %v\n%s", err, out)
	}

	client, err := kafka.NewClient(kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 10 * time.Second},
		kgo.ConsumeTopics("pages.layout_cdla", "pages.layout_cdla.bulk", schemas.TopicResults, schemas.TopicDeadLetters),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ProducerBatchMaxBytes(9<<20))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	send := func(topic, key string, value []byte) {
		t.Helper()
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	// The model comes after the first document: it is waited for.
	send(schemas.TopicDocuments, "", testpdf.Text(20))
	announced, err := schemas.Marshal(schemas.ModelAnnounced{Model: "layout_cdla", Digest: "d", Thresholds: map[string]float64{"*": 0.4}, AnnouncedAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	send(schemas.TopicModels, "layout_cdla", announced)
	until()
	if out, err := command(t, environ, "-health").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	host, err := os.ReadFile(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		response, err := http.Get("http://" + strings.TrimSpace(string(host)) + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", path, response.Status, err)
		}
	}
	send(schemas.TopicDocuments, "", []byte("%PDF-1.7\n and nothing else"))
	if err := store.Put(ctx, "inbox/book.pdf", testpdf.Text(17), "application/pdf"); err != nil {
		t.Fatal(err)
	}
	send(schemas.TopicDocuments, "", fmt.Appendf(nil, `{"source":%q,"title":"Book","dpi":36}`, store.URI("inbox/book.pdf")))

	pages := map[string]int{}
	planned, failed, letters, accepted := 0, 0, 0, 0
	for len(pages) < 37 || planned < 2 || failed < 1 || letters < 1 || accepted < 3 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d pages, %d accepted, %d planned, %d failed, %d dead letters\n%s", len(pages), accepted, planned, failed, letters, log.String())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			switch r.Topic {
			case schemas.TopicResults:
				result, err := schemas.UnmarshalResult(r.Value)
				if err != nil {
					t.Fatal(err)
				}
				switch result := result.(type) {
				case schemas.DocumentAccepted:
					accepted++
				case schemas.RunPlanned:
					planned++
				case schemas.RunFailed:
					failed++
					if result.Code != "unreadable-document" {
						t.Errorf("failed: %+v", result)
					}
				default:
					t.Errorf("result %+v", result)
				}
			case schemas.TopicDeadLetters:
				letters++
			default:
				page, err := schemas.Unmarshal[schemas.PageRendered](r.Value)
				if err != nil {
					t.Fatal(err)
				}
				pages[page.Key()]++
				for _, key := range []string{page.ImageKey, page.TextKey} {
					if there, err := store.Exists(ctx, key); !there || err != nil {
						t.Errorf("%s: %v, %v", key, there, err)
					}
				}
			}
		})
	}

	if err := running.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after SIGTERM: %v\n%s", err, log.String())
		}
	case <-ctx.Done():
		t.Fatal("it does not stop")
	}
	if left, err := os.ReadDir(filepath.Join(folder, "cache")); err != nil || len(left) != 0 {
		t.Errorf("%d folders are left in the cache, %v", len(left), err)
	}
}
