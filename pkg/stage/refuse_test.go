package stage_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/internal/peak"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// bomb puts a batch of three records onto a partition that is small on the wire and unfolds to more than a stage may hold.
func (b *broker) bomb(topic string, partition int32) {
	b.t.Helper()
	b.fold(topic, partition, 1, 3, kafka.MaxDecompressed/3)
}

// fold puts batches onto a partition, each of so many records that fold well.
func (b *broker) fold(topic string, partition int32, batches, records, size int) {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(kafka.MaxDecompressed+1<<20), kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerLinger(time.Minute),
		kgo.MaxBufferedBytes(0), kgo.MaxBufferedRecords(records+1), kgo.BrokerMaxWriteBytes(1<<30))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	var value []byte
	if size > 0 {
		value = bytes.Repeat([]byte("leaf by leaf, "), size/14+1)[:size] // which is unfolded faster than zeros
	}
	for range batches {
		for range records {
			client.Produce(b.t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					b.t.Error(err)
				}
			})
		}
		if err := client.Flush(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
	}
}

// A batch that unfolds to more than a stage may hold is refused as one, with a letter that names it: what came before and
// comes after it is handled, and whoever reads the partition next does not meet it again. It may be the very first of a
// partition of which nothing was ever committed.
func TestBatchTooLargeIsRefused(t *testing.T) {
	for name, before := range map[string]int{"first": 0, "between": 8} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.produce("in", numbers(0, before)...)
			b.bomb("in", 1)
			b.produce("in", numbers(before, 16)...)
			cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
				return stage.Result{Out: []stage.Out{copyOut(in)}}
			}))
			cfg.Condemned = func(stage.In, string, error) []stage.Out {
				t.Error("what was never read is said to be about something")
				return nil
			}
			stop := b.start(cfg)
			letter := b.read(schemas.TopicDeadLetters, 1)[0]
			if h := headersOf(letter); h[schemas.HeaderCode] != stage.CodeBatchTooLarge || h[schemas.HeaderPartition] != "1" || len(letter.Value) != 0 {
				t.Errorf("the letter says %v and holds %d bytes", h, len(letter.Value))
			}
			if got := b.values("out", 16); len(got) != 16 || got[0] != "00000" || got[15] != "00015" {
				t.Errorf("handled %v", got)
			}
			b.waitCommitted("test", 16+3)
			stop()
			b.start(cfg)
			b.produce("in", numbers(16, 20)...)
			b.values("out", 20)
			b.waitCommitted("test", 20+3)
			if n := b.ends(schemas.TopicDeadLetters); n != 1 {
				t.Errorf("%d letters, want 1", n)
			}
		})
	}
}

// A batch of records without bytes is small when it is unfolded, and its records are not.
func TestBatchOfTooManyRecordsIsRefused(t *testing.T) {
	b := newBroker(t)
	b.fold("in", 1, 1, 200_000, 0)
	b.put("in", 1, "behind it")
	b.start(config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	})))
	letter := b.read(schemas.TopicDeadLetters, 1)[0]
	if code := headersOf(letter)[schemas.HeaderCode]; code != stage.CodeBatchTooLarge {
		t.Errorf("the letter says %q", code)
	}
	if got := b.values("out", 1); got[0] != "behind it" {
		t.Errorf("handled %q", got)
	}
	b.waitCommitted("test", 200_001)
}

// Batches that are within the bound of one are all handled, in order, though they come in one fetch, and together they
// take no more memory than a few of them. A record that waits keeps nothing of the batch that it came in.
func TestManyLargeBatchesInOneFetchAreHandled(t *testing.T) {
	const batches, records, size = 8, 10, 31 << 20 / 10
	b := newBroker(t)
	b.fold("in", 1, batches, records, size)
	b.fold("in.bulk", 1, 2, records, size)
	cfg := config(stage.Each(func(context.Context, stage.In) stage.Result { return stage.Result{} }))
	cfg.Limits.Workers = 1
	var mu sync.Mutex
	var next int64
	release := make(chan struct{})
	cfg.Hold = func(in stage.In) time.Duration {
		if in.Topic == "in.bulk" {
			select {
			case <-release:
			default:
				return 10 * time.Millisecond
			}
		}
		return 0
	}
	cfg.Handler = stage.Each(func(_ context.Context, in stage.In) stage.Result {
		if in.Topic == "in" {
			mu.Lock()
			defer mu.Unlock()
			if in.Offset != next || len(in.Value) != size {
				t.Errorf("offset %d with %d bytes, want %d", in.Offset, len(in.Value), next)
			}
			next = in.Offset + 1
		}
		return stage.Result{}
	})
	most := peak.Heap()
	b.start(cfg)
	b.waitCommitted("test", batches*records)
	mib := most() >> 20
	t.Logf("%d MiB at most", mib)
	if bound := 3 * kafka.MaxUnfolded >> 20; mib > bound {
		t.Errorf("%d MiB, want at most %d", mib, bound)
	}
	close(release)
	b.waitCommitted("test", (batches+2)*records)
	if n := b.ends(schemas.TopicDeadLetters); n != 0 {
		t.Errorf("%d letters", n)
	}
}
