package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/pkg/internal/peak"
)

// The bounds of clients, to scale: the race detector makes unfolding slow.
const (
	oneOf16 = MaxDecompressed / 16
	allOf16 = MaxUnfolded / 16
)

// foldedTo puts batches onto a partition of a topic, each of so many records, whose values begin with their offsets and
// fold well: a few kB each on the wire.
func foldedTo(t *testing.T, brokers []string, topic string, partition int32, batches, records, size int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(MaxDecompressed), kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerLinger(time.Minute),
		kgo.MaxBufferedBytes(0), kgo.MaxBufferedRecords(records+1), kgo.BrokerMaxWriteBytes(1<<30))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	values := make([][]byte, records)
	for n := range values {
		if size > 0 {
			values[n] = bytes.Repeat([]byte("leaf by leaf, "), size/14+1)[:size] // which is unfolded faster than zeros
		}
	}
	for b := range batches {
		for n, value := range values {
			if value != nil {
				binary.BigEndian.PutUint64(value, uint64(b*records+n))
			}
			client.Produce(t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := client.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A fetch may bring many batches that are each within the bound of one. All are read, in order, and no more of them are in
// memory at a time than there is room for.
func TestManyLargeBatchesInOneFetch(t *testing.T) {
	for _, tc := range []struct {
		name                               string
		partitions, batches, records, size int
	}{
		{"just below the bound", 1, 32, 10, oneOf16 / 10 * 31 / 32},
		{"in several partitions", 4, 8, 10, oneOf16 / 10 * 31 / 32},
		{"of records without bytes", 1, 32, 8_000, 0},
	} {
		for _, group := range []string{"", "group"} {
			t.Run(fmt.Sprint(tc.name, " ", group), func(t *testing.T) {
				cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(int32(tc.partitions), "in"))
				if err != nil {
					t.Fatal(err)
				}
				defer cluster.Close()
				brokers := cluster.ListenAddrs()
				for p := range tc.partitions {
					foldedTo(t, brokers, "in", int32(p), tc.batches, tc.records, tc.size)
				}
				opts := []kgo.Opt{kgo.ConsumeTopics("in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
				if group != "" {
					opts = append(opts, kgo.ConsumerGroup(group), kgo.BlockRebalanceOnPoll(), kgo.DisableAutoCommit())
				}
				var asked requests
				opts = append(opts, kgo.WithHooks(&asked))
				opts = append(opts, bounded(oneOf16, allOf16)...)
				most := peak.Heap()
				client, err := NewClient(Config{Brokers: brokers}, opts...)
				if err != nil {
					t.Fatal(err)
				}
				defer client.CloseAllowingRebalance()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				polls, left, next := 0, tc.partitions*tc.batches*tc.records, make([]int64, tc.partitions)
				for ; left > 0; polls++ {
					fetches := client.PollRecords(ctx, 256)
					if err := fetches.Err(); err != nil {
						t.Fatalf("%d records before the last: %v", left, err)
					}
					fetches.EachRecord(func(r *kgo.Record) {
						if want := next[r.Partition]; r.Offset != want || len(r.Value) != tc.size || tc.size > 0 && binary.BigEndian.Uint64(r.Value) != uint64(want) {
							t.Fatalf("offset %d with %d bytes, want %d", r.Offset, len(r.Value), want)
						}
						next[r.Partition]++
						left--
					})
					client.AllowRebalance()
				}
				mib := most() >> 20
				t.Logf("%d batches in %d polls and %d fetches: %d MiB at most", tc.partitions*tc.batches, polls, asked.fetches.Load(), mib)
				// Each fetch brings a batch at least, or has waited for room, or for records where all have been read.
				if n := int(asked.fetches.Load()); n > 4*tc.partitions*tc.batches {
					t.Errorf("%d fetches of %d batches", n, tc.partitions*tc.batches)
				}
				if bound := 4 * allOf16 >> 20; mib > bound {
					t.Errorf("%d MiB, want at most %d", mib, bound)
				}
			})
		}
	}
}

// requests counts the fetches of a client that were answered.
type requests struct{ fetches atomic.Int64 }

func (r *requests) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == (&kmsg.FetchRequest{}).Key() && err == nil {
		r.fetches.Add(1)
	}
}
