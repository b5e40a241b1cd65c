package stage

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"leafcutter/pkg/fault"
)

// meters are the metrics of a stage; docs/metrics.md lists them.
type meters struct {
	stage   attribute.KeyValue
	records metric.Int64Counter
	faults  metric.Int64Counter
	halted  metric.Int64Counter
	work    metric.Float64Histogram
	queue   metric.Float64Histogram
	gauges  metric.Registration
}

func newMeters(r *Runner) (*meters, error) {
	provider := r.cfg.MeterProvider
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	meter := provider.Meter(scope)
	m := &meters{stage: attribute.String("stage", r.cfg.Name)}
	var faults []error
	check := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	var err error
	m.records, err = meter.Int64Counter("leafcutter.stage.records", metric.WithDescription("Records finished, by lane and outcome."))
	check(err)
	m.faults, err = meter.Int64Counter("leafcutter.stage.faults", metric.WithDescription("Faults, by class and code."))
	check(err)
	m.halted, err = meter.Int64Counter("leafcutter.stage.halted_partitions", metric.WithDescription("Partitions stopped because their committed offset fell out of retention, or because a batch cannot be decompressed."))
	check(err)
	m.work, err = meter.Float64Histogram("leafcutter.stage.work.duration", metric.WithUnit("s"), metric.WithDescription("Time in the handler."))
	check(err)
	m.queue, err = meter.Float64Histogram("leafcutter.stage.queue.duration", metric.WithUnit("s"), metric.WithDescription("Time from a record's production to its handling."))
	check(err)
	inFlight, err := meter.Int64ObservableGauge("leafcutter.stage.in_flight", metric.WithDescription("Records taken and not yet done, by lane."))
	check(err)
	lag, err := meter.Int64ObservableGauge("leafcutter.stage.lag", metric.WithDescription("Records behind the lowest unfinished one, by partition."))
	check(err)
	stuck, err := meter.Int64ObservableGauge("leafcutter.stage.stuck", metric.WithDescription("Records handled for longer than the watchdog allows."))
	check(err)
	// Two runners of one process may be of one stage, each with a group of its own: of what both observe under the same
	// attributes only the last would be told.
	group := attribute.String("group", r.cfg.Group)
	m.gauges, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, bulk := range []bool{false, true} {
			o.ObserveInt64(inFlight, r.lanes.depth(bulk), metric.WithAttributes(m.stage, group, laneAttribute(bulk)))
		}
		r.mu.Lock()
		for key, p := range r.partitions {
			o.ObserveInt64(lag, p.lag(), metric.WithAttributes(m.stage, attribute.String("topic", key.topic), attribute.Int("partition", int(key.partition))))
		}
		r.mu.Unlock()
		o.ObserveInt64(stuck, r.stuck(), metric.WithAttributes(m.stage, group))
		return nil
	}, inFlight, lag, stuck)
	check(err)
	return m, errors.Join(faults...)
}

func (m *meters) unregister() { _ = m.gauges.Unregister() }

func laneAttribute(bulk bool) attribute.KeyValue {
	if bulk {
		return attribute.String("lane", "bulk")
	}
	return attribute.String("lane", "plain")
}

func (m *meters) done(ctx context.Context, bulk bool, outcome string) {
	m.records.Add(ctx, 1, metric.WithAttributes(m.stage, laneAttribute(bulk), attribute.String("outcome", outcome)))
}

func (m *meters) fault(ctx context.Context, err error) {
	m.faults.Add(ctx, 1, metric.WithAttributes(m.stage, attribute.String("class", fault.ClassOf(err).String()), attribute.String("code", fault.CodeOf(err))))
}

func (m *meters) queued(ctx context.Context, d time.Duration) {
	m.queue.Record(ctx, max(0, d.Seconds()), metric.WithAttributes(m.stage))
}

func (m *meters) worked(ctx context.Context, d time.Duration) {
	m.work.Record(ctx, d.Seconds(), metric.WithAttributes(m.stage))
}
