package telemetry

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	prometheusexport "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// prometheusPage collects into a registry of its own. It costs nothing between two visits. The process's own numbers,
// resident memory before all, are beside ours, because memory is what this project is about.
func prometheusPage() (sdkmetric.Reader, http.Handler, error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})); err != nil {
		return nil, nil, fmt.Errorf("process numbers: %w", err)
	}
	reader, err := prometheusexport.New(
		prometheusexport.WithRegisterer(registry),
		prometheusexport.WithoutScopeInfo(),
		prometheusexport.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	if err != nil {
		return nil, nil, fmt.Errorf("prometheus: %w", err)
	}
	// Few visitors at a time: each visit holds the whole page in memory.
	page := promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 2, ErrorHandling: promhttp.ContinueOnError})
	return reader, page, nil
}
