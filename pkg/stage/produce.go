package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/propagation"

	"leafcutter/pkg/fault"
	"leafcutter/pkg/kafka"
)

// sendAll produces outs and calls finished once, when each is acknowledged or failed, with the first error classed.
func sendAll(ctx context.Context, client *kgo.Client, k kafka.Config, outs []Out, finished func(error)) {
	var left atomic.Int64
	var once sync.Once
	var first error
	left.Store(int64(len(outs)))
	for _, o := range outs {
		client.Produce(ctx, record(k, o), func(_ *kgo.Record, err error) {
			if err != nil {
				once.Do(func() { first = classProduce(o, err) })
			}
			if left.Add(-1) == 0 {
				finished(first)
			}
		})
	}
}

func record(k kafka.Config, o Out) *kgo.Record {
	rec := &kgo.Record{Topic: k.Topic(o.Topic), Value: o.Value}
	if o.Key != "" {
		rec.Key = []byte(o.Key)
	}
	for name, value := range o.Headers {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	return rec
}

// classProduce classes a failed produce: what is wrong with the record itself stays wrong, all else is Kafka's absence.
func classProduce(o Out, err error) error {
	err = fmt.Errorf("produce to %s: %w", o.Topic, err)
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge), errors.Is(err, kerr.InvalidRecord):
		return fault.AsPermanent("record-too-large", err)
	case errors.Is(err, context.Canceled):
		return err
	default:
		return fault.AsUnavailable("kafka", err)
	}
}

// Producer produces records outside a stage: the API and the command line.
type Producer struct {
	kafka  kafka.Config
	client *kgo.Client
}

// NewProducer makes a Producer; it connects when it is first used.
func NewProducer(k kafka.Config, log *slog.Logger) (*Producer, error) {
	// Records come one at a time here: compressing one saves nothing, and a compressor keeps megabytes.
	client, err := kafka.NewClient(k, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0), kgo.MaxBufferedBytes(bufferedBytes), kgo.RecordRetries(1<<30))
	if err != nil {
		return nil, err
	}
	if log != nil {
		log.Debug("producing", "brokers", k.Brokers)
	}
	return &Producer{kafka: k, client: client}, nil
}

// Produce sends outs, with the trace of ctx, and returns once each is acknowledged by all replicas in sync. Bound the
// wait with ctx: without that it lasts as long as Kafka is away.
func (p *Producer) Produce(ctx context.Context, outs ...Out) error {
	if len(outs) == 0 {
		return nil
	}
	for i := range outs {
		outs[i].Headers = withTrace(ctx, outs[i].Headers)
	}
	answer := make(chan error, 1)
	sendAll(ctx, p.client, p.kafka, outs, func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		// An idempotent record that was sent cannot be called back: it may still arrive, which its lc-id allows for.
		return fault.AsUnavailable("kafka", fmt.Errorf("produce: no acknowledgement: %w", ctx.Err()))
	}
}

// Close drops what is not acknowledged and disconnects. It may be called twice.
func (p *Producer) Close() { p.client.Close() }

// withTrace is headers with the W3C trace context of ctx.
func withTrace(ctx context.Context, headers map[string]string) map[string]string {
	with := make(map[string]string, len(headers)+2)
	for k, v := range headers {
		with[k] = v
	}
	propagation.TraceContext{}.Inject(ctx, propagation.MapCarrier(with))
	return with
}
