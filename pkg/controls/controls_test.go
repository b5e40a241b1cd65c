package controls_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 30 * time.Second
	one      = "0198a000-0000-7000-8000-000000000001"
	two      = "0198a000-0000-7000-8000-000000000002"
	run      = "0198a000-0000-5000-8000-000000000003"
)

func control(document, action string, sequence int64) schemas.Control {
	return schemas.Control{DocumentID: document, Action: action, Sequence: sequence, At: time.UnixMilli(sequence).UTC()}
}

func apply(t *testing.T, s *controls.Set, cs ...schemas.Control) *controls.Set {
	t.Helper()
	for _, c := range cs {
		value, err := schemas.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		s.Apply(c.DocumentID, value)
	}
	return s
}

// state is what a Set says of a document.
func state(s *controls.Set, document string) string {
	_, cancelled := s.Cancelled(document)
	_, deleted := s.Deleted(document)
	last, asked := s.Last(document)
	switch {
	case cancelled && !deleted:
		return "cancelled"
	case deleted && !cancelled:
		return "deleted"
	case asked && !deleted && !cancelled:
		return last.Action
	case !asked && !deleted && !cancelled:
		return ""
	}
	return "contradiction"
}

func TestTheHighestSequenceHoldsInAnyOrder(t *testing.T) {
	for _, tc := range []struct {
		name  string
		asked []schemas.Control
		want  string
	}{
		{"cancel", []schemas.Control{control(one, "cancel", 5)}, "cancelled"},
		{"resume after cancel", []schemas.Control{control(one, "cancel", 5), control(one, "resume", 6)}, "resume"},
		{"cancel again", []schemas.Control{control(one, "cancel", 5), control(one, "resume", 6), control(one, "cancel", 7)}, "cancelled"},
		{"both at once", []schemas.Control{control(one, "cancel", 5), control(one, "resume", 5)}, "cancelled"},
		{"delete is for ever", []schemas.Control{control(one, "delete", 5), control(one, "resume", 9), control(one, "cancel", 10)}, "deleted"},
		{"of another document", []schemas.Control{control(two, "cancel", 5)}, ""},
	} {
		for range 10 {
			rand.Shuffle(len(tc.asked), func(i, j int) { tc.asked[i], tc.asked[j] = tc.asked[j], tc.asked[i] })
			if got := state(apply(t, controls.New(nil), tc.asked...), one); got != tc.want {
				t.Errorf("%s: %q, want %q of %+v", tc.name, got, tc.want, tc.asked)
			}
		}
	}
}

func TestATombstoneTakesBackAllButADelete(t *testing.T) {
	s := apply(t, controls.New(nil), control(one, "cancel", 5), control(two, "delete", 5))
	s.Apply(one, nil)
	s.Apply(two, nil)
	if got := state(s, one) + "," + state(s, two); got != ",deleted" {
		t.Error(got)
	}
}

func TestWhatCannotBeReadIsPassedOver(t *testing.T) {
	s := controls.New(nil)
	for _, value := range []string{"", "{", `{"type":"PageDone"}`, `{"document_id":"` + two + `","action":"delete","sequence":1}`,
		`{"document_id":"` + one + `","action":"burn","sequence":1}`} {
		s.Apply(one, []byte(value))
	}
	s.Apply("x", []byte(`{"document_id":"x","action":"cancel","sequence":1}`))
	if got := state(s, one) + state(s, two) + state(s, "x"); got != "" {
		t.Error(got)
	}
}

func TestNextIsAboveWhatWasAsked(t *testing.T) {
	now := time.UnixMilli(1000)
	s := controls.New(nil)
	if c := s.Next(one, "cancel", now); c.Sequence != 1000 || c.DocumentID != one || c.Action != "cancel" || !c.At.Equal(now) {
		t.Errorf("%+v", c)
	}
	s.Asked(s.Next(one, "cancel", now))
	resume := s.Next(one, "resume", now)
	if s.Asked(resume); resume.Sequence != 1001 || state(s, one) != "resume" {
		t.Errorf("%+v, %s", resume, state(s, one))
	}
}

