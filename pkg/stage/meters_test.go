package stage_test

import (
	"slices"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
)

// Two runners of one stage in one process are told apart by their groups.
func TestGaugesOfTwoGroups(t *testing.T) {
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	for _, group := range []string{"detector-a", "detector-b"} {
		c := stage.Config{Name: "detector", Group: group, Topics: []string{"pages"}, MeterProvider: provider,
			Limits: limits(), Handler: stage.HandlerFunc(nil)}
		if _, err := stage.New(kafka.Config{Brokers: []string{"127.0.0.1:1"}, SessionTimeout: 6e9}, c); err != nil {
			t.Fatal(err)
		}
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	groups := map[string][]string{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if gauge, ok := m.Data.(metricdata.Gauge[int64]); ok {
				for _, p := range gauge.DataPoints {
					group, _ := p.Attributes.Value("group")
					groups[m.Name] = append(groups[m.Name], group.AsString())
				}
			}
		}
	}
	for name, want := range map[string][]string{
		"leafcutter.stage.in_flight": {"detector-a", "detector-a", "detector-b", "detector-b"}, // a lane each
		"leafcutter.stage.stuck":     {"detector-a", "detector-b"},
	} {
		if slices.Sort(groups[name]); !slices.Equal(groups[name], want) {
			t.Errorf("%s of %v, want %v", name, groups[name], want)
		}
	}
}
