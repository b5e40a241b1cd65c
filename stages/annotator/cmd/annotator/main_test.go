package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore/objectstoretest"
	"leafcutter/schemas"
)

// asProgram makes a test binary behave as the program itself.
const asProgram = "ANNOTATOR_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
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
	out, err := command(t, []string{"LEAFCUTTER_CROPS=lazy"}, "-config.verify").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"KAFKA_BROKERS", "S3_BUCKET", "AWS_ENDPOINT_URL", "LEAFCUTTER_CROPS", "LEAFCUTTER_MAX_PAGE_PIXELS",
		"LEAFCUTTER_UPLOADS", "LEAFCUTTER_WORKERS", "LEAFCUTTER_ADMIN_ADDR"} {
		if !bytes.Contains(out, []byte(name)) {
			t.Errorf("%s is not told:\n%s", name, out)
		}
	}

	out, err = command(t, []string{"LEAFCUTTER_CROPS=soon", "LEAFCUTTER_UPLOADS=0", "S3_BUCKET=x"}, "-config.verify").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a bad configuration: %v", err)
	}
	for _, name := range []string{"LEAFCUTTER_CROPS", "LEAFCUTTER_UPLOADS", "S3_BUCKET"} {
		if !bytes.Contains(out, []byte(name)) {
			t.Errorf("the fault of %s is not told:\n%s", name, out)
		}
	}
}

// TestProgram starts the program, lets it do a page and stops it by a signal.
func TestProgram(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1),
		kfake.SeedTopics(1, schemas.TopicDetections, schemas.TopicResults, schemas.TopicDeadLetters, schemas.TopicControls))
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

	record := read(t, "detected.json")
	page, err := schemas.Unmarshal[schemas.PageDetected](record)
	if err != nil {
		t.Fatal(err)
	}
	for key, file := range map[string]string{page.ImageKey: "page.png", page.TextKey: "lines.json"} {
		if err := store.Put(ctx, key, read(t, file), ""); err != nil {
			t.Fatal(err)
		}
	}

	address := filepath.Join(t.TempDir(), "admin")
	environ := []string{
		"KAFKA_BROKERS=" + strings.Join(cluster.ListenAddrs(), ","),
		"AWS_ENDPOINT_URL=" + objects.Endpoint, "AWS_REGION=" + objects.Region, "S3_FORCE_PATH_STYLE=true", "S3_BUCKET=" + objects.Bucket,
		"AWS_ACCESS_KEY_ID=" + objects.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + objects.SecretAccessKey,
		"LEAFCUTTER_ADMIN_ADDR=127.0.0.1:0", "LEAFCUTTER_ADMIN_FILE=" + address,
	}
	program := command(t, environ)
	var log bytes.Buffer
	program.Stderr = &log
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()

	// Ready means a member of the group.
	for {
		out, err := command(t, environ, "-health").CombinedOutput()
		if err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("ended: %v\n%s", err, log.String())
		case <-ctx.Done():
			t.Fatalf("never ready: %s", out)
		case <-time.After(50 * time.Millisecond):
		}
	}
	host := strings.TrimSpace(string(read(t, address)))
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		response, err := http.Get("http://" + host + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", path, response.Status, err)
		}
	}

	client, err := kafka.NewClient(kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 10 * time.Second},
		kgo.ConsumeTopics(schemas.TopicResults), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: schemas.TopicDetections, Key: []byte(page.Key()), Value: record}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var done schemas.PageDone
	for done.DocumentID == "" {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatal("no result")
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if done, err = schemas.Unmarshal[schemas.PageDone](r.Value); err != nil {
				t.Fatalf("%v: %s", err, r.Value)
			}
		})
	}
	if exists, err := store.Exists(ctx, done.AnnotatedKey); !exists || err != nil {
		t.Errorf("the annotated page: %v, %v", exists, err)
	}

	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
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
}

// read reads a file of the stage's testdata, or one by its whole path.
func read(t *testing.T, name string) []byte {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join("..", "..", "testdata", name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
