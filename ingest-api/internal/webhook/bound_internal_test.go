package webhook

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	metrics "go.opentelemetry.io/otel/metric/noop"
	traces "go.opentelemetry.io/otel/trace/noop"

	"leafcutter/deploy/local/localtest"
	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// hanging is a receiver that answers nobody, and a book without rows.
type hanging struct{}

func (hanging) Post(ctx context.Context, _, _ string, _ []byte) (Answer, error) {
	<-ctx.Done()
	return Answer{}, ctx.Err()
}

func (hanging) Read(context.Context, string, string) (Delivery, error) { return Delivery{}, nil }
func (hanging) Write(context.Context, Delivery) error                  { return nil }

// However many events there are for a receiver that hangs, those in hand are bounded.
func TestEventsInHandAreBounded(t *testing.T) {
	broker := localtest.StartBroker(t)
	cfg := kafka.Config{Brokers: []string{broker.Addr}, SessionTimeout: 10 * time.Second}
	if _, err := kafka.Apply(t.Context(), cfg, schemas.Topics(), 0); err != nil {
		t.Fatal(err)
	}
	client, err := kafka.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var all []*kgo.Record
	at := time.Now().UTC()
	for range 2 * maxInHand {
		e := schemas.RunEnded{DocumentID: schemas.NewDocumentID(at), RunID: schemas.NewDocumentID(at), Title: "T", Model: "m",
			State: schemas.Completed, SubmittedAt: at, FinishedAt: at, WebhookURL: "https://example.org"}
		value, err := schemas.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &kgo.Record{Topic: schemas.TopicDocumentEvents, Key: []byte(e.DocumentID), Value: value})
	}
	if err := client.ProduceSync(t.Context(), all...).FirstErr(); err != nil {
		t.Fatal(err)
	}

	log := slog.New(slog.DiscardHandler)
	d := NewCourier(hanging{}, hanging{}, Config{Secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, Timeout: time.Minute}, time.Now)
	runner, err := runs(Runtime{Ended: func() {}, Kafka: cfg, Asked: controls.New(log), Logger: log, Tracers: traces.NewTracerProvider(), Meters: metrics.NewMeterProvider()}, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	inHand := func() int {
		d.turns.mu.Lock()
		defer d.turns.mu.Unlock()
		return len(d.turns.records)
	}
	// As many as may be, and then no more in a second, in which all others would have come.
	for deadline := time.Now().Add(time.Minute); inHand() < maxInHand; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d events in hand, want %d", inHand(), maxInHand)
		}
	}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if n := inHand(); n > maxInHand+2*maxInFlight { // and what was in flight, and one poll
			t.Fatalf("%d events in hand, want at most %d put off", n, maxInHand)
		}
	}
}
