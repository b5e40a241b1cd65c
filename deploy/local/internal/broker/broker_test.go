package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"leafcutter/deploy/local/internal/broker"
	"leafcutter/deploy/local/localtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a broker on dir until the test ends or stop is called.
func start(t *testing.T, cfg broker.Config) (addr string, stop func()) {
	t.Helper()
	server, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping the broker: %v", err)
		}
	})
	t.Cleanup(stop)
	return server.Addr(), stop
}

func client(t *testing.T, addr string, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func produce(ctx context.Context, t *testing.T, c *kgo.Client, topic string, key string, value []byte) {
	t.Helper()
	if err := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// poll reads n records.
func poll(ctx context.Context, t *testing.T, c *kgo.Client, n int) []*kgo.Record {
	t.Helper()
	var out []*kgo.Record
	for len(out) < n {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(out), n, err)
		}
		out = append(out, fetches.Records()...)
	}
	return out
}

func TestRecordOf8MiB(t *testing.T) {
	addr, _ := start(t, broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), AutoCreate: true, Partitions: 1})
	ctx := testContext(t)
	c := client(t, addr, kgo.AllowAutoTopicCreation(), kgo.ProducerBatchMaxBytes(9<<20), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ConsumeTopics("documents"), kgo.FetchMaxBytes(20<<20), kgo.FetchMaxPartitionBytes(20<<20))
	value := bytes.Repeat([]byte{0, 1, 2, 3}, 2<<20)
	produce(ctx, t, c, "documents", "k", value)
	if got := poll(ctx, t, c, 1)[0]; !bytes.Equal(got.Value, value) {
		t.Errorf("a record of %d bytes comes back with %d", len(value), len(got.Value))
	}
	large := client(t, addr, kgo.ProducerBatchMaxBytes(64<<20), kgo.BrokerMaxWriteBytes(100<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	err := large.ProduceSync(ctx, &kgo.Record{Topic: "documents", Value: make([]byte, 17<<20)}).FirstErr()
	if !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("a record of 17 MiB: %v, want %v", err, kerr.MessageTooLarge)
	}
}

func TestTopicsThatNobodyCreated(t *testing.T) {
	for _, auto := range []bool{true, false} {
		t.Run(fmt.Sprintf("auto=%t", auto), func(t *testing.T) {
			addr, _ := start(t, broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), AutoCreate: auto, Partitions: 3})
			ctx := testContext(t)
			c := client(t, addr, kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(0))
			err := c.ProduceSync(ctx, &kgo.Record{Topic: "new", Value: []byte("x")}).FirstErr()
			if auto != (err == nil) {
				t.Fatalf("producing to a new topic: %v", err)
			}
			topics, err := kadm.NewClient(c).ListTopics(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(topics["new"].Partitions); auto && got != 3 || !auto && got != 0 {
				t.Errorf("the topic has %d partitions", got)
			}
		})
	}
}

// TestEverythingComesBack covers what a second `up` on the same data relies on: topics with their
// configuration, records with their offsets and timestamps, commits with their metadata, and the sequence of
// an idempotent producer.
func TestEverythingComesBack(t *testing.T) {
	for name, end := range map[string]func(*localtest.Server){"stop": (*localtest.Server).Stop, "kill": (*localtest.Server).Kill} {
		t.Run(name, func(t *testing.T) {
			server := localtest.StartBroker(t)
			ctx := testContext(t)
			c := client(t, server.Addr, kgo.ConsumeTopics("work"), kgo.MetadataMinAge(50*time.Millisecond))
			admin := kadm.NewClient(c)
			created, err := admin.CreateTopic(ctx, 2, 1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact"), "retention.ms": kadm.StringPtr("12345")}, "work")
			if err != nil || created.Err != nil {
				t.Fatal(err, created.Err)
			}
			const n = 20
			for i := range n {
				produce(ctx, t, c, "work", fmt.Sprint(i), fmt.Appendf(nil, "value %d", i))
			}
			seen := poll(ctx, t, c, n)
			offsets := kadm.Offsets{}
			for _, r := range seen[:n/2] {
				offsets.Add(kadm.Offset{Topic: r.Topic, Partition: r.Partition, At: r.Offset + 1, LeaderEpoch: -1, Metadata: "tries=1"})
			}
			if err := admin.CommitAllOffsets(ctx, "group", offsets); err != nil {
				t.Fatal(err)
			}
			end(server.Server)
			server.Restart()
			topics, err := admin.ListTopics(ctx)
			if err != nil || len(topics["work"].Partitions) != 2 {
				t.Fatalf("the topic has %d partitions (%v), want 2", len(topics["work"].Partitions), err)
			}
			configs, err := admin.DescribeTopicConfigs(ctx, "work")
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range configs[0].Configs {
				if entry.Key == "cleanup.policy" && *entry.Value != "compact" || entry.Key == "retention.ms" && *entry.Value != "12345" {
					t.Errorf("%s is %s", entry.Key, *entry.Value)
				}
			}
			committed, err := admin.FetchOffsets(ctx, "group")
			if err != nil {
				t.Fatal(err)
			}
			for topic, partitions := range offsets {
				for p, o := range partitions {
					got, ok := committed.Lookup(topic, p)
					if !ok || got.At != o.At || got.Metadata != "tries=1" {
						t.Errorf("partition %d is committed at %d (%q), want %d", p, got.At, got.Metadata, o.At)
					}
				}
			}
			// The producer goes on with its sequence where the broker has it.
			produce(ctx, t, c, "work", "after", []byte("value"))
			fresh := client(t, server.Addr, kgo.ConsumeTopics("work"))
			again := poll(ctx, t, fresh, n+1)
			if len(again) != n+1 {
				t.Errorf("%d records, want %d", len(again), n+1)
			}
			byKey := map[string]*kgo.Record{}
			for _, r := range again {
				byKey[string(r.Key)] = r
			}
			for _, r := range seen {
				if got := byKey[string(r.Key)]; got == nil || got.Offset != r.Offset || got.Partition != r.Partition || !got.Timestamp.Equal(r.Timestamp) || !bytes.Equal(got.Value, r.Value) {
					t.Errorf("record %s came back as %+v", r.Key, got)
				}
			}
		})
	}
}

// TestKillLosesNothingAcknowledged kills the broker under producers, then counts.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	server := localtest.StartBroker(t)
	ctx := testContext(t)
	c := client(t, server.Addr, kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0), kgo.MetadataMinAge(50*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	produce(ctx, t, c, "work", "first", nil)
	var mu sync.Mutex
	acknowledged, next := map[string]bool{}, 0
	const producers = 4
	for range 3 {
		var running sync.WaitGroup
		stop := make(chan struct{})
		for range producers {
			running.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					mu.Lock()
					next++
					key := fmt.Sprint(next)
					mu.Unlock()
					if err := c.ProduceSync(ctx, &kgo.Record{Topic: "work", Key: []byte(key)}).FirstErr(); err != nil {
						t.Errorf("record %s: %v", key, err)
						return
					}
					mu.Lock()
					acknowledged[key] = true
					mu.Unlock()
				}
			})
		}
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
		before := count()
		for count() < before+50 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		server.Kill()
		server.Restart()
		close(stop)
		running.Wait()
	}
	end := int64(0)
	offsets, err := kadm.NewClient(c).ListEndOffsets(ctx, "work")
	if err != nil {
		t.Fatal(err)
	}
	offsets.Each(func(o kadm.ListedOffset) { end += o.Offset })
	fresh := client(t, server.Addr, kgo.ConsumeTopics("work"))
	times := map[string]int{}
	for _, r := range poll(ctx, t, fresh, int(end)) {
		times[string(r.Key)]++
	}
	twice := 0
	for key := range acknowledged {
		switch times[key] {
		case 0:
			t.Errorf("acknowledged record %s is lost", key)
		case 1:
		default:
			twice++
		}
	}
	if inFlight := 3 * producers; twice > inFlight {
		t.Errorf("%d records are there more than once, %d were in flight at a kill", twice, inFlight)
	}
}

