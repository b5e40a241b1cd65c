package stage_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// bomb puts a batch of three records onto a partition that is small on the wire and unfolds to more than a stage may hold.
func (b *broker) bomb(topic string, partition int32) {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(kafka.MaxDecompressed+1<<20), kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerLinger(time.Minute),
		kgo.MaxBufferedBytes(0), kgo.BrokerMaxWriteBytes(1<<30))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	for range 3 {
		client.Produce(b.t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: make([]byte, kafka.MaxDecompressed/3)}, func(_ *kgo.Record, err error) {
			if err != nil {
				b.t.Error(err)
			}
		})
	}
	if err := client.Flush(b.t.Context()); err != nil {
		b.t.Fatal(err)
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
