package e2e

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/pipeline"
	"leafcutter/pkg/kafka"
)

// producer is a client of the user's own, with the settings of none of ours but the size of a record.
func producer(t testing.TB, p *pipeline.Pipeline, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client := must(kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(p.Kafka), kgo.ProducerBatchMaxBytes(9 << 20)}, opts...)...))(t)
	t.Cleanup(client.Close)
	return client
}

// produce puts one record onto a topic and gives it back with its place.
func produce(ctx context.Context, t testing.TB, p *pipeline.Pipeline, r *kgo.Record) *kgo.Record {
	t.Helper()
	made, err := producer(t, p).ProduceSync(ctx, r).First()
	ok(t, err)
	return made
}

// records reads a topic from its beginning to where it ends now.
func records(ctx context.Context, t testing.TB, p *pipeline.Pipeline, topic string) []*kgo.Record {
	t.Helper()
	client := must(kafka.NewClient(p.KafkaConfig(), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())))(t)
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	ok(t, errors.Join(err, ends.Error()))
	left := map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		if end.Offset > 0 {
			left[end.Partition] = end.Offset
		}
	})
	var all []*kgo.Record
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		ok(t, fetches.Err0())
		for r := range fetches.RecordsAll() {
			all = append(all, r)
			if end, known := left[r.Partition]; known && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		}
	}
	return all
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}
