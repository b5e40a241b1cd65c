package stage

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/kafka"
)

// CodeBatchTooLarge is the code of records that came in a compressed batch which unfolds to more, or to more of them, than a
// stage may hold.
const CodeBatchTooLarge = "batch-too-large"

// refuse gives up a batch that unfolds to more than kafka.MaxDecompressed. Kafka's client has stopped reading the partition
// there, for it would meet the same batch again; nothing of it was held in memory. The batch is one record to the rest of
// this package, at the batch's last offset: its dead letter, which has no value, names the offsets, and only once that is
// acknowledged may the partition be committed past them. Meanwhile the records behind it are read.
//
// It is called between a poll and its AllowRebalance, so the partition cannot be revoked under it.
func (r *Runner) refuse(ctx context.Context, batch *kgo.ErrDecompressTooLarge) {
	r.mu.Lock()
	p := r.partitions[topicPartition{batch.Topic, batch.Partition}]
	r.mu.Unlock()
	if p == nil {
		return // revoked before this poll; the new owner meets it
	}
	last := batch.NextOffset - 1
	rec := &kgo.Record{Topic: batch.Topic, Partition: batch.Partition, Offset: last, LeaderEpoch: batch.Epoch, Timestamp: time.Now()}
	p.take(last, batch.Epoch)
	i := &item{part: p, in: r.in(rec), bulk: isBulk(batch.Topic), cost: 1,
		refused: fault.Permanentf(CodeBatchTooLarge, "the records at offsets %d to %d came in a compressed batch that unfolds to more than %d MiB, or to more records than fit into as much",
			batch.Offset, last, kafka.MaxDecompressed>>20)}
	r.open(ctx, p)
	r.commits.Lock() // the client asks that no commit be under way
	r.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{batch.Topic: {batch.Partition: {Epoch: batch.Epoch, Offset: batch.NextOffset}}})
	r.commits.Unlock()
	r.lanes.admit(i)
}

// beginnings gives each partition that nothing was ever committed of the offset at which it begins now. Said as "the start" it
// would not be known to the client as a place, and SetOffsets, by which refuse passes a batch, does nothing in a partition
// without one: if its very first batch is such a batch, it would be read no further, and nobody told.
func (r *Runner) beginnings(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	var topics []string
	for topic, partitions := range offsets {
		for _, at := range partitions {
			if at.EpochOffset().Offset < 0 && !slices.Contains(topics, topic) {
				topics = append(topics, topic)
			}
		}
	}
	if len(topics) == 0 {
		return offsets, nil
	}
	within, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	// By a client of its own: the stage's calls this, maybe before it has been handed to the Runner.
	client, err := kafka.NewClient(r.kafka)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	starts, err := kadm.NewClient(client).ListStartOffsets(within, topics...)
	if err != nil {
		// They begin where they did; the offsets asked for here are for a batch that is hardly ever there.
		r.log.Warn("asking where partitions begin failed", "topics", topics, "error", err)
		return offsets, nil
	}
	for topic, partitions := range offsets {
		for id, at := range partitions {
			if start, ok := starts.Lookup(topic, id); ok && start.Err == nil && at.EpochOffset().Offset < 0 {
				partitions[id] = kgo.NewOffset().At(start.Offset)
			}
		}
	}
	return offsets, nil
}
