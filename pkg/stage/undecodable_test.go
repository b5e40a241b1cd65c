package stage_test

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/pkg/stage"
)

// garble puts a batch of three records onto a partition whose bytes are none of the codec that it names. A broker that
// does not look inside takes it.
func (b *broker) garble(topic string, partition int32) {
	b.t.Helper()
	now := time.Now().UnixMilli()
	batch := kmsg.RecordBatch{PartitionLeaderEpoch: -1, Magic: 2, Attributes: 4, LastOffsetDelta: 2, FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 3, Records: []byte("no zstd at all")}
	raw := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	topics, err := kadm.NewClient(b.client).ListTopics(b.t.Context(), topic)
	if err != nil {
		b.t.Fatal(err)
	}
	request := kmsg.NewPtrProduceRequest()
	request.Acks, request.TimeoutMillis = -1, 10_000
	whole := kmsg.NewProduceRequestTopic()
	whole.Topic, whole.TopicID = topic, topics[topic].ID
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = partition, raw
	whole.Partitions = append(whole.Partitions, part)
	request.Topics = append(request.Topics, whole)
	answer, err := b.client.Broker(int(topics[topic].Partitions[partition].Leader)).RetriableRequest(b.t.Context(), request)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := kerr.ErrorForCode(answer.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode); err != nil {
		b.t.Fatal(err)
	}
}

// A batch that nobody can decompress stops its partition with an alarm, and that alone: the others go on as fast as before.
func TestABatchThatCannotBeDecompressedStopsItsPartition(t *testing.T) {
	b := newBroker(t)
	b.garble("in", 1)
	b.put("in", 1, "behind it")
	for n := range 20 {
		b.put("in", int32(2*(n%2)), strconv.Itoa(n))
	}
	cfg := config(stage.Each(func(_ context.Context, in stage.In) stage.Result {
		return stage.Result{Out: []stage.Out{copyOut(in)}}
	}))
	r, err := stage.New(b.cfg, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	eventually(t, "the stage says which partition is stopped", func() bool {
		err := r.Ready()
		return err != nil && strings.Contains(err.Error(), "in partition 1 is stopped")
	})
	if got := b.values("out", 20); len(got) != 20 || slices.Contains(got, "behind it") {
		t.Errorf("handled %v", got)
	}
	b.waitCommitted("test", 20)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func (b *broker) put(topic string, partition int32, value string) {
	b.t.Helper()
	r := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(value), Value: []byte(value)}
	if err := manual(b.t, b).ProduceSync(b.t.Context(), r).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}