func TestGroupSharesPartitions(t *testing.T) {
	addr, _ := start(t, broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), AutoCreate: true})
	ctx := testContext(t)
	admin := kadm.NewClient(client(t, addr))
	if _, err := admin.CreateTopic(ctx, 4, 1, nil, "work"); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	assigned := map[int]int{}
	member := func(id int) *kgo.Client {
		count := func(sign int) func(context.Context, *kgo.Client, map[string][]int32) {
			return func(_ context.Context, _ *kgo.Client, p map[string][]int32) {
				mu.Lock()
				defer mu.Unlock()
				assigned[id] += sign * len(p["work"])
			}
		}
		c := client(t, addr, kgo.ConsumeTopics("work"), kgo.ConsumerGroup("group"), kgo.HeartbeatInterval(100*time.Millisecond),
			kgo.OnPartitionsAssigned(count(1)), kgo.OnPartitionsRevoked(count(-1)), kgo.OnPartitionsLost(count(-1)))
		return c
	}
	await := func(want string) {
		t.Helper()
		for {
			mu.Lock()
			got := fmt.Sprint(assigned)
			mu.Unlock()
			if got == want {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("partitions are shared as %s, want %s", got, want)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	member(1)
	await("map[1:4]")
	second := member(2)
	await("map[1:2 2:2]")
	second.Close()
	await("map[1:4 2:0]")
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	addr, stop := start(t, broker.Config{Addr: "127.0.0.1:0", Dir: dir})
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  broker.Config
		want string
	}{
		"directory in use": {broker.Config{Addr: "127.0.0.1:0", Dir: dir}, "is in use by process"},
		"port in use":      {broker.Config{Addr: addr, Dir: t.TempDir()}, port + ", another program listens there: stop it, or let `leafcutter up --any-port` choose"},
		"every address":    {broker.Config{Addr: "0.0.0.0:0", Dir: t.TempDir()}, "is not 127.0.0.1"},
		"nothing given":    {broker.Config{}, "no data directory given"},
	} {
		_, err := broker.New(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	stop()
	if _, stop := start(t, broker.Config{Addr: addr, Dir: dir}); stop == nil {
		t.Error("no start after the stop")
	}
}

// TestCompactedTopicKeepsTheLastOfEachKey is what controls and models rely on to stay short.
func TestCompactedTopicKeepsTheLastOfEachKey(t *testing.T) {
	addr, _ := start(t, broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir()})
	ctx := testContext(t)
	c := client(t, addr)
	admin := kadm.NewClient(c)
	if _, err := admin.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Name: "log.cleaner.backoff.ms", Value: kadm.StringPtr("20")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateTopic(ctx, 1, 1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}, "controls"); err != nil {
		t.Fatal(err)
	}
	const versions = 30
	for v := range versions {
		for _, key := range []string{"a", "b"} {
			produce(ctx, t, c, "controls", key, fmt.Append(nil, v))
		}
	}
	for {
		fresh, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("controls"))
		if err != nil {
			t.Fatal(err)
		}
		last, n := map[string]string{}, 0
		for last["a"] != "29" || last["b"] != "29" {
			for _, r := range poll(ctx, t, fresh, 1) {
				last[string(r.Key)] = string(r.Value)
				n++
			}
		}
		fresh.Close()
		if n <= 3 { // the newest batch is left alone
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%d records are left of %d", n, 2*versions)
		}
	}
}
