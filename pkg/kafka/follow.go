package kafka

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Follow is Tail until ctx ends: a broker that is away, or a topic that is still to be made, is waited for, and then all
// of the topic is applied again. failed is told why it cannot be read now, and how long is waited before the next try.
func Follow(ctx context.Context, c Config, topic string, apply func(key string, value []byte), caughtUp func(), failed func(err error, pause time.Duration)) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	for {
		err := Tail(ctx, c, topic, apply, func() {
			pause.Reset()
			caughtUp()
		})
		if ctx.Err() != nil {
			return
		}
		wait := pause.NextBackOff()
		failed(err, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
