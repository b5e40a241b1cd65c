package stage_test

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// mortalBrokers makes the test binary a stage whose process dies of the record "poison".
const mortalBrokers = "LEAFCUTTER_TEST_MORTAL"

func mortal(brokers string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		if in.Key == "poison" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Hold = func(in stage.In) time.Duration {
		if strings.HasPrefix(in.Key, "held") {
			return time.Millisecond
		}
		return 0
	}
	r, err := stage.New(kafka.Config{Brokers: strings.Split(brokers, ","), SessionTimeout: time.Second}, cfg)
	if err != nil || r.Run(ctx) != nil {
		return 1
	}
	return 0
}

// supervise runs mortal processes, one after the other as each dies, until stop is called. It tells how many died.
func (b *broker) supervise() (stop func() (deaths int)) {
	b.t.Helper()
	quit, ended := make(chan struct{}), make(chan int, 1)
	go func() {
		deaths := 0
		for {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), mortalBrokers+"="+strings.Join(b.cfg.Brokers, ","))
			if err := cmd.Start(); err != nil {
				b.t.Error(err)
				ended <- deaths
				return
			}
			exited := make(chan struct{})
			go func() { _ = cmd.Wait(); close(exited) }()
			select {
			case <-exited:
				deaths++
			case <-quit:
				_ = cmd.Process.Signal(syscall.SIGTERM)
				<-exited
				ended <- deaths
				return
			}
		}
	}()
	return func() int { close(quit); return <-ended }
}

func TestARecordThatKillsItsProcessIsFoundOut(t *testing.T) {
	b := newBroker(t)
	producer := manual(t, b)
	for n, v := range append(append(numbers(0, 10), "poison"), numbers(10, 20)...) {
		r := &kgo.Record{Topic: "in", Partition: int32(n % 2), Key: []byte(v), Value: []byte(v)}
		if err := producer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	stop := b.supervise()
	letter := b.read(schemas.TopicDeadLetters, 1)[0]
	if string(letter.Key) != "poison" {
		t.Errorf("%s was given up", letter.Key)
	}
	for _, h := range letter.Headers {
		if h.Key == schemas.HeaderCode && string(h.Value) != stage.CodeCrashedConsumer {
			t.Errorf("code %s", h.Value)
		}
	}
	b.waitCommitted("test", 21)
	deaths := stop()
	// Three times alone, and before that with others beside it, until the records ahead of it are out of doubt.
	if deaths < 4 || deaths > 7 {
		t.Errorf("%d deaths, want 4 to 7", deaths)
	}
	seen := map[string]bool{}
	for _, r := range b.read("out", int(b.ends("out"))) {
		seen[string(r.Value)] = true
	}
	for _, v := range numbers(0, 20) {
		if !seen[v] {
			t.Errorf("record %s was lost", v)
		}
	}
	if n := b.ends(schemas.TopicDeadLetters); n != 1 {
		t.Errorf("%d dead letters, want the one", n)
	}
}

// What is put off stands before it, is never committed, and is not handled before its time on that account: what is between
// is handled again in each life, and the one that kills is found out all the same.
func TestARecordThatKillsIsFoundBehindHeldOnes(t *testing.T) {
	b := newBroker(t)
	var all []*kgo.Record
	add := func(keys ...string) {
		for _, k := range keys {
			all = append(all, &kgo.Record{Topic: "in", Key: []byte(k), Value: []byte(k)})
		}
	}
	for _, n := range numbers(0, 120) {
		add("held" + n)
	}
	add(numbers(0, 20)...)
	add("poison")
	add(numbers(20, 30)...)
	if err := manual(t, b).ProduceSync(t.Context(), all...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	stop := b.supervise()
	if letter := b.read(schemas.TopicDeadLetters, 1)[0]; string(letter.Key) != "poison" {
		t.Errorf("%s was given up", letter.Key)
	}
	// With others beside it while 4, 8 and 16 of those before it are in doubt, then three times alone.
	if deaths := stop(); deaths > 8 {
		t.Errorf("%d deaths, want 8 at most", deaths)
	}
	for _, r := range b.read("out", int(b.ends("out"))) {
		if strings.HasPrefix(string(r.Value), "held") {
			t.Fatalf("%s was handled before its time", r.Value)
		}
	}
}

// Random kills are no record's fault: however often they come, nothing healthy is given up.
func TestRandomKillsCondemnNothing(t *testing.T) {
	b := newBroker(t)
	b.produce("in", numbers(0, 200)...)
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for life := 500 * time.Millisecond; ; life = life%(2*time.Second) + 370*time.Millisecond {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), mortalBrokers+"="+strings.Join(b.cfg.Brokers, ","))
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-time.After(life):
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			case <-quit:
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				return
			}
		}
	}()
	b.read("out", 40) // some lives got far enough
	close(quit)
	<-done
	stop := b.supervise()
	b.waitCommitted("test", 200)
	stop()
	seen := map[string]bool{}
	for _, r := range b.read("out", int(b.ends("out"))) {
		seen[string(r.Value)] = true
	}
	var got []string
	for _, v := range numbers(0, 200) {
		if seen[v] {
			got = append(got, v)
		}
	}
	if diff := cmp.Diff(numbers(0, 200), got); diff != "" {
		t.Error(diff)
	}
	if n := b.ends(schemas.TopicDeadLetters); n != 0 {
		t.Errorf("%d healthy records were given up", n)
	}
}
