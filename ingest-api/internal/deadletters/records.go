package deadletters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// reader reads single records of the topic dead-letters, each where a row says that it lies. It belongs to no group and
// holds a few hundred kilobytes of the topic at once.
type reader struct {
	topic  string
	client *kgo.Client
	starts kadm.ListedOffsets
	ends   kadm.ListedOffsets

	partition int32
	next      int64 // offset from which on the client reads; -1 where it reads nothing
	ahead     []*kgo.Record
}

// maxSkip is how many records are read past rather than asked for anew.
const maxSkip = 100

func newReader(ctx context.Context, k kafka.Config) (*reader, error) {
	client, err := kafka.NewClient(k,
		// Partitions are added as they are wanted. An offset that is not there is told, never jumped from.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(1<<20), kgo.FetchMaxPartitionBytes(256<<10), kgo.MaxConcurrentFetches(1),
	)
	if err != nil {
		return nil, err
	}
	r := &reader{topic: k.Topic(schemas.TopicDeadLetters), client: client, next: -1}
	admin := kadm.NewClient(client)
	if r.starts, err = admin.ListStartOffsets(ctx, r.topic); err == nil {
		r.ends, err = admin.ListEndOffsets(ctx, r.topic)
	}
	if err == nil {
		err = errors.Join(r.starts.Error(), r.ends.Error())
	}
	if err != nil {
		client.Close()
		return nil, fault.AsUnavailable("kafka", fmt.Errorf("list the offsets of %s: %w", r.topic, err))
	}
	return r, nil
}

func (r *reader) close() { r.client.CloseAllowingRebalance() }

// byPlace sorts rows into the order in which a reader reads them.
func byPlace(rows []row) {
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.LetterPartition, b.LetterPartition), cmp.Compare(a.LetterOffset, b.LetterOffset))
	})
}

// at is the record at a place, nil where Kafka has none there any more. Within a partition offsets must ascend.
func (r *reader) at(ctx context.Context, partition int32, offset int64) (*kgo.Record, error) {
	start, known := r.starts.Lookup(r.topic, partition)
	end, ended := r.ends.Lookup(r.topic, partition)
	if !known || !ended || offset < start.Offset || offset >= end.Offset {
		return nil, nil
	}
	for {
		for len(r.ahead) > 0 && (r.ahead[0].Partition != partition || r.ahead[0].Offset < offset) {
			r.ahead = r.ahead[1:]
		}
		if len(r.ahead) > 0 {
			if r.ahead[0].Offset > offset {
				return nil, nil // it was not kept
			}
			return r.ahead[0], nil
		}
		if r.next < 0 || r.partition != partition || r.next > offset || offset-r.next > maxSkip {
			r.seek(partition, offset)
		}
		fetches := r.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, fault.AsUnavailable("kafka", fmt.Errorf("read %s: %w", r.topic, context.Cause(ctx)))
		}
		for _, e := range fetches.Errors() {
			return nil, fault.AsUnavailable("kafka", fmt.Errorf("read %s partition %d: %w", r.topic, e.Partition, e.Err))
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if rec.Partition == r.partition && rec.Offset >= r.next {
				r.ahead, r.next = append(r.ahead, kafka.Own(rec)), rec.Offset+1
			}
		})
	}
}

// seek reads on from another place.
func (r *reader) seek(partition int32, offset int64) {
	if r.next >= 0 {
		r.client.RemoveConsumePartitions(map[string][]int32{r.topic: {r.partition}})
	}
	r.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: {partition: kgo.NewOffset().At(offset)}})
	r.partition, r.next, r.ahead = partition, offset, nil
}

// headersOf are a record's headers by name.
func headersOf(rec *kgo.Record) map[string]string {
	headers := make(map[string]string, len(rec.Headers))
	for _, h := range rec.Headers {
		headers[h.Key] = string(h.Value)
	}
	return headers
}
