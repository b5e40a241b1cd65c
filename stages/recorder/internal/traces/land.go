package traces

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/fault"
)

const (
	batchSpans = 5000        // of one insert
	batchDelay = time.Second // for a batch to fill
	maxBackoff = 10 * time.Second
)

// landAll inserts what comes until the queue is closed and empty or ctx ends. While ClickHouse is away it holds one
// batch and tries again, and the queue fills behind it.
func (r *Receiver) landAll(ctx context.Context) {
	for {
		exports := r.queue.take(batchSpans, batchDelay)
		if exports == nil {
			return
		}
		for pause := 200 * time.Millisecond; ; pause = min(2*pause, maxBackoff) {
			err := r.land(ctx, exports)
			if err == nil {
				break
			}
			r.cfg.Logger.Warn("spans do not land; they are tried again", "error", err)
			select {
			case <-ctx.Done():
				r.dropped(context.WithoutCancel(ctx), count(exports), "at-stop")
				return
			case <-time.After(pause):
			}
		}
	}
}

// land inserts exports together, and where ClickHouse refuses them, each alone, so that one client's strange spans do
// not take down another's. What is refused alone is dropped. An error means that nothing is decided yet.
func (r *Receiver) land(ctx context.Context, exports [][]span) error {
	n := count(exports)
	err := r.insert(ctx, slices.Concat(exports...))
	switch {
	case err == nil:
		r.count.Add(ctx, int64(n), metric.WithAttributes(attribute.String("outcome", "landed")))
		return nil
	case fault.ClassOf(err) != fault.Permanent:
		return err
	case len(exports) == 1:
		r.cfg.Logger.Warn("spans are refused and dropped", "spans", n, "error", err)
		r.dropped(ctx, n, "refused")
		return nil
	}
	for i := range exports {
		if err := r.land(ctx, exports[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func count(exports [][]span) int {
	n := 0
	for _, e := range exports {
		n += len(e)
	}
	return n
}

const insertSQL = `INSERT INTO otel_traces (Timestamp, TraceId, SpanId, ParentSpanId, TraceState, SpanName, SpanKind, ServiceName,
	ResourceAttributes, ScopeName, ScopeVersion, SpanAttributes, Duration, StatusCode, StatusMessage,
	Events.Timestamp, Events.Name, Events.Attributes, Links.TraceId, Links.SpanId, Links.TraceState, Links.Attributes)`

// land inserts spans.
func land(ctx context.Context, db *clickhouse.DB, spans []span) error {
	b, err := db.PrepareBatch(ctx, insertSQL)
	if err != nil {
		return fmt.Errorf("land spans: %w", err)
	}
	for i := range spans {
		s := &spans[i]
		err := b.Append(s.Timestamp, s.TraceID, s.SpanID, s.ParentSpanID, s.TraceState, s.Name, s.Kind, s.Service,
			s.ResourceAttributes, s.ScopeName, s.ScopeVersion, s.Attributes, s.Duration, s.StatusCode, s.StatusMessage,
			s.EventTimes, s.EventNames, s.EventAttributes, s.LinkTraceIDs, s.LinkSpanIDs, s.LinkTraceStates, s.LinkAttributes)
		if err != nil {
			_ = b.Abort() // nothing was sent; the error of the row is the one that matters
			return fmt.Errorf("land spans: %w", err)
		}
	}
	if err := b.Send(); err != nil {
		return fmt.Errorf("land spans: %w", err)
	}
	return nil
}
