package stage_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

func TestMain(m *testing.M) {
	if brokers := os.Getenv(mortalBrokers); brokers != "" {
		os.Exit(mortal(brokers))
	}
	goleak.VerifyTestMain(m)
}

func TestEveryRecordIsHandledAndCommitted(t *testing.T) {
	b := newBroker(t)
	b.produce("in", numbers(0, 100)...)
	b.produce("in.bulk", numbers(100, 200)...)
	b.start(config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})))
	if diff := cmp.Diff(numbers(0, 200), b.values("out", 200)); diff != "" {
		t.Fatal(diff)
	}
	b.waitCommitted("test", 200)
}

func TestASecondRunGoesOnWhereTheFirstStopped(t *testing.T) {
	b := newBroker(t)
	var handled atomic.Int64
	h := stage.Each(func(_ context.Context, in stage.In) stage.Result {
		handled.Add(1)
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})
	b.produce("in", numbers(0, 50)...)
	stop := b.start(config(h))
	b.read("out", 50)
	stop() // commits at the end, whether or not the committer had its turn
	b.produce("in", numbers(50, 60)...)
	b.start(config(h))
	if diff := cmp.Diff(numbers(0, 60), b.values("out", 60)); diff != "" {
		t.Fatal(diff)
	}
	if n := handled.Load(); n != 60 {
		t.Fatalf("handled %d records, want 60: the stop lost its commits", n)
	}
}

func TestCommitsFollowTheLowestUnfinished(t *testing.T) {
	b := newBroker(t)
	release := make(chan struct{})
	h := stage.Each(func(ctx context.Context, in stage.In) stage.Result {
		if in.Key == "00000" {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})
	// One partition only: later records finish first.
	for _, v := range numbers(0, 20) {
		r := &kgo.Record{Topic: "in", Key: []byte(v), Value: []byte(v)}
		r.Partition = 0
		if err := manual(t, b).ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	b.start(config(h))
	b.read("out", 19)
	if n := b.committed("test"); n != 0 {
		t.Fatalf("committed %d although the first record is unfinished", n)
	}
	close(release)
	b.waitCommitted("test", 20)
}

func TestFaultsByClass(t *testing.T) {
	for _, tc := range []struct {
		name     string
		err      error
		code     string
		attempts int
	}{
		{"permanent is dead-lettered at once", fault.Permanentf("bad-page", "no"), "bad-page", 1},
		{"transient is tried three times", fault.AsTransient("flaky", errors.New("no")), "flaky", 3},
		{"an unclassed error is transient", errors.New("who knows"), "internal", 3},
		{"unavailable with a dependency that answers counts as a try", fault.AsUnavailable("s3", errors.New("no")), "s3-unavailable", 3},
		{"unavailable without a probe is transient", fault.AsUnavailable("nobody", errors.New("no")), "nobody-unavailable", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBroker(t)
			var tries atomic.Int64
			cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
				if in.Key == "bad" {
					tries.Add(1)
					return stage.Fail(tc.err)
				}
				return stage.Result{Out: []stage.Out{copyOut(in)}}
			}))
			cfg.Probes = map[string]func(context.Context) error{"s3": func(context.Context) error { return nil }}
			cfg.About = func(in stage.In) stage.About { return stage.About{DocumentID: "d", RunID: "r", Page: 7} }
			cfg.Condemned = func(in stage.In, code string, err error) []stage.Out {
				return []stage.Out{{Topic: "out", Key: in.Key, Value: []byte("condemned " + in.Key + " " + code)}}
			}
			b.produce("in", "bad", "good")
			b.start(cfg)
			if diff := cmp.Diff([]string{"condemned bad " + tc.code, "good"}, b.values("out", 2)); diff != "" {
				t.Error(diff)
			}
			letter := b.read(schemas.TopicDeadLetters, 1)[0]
			h := map[string]string{}
			for _, x := range letter.Headers {
				h[x.Key] = string(x.Value)
			}
			want := map[string]string{schemas.HeaderStage: "test", schemas.HeaderCode: tc.code, schemas.HeaderTopic: "in",
				schemas.HeaderAttempts: strconv.Itoa(tc.attempts), schemas.HeaderDocumentID: "d", schemas.HeaderRunID: "r", schemas.HeaderPage: "7"}
			for k, v := range want {
				if h[k] != v {
					t.Errorf("header %s: %q, want %q", k, h[k], v)
				}
			}
			if string(letter.Value) != "bad" || string(letter.Key) != "bad" {
				t.Errorf("letter holds %q under %q, want the original bytes and key", letter.Value, letter.Key)
			}
			if int(tries.Load()) != tc.attempts {
				t.Errorf("%d tries, want %d", tries.Load(), tc.attempts)
			}
			b.waitCommitted("test", 2)
		})
	}
}

