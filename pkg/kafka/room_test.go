package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
		name                                     string
		partitions, idle, batches, records, size int
	}{
		{"just below the bound", 1, 0, 32, 10, oneOf16 / 10 * 31 / 32},
		{"in several partitions", 4, 0, 8, 10, oneOf16 / 10 * 31 / 32},
		{"beside a partition without any", 1, 1, 32, 10, oneOf16 / 10 * 31 / 32},
		{"of records without bytes", 1, 0, 32, 8_000, 0},
	} {
		for _, group := range []string{"", "group"} {
			t.Run(fmt.Sprint(tc.name, " ", group), func(t *testing.T) {
				cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(int32(tc.partitions+tc.idle), "in"))
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

// A client that has no room asks again no faster than batches wait for it, though its fetch was for a partition besides that
// has nothing new, which keeps the client from backing off.
func TestNoRoomIsNoSpin(t *testing.T) {
	const batches, records, size = 8, 10, oneOf16 / 10 * 31 / 32
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	foldedTo(t, cluster.ListenAddrs(), "in", 0, batches, records, size)
	var asked requests
	client, err := NewClient(Config{Brokers: cluster.ListenAddrs()}, append(bounded(oneOf16, allOf16), kgo.WithHooks(&asked),
		kgo.ConsumeTopics("in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const while = 2 * time.Second
	poll := func() kgo.Fetches {
		ctx, cancel := context.WithTimeout(t.Context(), while)
		defer cancel()
		return client.PollFetches(ctx)
	}
	kept := []kgo.Fetches{poll(), poll()}
	before, began := asked.fetches.Load(), time.Now()
	for range 2 {
		kept = append(kept, poll())
	}
	n := asked.fetches.Load() - before
	most := int64(time.Since(began)/refusedFor) + 2
	t.Logf("%d fetches, at most %d", n, most)
	if n < 2 || n > most {
		t.Errorf("%d fetches without room, want at most %d", n, most)
	}
	left := batches * records
	for _, fetches := range kept {
		left -= fetches.NumRecords()
	}
	if left == 0 {
		t.Error("there was room for all")
	}
	// Nothing is kept from here on.
	for deadline := time.Now().Add(time.Minute); left > 0 && time.Now().Before(deadline); {
		left -= poll().NumRecords()
	}
	if left != 0 {
		t.Errorf("%d records were not read once there was room", left)
	}
}

// A batch for which there is no room waits once for each answer, with all others that the answer brought.
func TestRefusedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(10)
		for range 3 {
			r.OnBrokerRead(kgo.BrokerMetadata{}, (&kmsg.FetchRequest{}).Key(), 0, 0, 0, nil)
			for n, want := range []time.Duration{refusedFor, 0, 0} {
				began := time.Now()
				if err := r.take(11); !errors.Is(err, errNotNow) {
					t.Fatal(err)
				}
				if waited := time.Since(began); waited != want {
					t.Errorf("the batch of partition %d waited %s, want %s", n, waited, want)
				}
				time.Sleep(time.Second) // the next is counted
			}
			r.OnBrokerRead(kgo.BrokerMetadata{}, (&kmsg.HeartbeatRequest{}).Key(), 0, 0, 0, nil)
			if began := time.Now(); r.take(11) == nil || time.Since(began) != 0 {
				t.Errorf("waited %s though nothing else was fetched", time.Since(began))
			}
		}
		if err := r.take(10); err != nil {
			t.Error(err)
		}
	})
}

// What is kept of a batch by a copy keeps nothing else of it: others are read though one record of each is kept.
func TestKeptRecordsKeepNoBatches(t *testing.T) {
	const batches, records, size = 8, 10, oneOf16 / 10 * 31 / 32
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	foldedTo(t, cluster.ListenAddrs(), "in", 0, batches, records, size)
	client, err := NewClient(Config{Brokers: cluster.ListenAddrs()}, append(bounded(oneOf16, allOf16),
		kgo.ConsumeTopics("in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var kept []*kgo.Record
	for left := batches * records; left > 0; {
		fetches := client.PollRecords(ctx, 256)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%d records before the last: %v", left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if left--; r.Offset%records == 0 {
				kept = append(kept, Own(r))
			}
		})
	}
	for n, r := range kept {
		if r.Offset != int64(n*records) || len(r.Value) != size || binary.BigEndian.Uint64(r.Value) != uint64(r.Offset) {
			t.Errorf("the copy of record %d is of %d, with %d bytes", n*records, r.Offset, len(r.Value))
		}
	}
}

// Nor does a value that Tail applied.
func TestAppliedValuesKeepNoBatches(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "models"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cfg := Config{Brokers: cluster.ListenAddrs()}
	const batches, records, size = 4, 10, MaxDecompressed / 10 * 15 / 16
	foldedTo(t, cfg.Brokers, "models", 0, batches, records, size)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var kept [][]byte
	applied := 0
	if err := Tail(ctx, cfg, "models", func(_ string, value []byte) {
		if applied++; applied%records == 1 {
			kept = append(kept, value)
		}
		if applied == batches*records {
			cancel()
		}
	}, func() {}); err != nil {
		t.Fatal(err)
	}
	if applied != batches*records {
		t.Errorf("%d records were applied before there was no room", applied)
	}
	for n, value := range kept {
		if len(value) != size || binary.BigEndian.Uint64(value) != uint64(n*records) {
			t.Errorf("the value of record %d has %d bytes", n*records, len(value))
		}
	}
}

func TestOwn(t *testing.T) {
	r := &kgo.Record{Topic: "in", Partition: 1, Offset: 2, Key: []byte("key"), Value: []byte("value"), Context: t.Context(),
		Headers: []kgo.RecordHeader{{Key: "header", Value: []byte("of it")}}}
	own := Own(r)
	clear(r.Key)
	clear(r.Value)
	clear(r.Headers[0].Value)
	clear(r.Headers)
	want := &kgo.Record{Topic: "in", Partition: 1, Offset: 2, Key: []byte("key"), Value: []byte("value"),
		Headers: []kgo.RecordHeader{{Key: "header", Value: []byte("of it")}}}
	if !reflect.DeepEqual(own, want) {
		t.Errorf("%+v, want %+v", own, want)
	}
	if tombstone := Own(&kgo.Record{Key: []byte("key")}); tombstone.Value != nil {
		t.Error("a copy of a tombstone is none")
	}
}

// What is not compressed, and so not counted, is fetched some MiB at a time, unless a client says otherwise.
func TestFetchesAreBounded(t *testing.T) {
	const partitions, size = 64, 192 << 10
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	for _, tc := range []struct {
		opts     []kgo.Opt
		min, max int64
	}{
		{nil, fetchBytes / 2, fetchBytes + size},
		{[]kgo.Opt{kgo.FetchMaxBytes(20 << 20)}, 2 * fetchBytes, 20 << 20},
	} {
		var asked requests
		client, err := NewClient(Config{Brokers: cluster.ListenAddrs()}, append(tc.opts, kgo.WithHooks(&asked), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if tc.opts == nil {
			for n := range partitions {
				client.Produce(t.Context(), &kgo.Record{Topic: "in", Partition: int32(n), Value: make([]byte, size)}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			}
			if err := client.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		client.AddConsumeTopics("in")
		for left := partitions; left > 0; {
			fetches := client.PollFetches(t.Context())
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			left -= fetches.NumRecords()
		}
		if most := asked.most.Load(); most < tc.min || most > tc.max {
			t.Errorf("a fetch brought %d bytes, want %d to %d", most, tc.min, tc.max)
		}
	}
}

// requests counts the fetches of a client that were answered, and the bytes of the largest answer.
type requests struct{ fetches, most atomic.Int64 }

func (r *requests) OnBrokerRead(_ kgo.BrokerMetadata, key int16, bytes int, _, _ time.Duration, err error) {
	if key == (&kmsg.FetchRequest{}).Key() && err == nil {
		r.fetches.Add(1)
		r.most.Store(max(r.most.Load(), int64(bytes))) // of one broker: one at a time
	}
}
