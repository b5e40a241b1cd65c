package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Tail reads a compacted topic from its start, calls caughtUp once everything that was there at the call has been
// applied, and goes on applying until ctx ends. It belongs to no group: every instance sees every record. A nil value
// is a tombstone; a value is the callee's to keep. A batch that unfolds to more than MaxDecompressed is passed over. It returns
// nil when ctx ends; a topic that does not exist is an error.
func Tail(ctx context.Context, c Config, topic string, apply func(key string, value []byte), caughtUp func()) error {
	name := c.Topic(topic)
	client, err := NewClient(c, kgo.ConsumeTopics(name), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	ends, err := endOffsets(ctx, client, name)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	said, empty := false, 0
	for {
		if !said && empty >= emptyPolls && !answers(ctx, client, name) {
			empty = 0 // it is not the topic that is silent
		}
		if !said && (len(ends) == 0 || empty >= emptyPolls) {
			said = true
			caughtUp()
		}
		fetches := poll(ctx, client, !said)
		if ctx.Err() != nil {
			return nil
		}
		for _, e := range fetches.Errors() {
			if batch, ok := errors.AsType[*kgo.ErrDecompressTooLarge](e.Err); ok {
				// None of ours writes batches that unfold to so much. Were it an error, whoever may write to the topic could
				// stop all who read it, now and at every start; what one of ours said is behind it or before it.
				client.SetOffsets(map[string]map[int32]kgo.EpochOffset{name: {batch.Partition: {Epoch: batch.Epoch, Offset: batch.NextOffset}}})
				if end, waiting := ends[batch.Partition]; waiting && batch.NextOffset >= end {
					delete(ends, batch.Partition)
				}
				continue
			}
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return fmt.Errorf("read %s: %w", name, e.Err)
			}
		}
		if fetches.NumRecords() == 0 {
			empty++
		} else {
			empty = 0
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				apply(string(r.Key), bytes.Clone(r.Value)) // which shared its memory with all of its batch
				if end, waiting := ends[p.Partition]; waiting && r.Offset+1 >= end {
					delete(ends, p.Partition)
				}
			}
		})
	}
}

// answers tells whether the brokers of a topic answer now.
func answers(ctx context.Context, client *kgo.Client, topic string) bool {
	ctx, cancel := context.WithTimeout(ctx, emptyPoll)
	defer cancel()
	_, err := endOffsets(ctx, client, topic)
	return err == nil
}

// Compaction may have removed the very last offsets, so that the end is never seen: a topic that brings nothing this
// often in a row, this long each, while its brokers answer, has nothing more.
const (
	emptyPolls = 3
	emptyPoll  = 2 * time.Second
)

func poll(ctx context.Context, client *kgo.Client, bounded bool) kgo.Fetches {
	if bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, emptyPoll)
		defer cancel()
	}
	return client.PollFetches(ctx)
}

// endOffsets gives, for each partition that holds a record, the offset behind its last one.
func endOffsets(ctx context.Context, client *kgo.Client, topic string) (map[int32]int64, error) {
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", topic, err)
	}
	listed, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", topic, err)
	}
	ends := map[int32]int64{}
	var faults []error
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			faults = append(faults, o.Err)
			return
		}
		if start, ok := starts.Lookup(topic, o.Partition); !ok || start.Offset < o.Offset {
			ends[o.Partition] = o.Offset
		}
	})
	if len(listed[topic]) == 0 && len(faults) == 0 {
		faults = append(faults, kerr.UnknownTopicOrPartition)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("topic %s: %w", topic, err)
	}
	return ends, nil
}