// A record that was asked for again by a resume is wanted though the resume itself is still on its way.
func TestWhatIsUnwanted(t *testing.T) {
	s := apply(t, controls.New(nil), control(one, "cancel", 5), control(two, "delete", 5))
	for _, tc := range []struct {
		about stage.About
		want  bool
	}{
		{stage.About{DocumentID: one}, true},
		{stage.About{DocumentID: one, Control: 5}, false},
		{stage.About{DocumentID: one, Control: 6}, false},
		{stage.About{DocumentID: two, Control: 6}, true},
		{stage.About{DocumentID: run}, false},
		{stage.About{}, false},
	} {
		if got := s.Unwanted(tc.about); got != tc.want {
			t.Errorf("%+v: %v", tc.about, got)
		}
	}
	if apply(t, s, control(one, "resume", 6)); s.Unwanted(stage.About{DocumentID: one}) {
		t.Error("resumed, and unwanted")
	}
	var nobody *controls.Set
	if nobody.Unwanted(stage.About{DocumentID: one}) {
		t.Error("nothing was asked, and it is unwanted")
	}
}

func TestDroppedRecordsSayThatTheirRunIsCancelled(t *testing.T) {
	s := apply(t, controls.New(nil), control(one, "cancel", 5), control(two, "delete", 5))
	submitted := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	of := func(document string) stage.In {
		value, err := schemas.Marshal(schemas.PageRange{Run: schemas.Run{DocumentID: document, RunID: run, SubmittedAt: submitted}, Pages: []int{1}})
		if err != nil {
			t.Fatal(err)
		}
		return stage.In{Value: value}
	}
	outs := s.Dropped(of(one))
	if len(outs) != 1 || outs[0].Topic != schemas.TopicResults || outs[0].Key != one {
		t.Fatalf("%+v", outs)
	}
	said, err := schemas.Unmarshal[schemas.RunCancelled](outs[0].Value)
	if err != nil || said.DocumentID != one || said.RunID != run || said.Sequence != 5 || !said.SubmittedAt.Equal(submitted) {
		t.Errorf("%+v, %v", said, err)
	}
	for _, in := range []stage.In{of(two), of(run), {Value: []byte("{")}, {Value: []byte(`{"document_id":"` + one + `"}`)}} {
		if outs := s.Dropped(in); len(outs) != 0 {
			t.Errorf("%s: %+v", in.Value, outs)
		}
	}
}

// broker is a fake Kafka, with the topic or without.
func broker(t *testing.T, opts ...kfake.Opt) (kafka.Config, *kgo.Client) {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 10 * time.Second}
	client, err := kafka.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return cfg, client
}