func TestAnAbsentDependencyIsWaitedFor(t *testing.T) {
	b := newBroker(t)
	var away atomic.Bool
	away.Store(true)
	var tries atomic.Int64
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		if away.Load() {
			tries.Add(1)
			return stage.Fail(fault.AsUnavailable("s3", errors.New("connection refused")))
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	cfg.Probes = map[string]func(context.Context) error{"s3": func(context.Context) error {
		if away.Load() {
			return errors.New("connection refused")
		}
		return nil
	}}
	b.produce("in", numbers(0, 3)...)
	b.start(cfg)
	eventually(t, "far more tries than MaxAttempts", func() bool { return tries.Load() > 12 })
	if n := b.committed("test"); n != 0 {
		t.Fatalf("committed %d while the dependency is away", n)
	}
	away.Store(false)
	if diff := cmp.Diff(numbers(0, 3), b.values("out", 3)); diff != "" {
		t.Fatal(diff)
	}
	b.waitCommitted("test", 3)
	if n := b.ends(schemas.TopicDeadLetters); n != 0 {
		t.Fatalf("%d dead letters, want none", n)
	}
}

func TestAPartThatFailsLeavesTheRest(t *testing.T) {
	b := newBroker(t)
	b.produce("in", "range")
	b.start(config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}, Failures: []stage.Failure{{
			Replay: stage.Out{Topic: "in", Key: "r/17", Value: []byte("page 17")},
			About:  stage.About{RunID: "r", Page: 17}, Err: fault.Permanentf("unreadable-page", "broken"),
		}}}
	})))
	if got := b.values("out", 1); got[0] != "range" {
		t.Fatal(got)
	}
	letter := b.read(schemas.TopicDeadLetters, 1)[0]
	if string(letter.Value) != "page 17" || string(letter.Key) != "r/17" {
		t.Fatalf("letter holds %q under %q, want the smallest replayable record", letter.Value, letter.Key)
	}
	b.waitCommitted("test", 1)
}

func TestAPanicIsTheRecordsFault(t *testing.T) {
	b := newBroker(t)
	b.produce("in", "boom", "fine")
	b.start(config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		if in.Key == "boom" {
			panic("boom")
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})))
	if got := b.values("out", 1); got[0] != "fine" {
		t.Fatal(got)
	}
	b.read(schemas.TopicDeadLetters, 1)
	b.waitCommitted("test", 2)
}

func TestBatches(t *testing.T) {
	b := newBroker(t)
	b.produce("in", numbers(0, 40)...)
	cfg := config(nil)
	cfg.Limits.Workers, cfg.Limits.BatchSize, cfg.Limits.BatchDelay = 1, 10, 200*time.Millisecond
	var mu sync.Mutex
	var sizes []int
	cfg.Handler = stage.HandlerFunc(func(_ context.Context, ins []stage.In) []stage.Result {
		mu.Lock()
		sizes = append(sizes, len(ins))
		mu.Unlock()
		out := make([]stage.Result, len(ins))
		for i, in := range ins {
			out[i] = stage.Result{Out: []stage.Out{copyOut(in)}}
			if in.Key == "00013" {
				out[i] = stage.Fail(fault.Permanentf("unlucky", "thirteen"))
			}
		}
		return out
	})
	b.start(cfg)
	if got := len(b.values("out", 39)); got != 39 {
		t.Fatalf("%d outputs, want all but the one that failed", got)
	}
	b.read(schemas.TopicDeadLetters, 1)
	b.waitCommitted("test", 40)
	mu.Lock()
	defer mu.Unlock()
	largest := 0
	for _, n := range sizes {
		largest = max(largest, n)
	}
	if largest < 2 || largest > 10 {
		t.Fatalf("batches of %v, want some above 1 and none above 10", sizes)
	}
}

