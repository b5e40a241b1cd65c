package recorder

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"leafcutter/schemas"
)

// meters are what the recorder counts beside what every stage counts.
type meters struct {
	rows    metric.Int64Counter
	halves  metric.Int64Counter
	ended   metric.Int64Counter
	latency metric.Float64Histogram
}

func newMeters(p metric.MeterProvider) (*meters, error) {
	m := p.Meter("leafcutter/stages/recorder")
	var out meters
	var err error
	if out.rows, err = m.Int64Counter("leafcutter.recorder.rows", metric.WithUnit("{row}"),
		metric.WithDescription("rows inserted, by table")); err != nil {
		return nil, fmt.Errorf("make meters: %w", err)
	}
	if out.halves, err = m.Int64Counter("leafcutter.recorder.halvings", metric.WithUnit("{batch}"),
		metric.WithDescription("batches that were halved because ClickHouse refused them or they did not fit into memory")); err != nil {
		return nil, fmt.Errorf("make meters: %w", err)
	}
	if out.ended, err = m.Int64Counter("leafcutter.recorder.runs_ended", metric.WithUnit("{run}"),
		metric.WithDescription("ends of runs said, by state")); err != nil {
		return nil, fmt.Errorf("make meters: %w", err)
	}
	if out.latency, err = m.Float64Histogram("leafcutter.recorder.landing", metric.WithUnit("s"),
		metric.WithDescription("from the results record to the row that can be read"),
		metric.WithExplicitBucketBoundaries(.05, .1, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300)); err != nil {
		return nil, fmt.Errorf("make meters: %w", err)
	}
	return &out, nil
}

func (m *meters) landed(ctx context.Context, b *batch) {
	count := func(table string, n int) {
		if n > 0 {
			m.rows.Add(ctx, int64(n), metric.WithAttributes(attribute.String("table", table)))
		}
	}
	count("documents", len(b.documents))
	count("page_results", len(b.pages))
	count("runs", len(b.runs))
	now := time.Now()
	for i := range b.entries {
		m.latency.Record(ctx, now.Sub(b.entries[i].in.Timestamp).Seconds())
	}
}

func (m *meters) halved(ctx context.Context) { m.halves.Add(ctx, 1) }

func (m *meters) said(ctx context.Context, s schemas.State) {
	m.ended.Add(ctx, 1, metric.WithAttributes(attribute.String("state", string(s))))
}
