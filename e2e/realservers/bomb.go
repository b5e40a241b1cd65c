package realservers

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/pkg/kafka"
)

// What a bomb is made of: records of zeros, just below 2 GiB in all.
const (
	bombRecords = 8
	bombValue   = (2<<30 - 64<<10) / bombRecords
)

// Explode puts one batch onto a partition that unfolds to 2 GiB of zeros, and gives its size on the wire in bytes: a
// thousandth by gzip, less by zstd. No client makes such a batch, so it is put together here: version 2 of the format, as
// Kafka's own documentation has it.
func Explode(ctx context.Context, c kafka.Config, topic string, partition int32, codec string) (wire int, err error) {
	var folded bytes.Buffer
	var encoder io.WriteCloser = gzip.NewWriter(&folded)
	attributes := int16(1)
	if codec == "zstd" {
		attributes = 4
		if encoder, err = zstd.NewWriter(&folded); err != nil {
			return 0, fmt.Errorf("compress: %w", err)
		}
	}
	if err := zeros(encoder); err != nil {
		return 0, fmt.Errorf("compress: %w", err)
	}
	raw := batch(bombRecords, attributes, folded.Bytes())
	return len(raw), produce(ctx, c, topic, partition, raw)
}

// Garble tries to put a batch onto a partition whose bytes are none of the codec that it names.
func Garble(ctx context.Context, c kafka.Config, topic string, partition int32) error {
	return produce(ctx, c, topic, partition, batch(3, 4, []byte("no zstd at all")))
}

// batch is n records, compressed already, as a batch on the wire.
func batch(n int32, attributes int16, compressed []byte) []byte {
	now := time.Now().UnixMilli()
	whole := kmsg.RecordBatch{PartitionLeaderEpoch: -1, Magic: 2, Attributes: attributes, LastOffsetDelta: n - 1,
		FirstTimestamp: now, MaxTimestamp: now, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: n, Records: compressed}
	raw := whole.AppendTo(nil)
	// The length counts what is behind it, the sum covers what is behind that.
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// zeros writes the records, one after another, so that only what they are compressed to is held.
func zeros(w io.WriteCloser) error {
	nothing := make([]byte, 1<<20)
	for n := range bombRecords {
		head := []byte{0}                                            // attributes
		for _, number := range []int64{0, int64(n), -1, bombValue} { // deltas of timestamp and offset, no key, the value's length
			head = binary.AppendVarint(head, number)
		}
		tail := []byte{0} // no headers
		if _, err := w.Write(append(binary.AppendVarint(nil, int64(len(head)+bombValue+len(tail))), head...)); err != nil {
			return err
		}
		for left := bombValue; left > 0; left -= len(nothing) {
			if _, err := w.Write(nothing[:min(left, len(nothing))]); err != nil {
				return err
			}
		}
		if _, err := w.Write(tail); err != nil {
			return err
		}
	}
	return w.Close()
}

// produce sends a batch as it is to the leader of a partition.
func produce(ctx context.Context, c kafka.Config, topic string, partition int32, raw []byte) error {
	client, err := kafka.NewClient(c)
	if err != nil {
		return err
	}
	defer client.Close()
	topics, err := kadm.NewClient(client).ListTopics(ctx, topic)
	if err != nil {
		return fmt.Errorf("look for the leader of %s: %w", topic, err)
	}
	there := topics[topic]
	request := kmsg.NewPtrProduceRequest()
	request.Acks, request.TimeoutMillis = -1, 300_000 // a broker that looks inside unfolds it all
	whole := kmsg.NewProduceRequestTopic()
	whole.Topic, whole.TopicID = topic, there.ID
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = partition, raw
	whole.Partitions = append(whole.Partitions, part)
	request.Topics = append(request.Topics, whole)
	answer, err := client.Broker(int(there.Partitions[partition].Leader)).RetriableRequest(ctx, request)
	if err != nil {
		return fmt.Errorf("produce to %s: %w", topic, err)
	}
	for _, t := range answer.(*kmsg.ProduceResponse).Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("produce to %s: %w", topic, err)
			}
		}
	}
	return nil
}
