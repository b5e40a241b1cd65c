package stage_test

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

const patience = 30 * time.Second

// broker is a fake Kafka with the topics in, in.bulk, out and dead-letters.
type broker struct {
	t       *testing.T
	cluster *kfake.Cluster
	cfg     kafka.Config
	client  *kgo.Client
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond),
		kfake.SeedTopics(4, "in", "in.bulk", "out", schemas.TopicDeadLetters))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 6 * time.Second}
	client, err := kafka.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &broker{t: t, cluster: cluster, cfg: cfg, client: client}
}

func (b *broker) produce(topic string, values ...string) {
	b.t.Helper()
	for i, v := range values {
		r := &kgo.Record{Topic: topic, Partition: int32(i % 4), Key: []byte(v), Value: []byte(v)}
		if err := b.client.ProduceSync(b.t.Context(), r).FirstErr(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// read waits until topic holds n records and returns them all.
func (b *broker) read(topic string, n int) []*kgo.Record {
	b.t.Helper()
	reader, err := kafka.NewClient(b.cfg, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n {
		f := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			b.t.Fatalf("topic %s: %d of %d records after %s", topic, len(records), n, patience)
		}
		records = append(records, f.Records()...)
	}
	return records
}

func (b *broker) values(topic string, n int) []string {
	var vs []string
	for _, r := range b.read(topic, n) {
		vs = append(vs, string(r.Value))
	}
	sort.Strings(vs)
	return vs
}

// committed is the sum of the group's committed offsets over all partitions of topics.
func (b *broker) committed(group string) int64 {
	b.t.Helper()
	offsets, err := kadm.NewClient(b.client).FetchOffsets(b.t.Context(), group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		b.t.Fatal(err)
	}
	var sum int64
	offsets.Each(func(o kadm.OffsetResponse) { sum += max(0, o.At) })
	return sum
}

func (b *broker) waitCommitted(group string, want int64) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("group %s commits %d", group, want), func() bool { return b.committed(group) == want })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func limits() stage.Limits {
	return stage.Limits{Workers: 4, BatchSize: 1, MaxInFlight: 64, MaxBytes: 1 << 20, MaxAttempts: 3,
		RetryBackoff: time.Millisecond, CommitEvery: 10 * time.Millisecond, Grace: 5 * time.Second, Watchdog: time.Minute}
}

func config(h stage.Handler) stage.Config {
	return stage.Config{Name: "test", Group: "test", Topics: []string{"in"}, Bulk: true, Limits: limits(), Handler: h}
}

// start runs a stage and returns what stops it and waits for its end.
func (b *broker) start(cfg stage.Config) (stop func()) {
	b.t.Helper()
	r, err := stage.New(b.cfg, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.run(r)
}

// run is start of a stage that was made already.
func (b *broker) run(r *stage.Runner) (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					b.t.Errorf("Run: %v", err)
				}
			case <-time.After(patience):
				b.t.Error("Run did not end")
			}
		})
	}
	b.t.Cleanup(stop)
	return stop
}

func copyOut(in stage.In) stage.Out {
	return stage.Out{Topic: "out", Key: in.Key, Value: append([]byte(nil), in.Value...)}
}

func numbers(from, to int) []string {
	var s []string
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprintf("%05d", i))
	}
	return s
}

func (b *broker) members(group string) int {
	b.t.Helper()
	n, err := kafka.Members(b.t.Context(), b.cfg, group)
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *broker) create(topic string) {
	b.t.Helper()
	if _, err := kadm.NewClient(b.client).CreateTopic(b.t.Context(), 1, 1, nil, topic); err != nil {
		b.t.Fatal(err)
	}
}

func manual(t *testing.T, b *broker) *kgo.Client {
	t.Helper()
	c, err := kafka.NewClient(b.cfg, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (b *broker) ends(topic string) int64 {
	b.t.Helper()
	ends, err := kadm.NewClient(b.client).ListEndOffsets(b.t.Context(), topic)
	if err != nil {
		b.t.Fatal(err)
	}
	var sum int64
	ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
	return sum
}