func produce(t *testing.T, client *kgo.Client, cs ...schemas.Control) {
	t.Helper()
	for _, c := range cs {
		value, err := schemas.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.TopicControls, Key: []byte(c.DocumentID), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// while follows k until the test ends, and closes begun once the work may begin.
func while(t *testing.T, s *controls.Set, k kafka.Config) (begun chan struct{}) {
	t.Helper()
	begun = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.While(ctx, k, func(ctx context.Context) error {
			close(begun)
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return begun
}

func TestWorkBeginsOnceAllThatWasAskedIsKnown(t *testing.T) {
	k, client := broker(t, kfake.SeedTopics(3, schemas.TopicControls))
	produce(t, client, control(one, "cancel", 5), control(two, "cancel", 5), control(two, "delete", 6))
	s := controls.New(nil)
	if s.Ready() == nil {
		t.Error("ready before the topic was read")
	}
	<-while(t, s, k)
	if got := state(s, one) + "," + state(s, two); got != "cancelled,deleted" || s.Ready() != nil {
		t.Errorf("%s, %v", got, s.Ready())
	}
	produce(t, client, control(one, "resume", 7))
	eventually(t, "the resume is known", func() bool { return state(s, one) == "resume" })
}

func TestATopicStillToBeMadeIsWaitedFor(t *testing.T) {
	k, client := broker(t)
	s := controls.New(nil)
	begun := while(t, s, k)
	eventually(t, "the lack of the topic is told", func() bool {
		err := s.Ready()
		return err != nil && errors.Is(err, kerr.UnknownTopicOrPartition)
	})
	select {
	case <-begun:
		t.Fatal("the work began without controls")
	default:
	}
	if _, err := kafka.Apply(t.Context(), k, schemas.Topics(), 1); err != nil {
		t.Fatal(err)
	}
	produce(t, client, control(one, "cancel", 5))
	<-begun
	eventually(t, "the cancel is known", func() bool { return state(s, one) == "cancelled" })
}

func TestABrokerAwayAtTheStartIsWaitedFor(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	k := kafka.Config{Brokers: []string{listener.Addr().String()}, SessionTimeout: 10 * time.Second}
	s := controls.New(nil)
	begun := while(t, s, k)
	select {
	case <-begun:
		t.Fatal("the work began without a broker")
	case <-time.After(300 * time.Millisecond): // long enough for a first try
	}
	_, client := broker(t, kfake.Ports(port), kfake.SeedTopics(3, schemas.TopicControls))
	produce(t, client, control(one, "cancel", 5))
	select {
	case <-begun:
	case <-time.After(patience):
		t.Fatalf("the broker is there, and: %v", s.Ready())
	}
	eventually(t, "the cancel is known", func() bool { return state(s, one) == "cancelled" })
}

func TestAStopBeforeTheStartIsClean(t *testing.T) {
	k, _ := broker(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := controls.New(nil).While(ctx, k, func(context.Context) error { return errors.New("begun") }); err != nil {
		t.Error(err)
	}
}

// Compaction keeps the last record of a key: what is asked after a delete, by one who had not read of it, has another.
func TestADeleteOutlivesCompaction(t *testing.T) {
	deletion, cancel := control(one, schemas.ActionDelete, 5), control(one, schemas.ActionCancel, 6)
	kept := map[string]schemas.Control{}
	for _, c := range []schemas.Control{deletion, cancel} {
		kept[c.Key()] = c
	}
	s := controls.New(nil)
	for key, c := range kept {
		value, err := schemas.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		s.Apply(key, value)
	}
	s.Apply(deletion.Key(), nil)
	if got, deleted := s.Deleted(one); !deleted || got.Sequence != 5 {
		t.Errorf("after compaction %+v, %v", got, deleted)
	}
}

// What a control costs for ever, in every stage. Maps grow by doubling, so it is measured wherever that may be.
func TestAControlIsSmall(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	before, s := heap(), controls.New(nil)
	most, n := 0.0, 0
	for _, count := range []int{100_000, 130_000, 170_000, 200_000} {
		for ; n < count; n++ {
			at := time.UnixMilli(int64(1e12) + int64(n))
			s.Asked(schemas.Control{DocumentID: schemas.NewDocumentID(at), Action: schemas.ActionDelete, Sequence: at.UnixMilli(), At: at})
		}
		each := float64(heap()-before) / float64(n)
		t.Logf("%d controls: %.0f bytes each", n, each)
		most = max(most, each)
	}
	if most > 48 {
		t.Errorf("%.0f bytes", most)
	}
	runtime.KeepAlive(s)
}

// A million controls, and what it is to ask for one of them: once for each record.
func BenchmarkLast(b *testing.B) {
	s := controls.New(nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	ids := make([]string, 1000)
	for n := range 1_000_000 {
		at := time.UnixMilli(int64(1e12) + int64(n))
		ids[n%1000] = schemas.NewDocumentID(at)
		s.Asked(schemas.Control{DocumentID: ids[n%1000], Action: schemas.ActionDelete, Sequence: at.UnixMilli(), At: at})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, deleted := s.Deleted(ids[n%1000]); !deleted {
			b.Fatal("not there")
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
}