func TestFailedCommitsAreTriedAgain(t *testing.T) {
	b := newBroker(t)
	var refused atomic.Int64
	b.cluster.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if refused.Add(1) > 3 {
			return nil, nil, false
		}
		b.cluster.KeepControl()
		answer := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range req.(*kmsg.OffsetCommitRequest).Topics {
			at := kmsg.NewOffsetCommitResponseTopic()
			at.Topic = t.Topic
			at.TopicID = t.TopicID
			for _, p := range t.Partitions {
				ap := kmsg.NewOffsetCommitResponseTopicPartition()
				ap.Partition, ap.ErrorCode = p.Partition, kerr.CoordinatorLoadInProgress.Code
				at.Partitions = append(at.Partitions, ap)
			}
			answer.Topics = append(answer.Topics, at)
		}
		return answer, nil, true
	})
	b.produce("in", numbers(0, 10)...)
	b.start(config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})))
	b.waitCommitted("test", 10)
	if refused.Load() < 3 {
		t.Fatalf("only %d commits were refused", refused.Load())
	}
}

func TestMembersComeAndGo(t *testing.T) {
	b := newBroker(t)
	h := stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})
	b.start(config(h))
	b.produce("in", numbers(0, 50)...)
	for round := range 3 {
		stop := b.start(config(h))
		b.produce("in", numbers(50+round*50, 100+round*50)...)
		stop()
	}
	seen := map[string]bool{}
	eventually(t, "every record comes out", func() bool {
		for _, r := range b.read("out", 1) {
			seen[string(r.Value)] = true
		}
		return b.ends("out") >= 200
	})
	for _, r := range b.read("out", int(b.ends("out"))) {
		seen[string(r.Value)] = true
	}
	for _, v := range numbers(0, 200) {
		if !seen[v] {
			t.Errorf("record %s was lost", v)
		}
	}
	b.waitCommitted("test", 200)
}

func TestASoftStopLetsWorkEndAndAHardOneGivesItUp(t *testing.T) {
	for _, tc := range []struct {
		name      string
		grace     time.Duration
		obedient  bool
		committed int64
	}{{"within the grace time", 10 * time.Second, false, 1}, {"beyond it", 10 * time.Millisecond, true, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBroker(t)
			started, release := make(chan struct{}), make(chan struct{})
			cfg := config(stage.Each(func(ctx context.Context, in stage.In) stage.Result {
				close(started)
				if tc.obedient {
					<-ctx.Done()
					return stage.Fail(ctx.Err())
				}
				<-release
				return stage.Result{Out: []stage.Out{copyOut(in)}}
			}))
			cfg.Limits.Grace = tc.grace
			b.produce("in", "slow")
			stop := b.start(cfg)
			<-started
			stopped := make(chan struct{})
			go func() { stop(); close(stopped) }()
			if !tc.obedient {
				close(release)
			}
			<-stopped
			if n := b.committed("test"); n != tc.committed {
				t.Fatalf("committed %d, want %d", n, tc.committed)
			}
			if n := b.ends(schemas.TopicDeadLetters); n != 0 {
				t.Fatalf("%d dead letters after a stop, want none", n)
			}
		})
	}
}

func TestStopBeforeStart(t *testing.T) {
	b := newBroker(t)
	r, err := stage.New(b.cfg, config(stage.Each(func(context.Context, stage.In) stage.Result { return stage.Result{} })))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if r.Ready() == nil {
		t.Fatal("ready though it never ran")
	}
}

func TestMemoryNeverFollowsTheBacklog(t *testing.T) {
	b := newBroker(t)
	b.produce("in", numbers(0, 400)...)
	cfg := config(nil)
	cfg.Limits.Workers, cfg.Limits.MaxInFlight = 2, 8
	var now, most atomic.Int64
	gate := make(chan struct{}, 1024)
	cfg.Handler = stage.Each(func(ctx context.Context, in stage.In) stage.Result {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		defer now.Add(-1)
		select {
		case gate <- struct{}{}:
		case <-ctx.Done():
		}
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})
	b.start(cfg)
	if diff := cmp.Diff(numbers(0, 400), b.values("out", 400)); diff != "" {
		t.Fatal(diff)
	}
	b.waitCommitted("test", 400)
	if most.Load() > 2 {
		t.Fatalf("%d records in work at once, want at most 2", most.Load())
	}
}

func TestProducer(t *testing.T) {
	b := newBroker(t)
	p, err := stage.NewProducer(b.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	out, err := stage.Emit("out", "k", schemas.Control{DocumentID: "d", Action: schemas.ActionCancel, Sequence: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Produce(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	r := b.read("out", 1)[0]
	got, err := schemas.Unmarshal[schemas.Control](r.Value)
	if err != nil || got.Sequence != 3 || string(r.Key) != "k" {
		t.Fatalf("read back %+v under %q, %v", got, r.Key, err)
	}
	b.cluster.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Produce(ctx, out); err == nil {
		t.Fatal("acknowledged by a broker that is gone")
	}
}
