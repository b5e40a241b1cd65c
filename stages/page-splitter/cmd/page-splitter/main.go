// Command page-splitter runs the planner and the splitter, or one of them: they
// open documents, plan their runs, and render their pages.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"

	pagesplitter "leafcutter/stages/page-splitter"
)

// version is set by the linker.
var version string

// config is everything that the binary reads.
type config struct {
	Stages   []string `env:"LEAFCUTTER_STAGES" envDefault:"planner,splitter" desc:"the stages to run in this process: planner, splitter or both"`
	Splitter pagesplitter.Config
	Kafka    kafka.Config
	Objects  objectstore.Config
	Limits   stage.Limits
}

// Validate tells stages that there are not.
func (c config) Validate() error {
	var faults []error
	if len(c.Stages) == 0 {
		faults = append(faults, errors.New("LEAFCUTTER_STAGES: none given"))
	}
	for _, name := range c.Stages {
		if name != pagesplitter.PlannerName && name != pagesplitter.SplitterName {
			faults = append(faults, fmt.Errorf("LEAFCUTTER_STAGES: %.80q is neither planner nor splitter", name))
		}
	}
	return errors.Join(faults...)
}

func main() {
	// A render child is this binary as well. It must do nothing else first: it
	// has no configuration, and a hostile document to open.
	if pagesplitter.IsRenderChild(os.Args) {
		os.Exit(pagesplitter.RenderChild())
	}
	if pagesplitter.IsPageTool(os.Args) {
		os.Exit(pagesplitter.PageTool(context.Background(), os.Args, os.Stdout, os.Stderr))
	}
	os.Exit(program.Main(program.Spec[config]{
		Name:      "page-splitter",
		Purpose:   "opens documents, plans their runs and renders their pages",
		Version:   version,
		AdminAddr: "127.0.0.1:8092",
		Run:       run,
	}))
}

func run(ctx context.Context, p *program.Program, cfg config) error {
	store, err := objectstore.Open(ctx, cfg.Objects,
		objectstore.WithTelemetry(p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()))
	if err != nil {
		return err
	}
	defer store.Close()
	if cfg.Limits.Workers == 0 {
		cfg.Limits.Workers = runtime.GOMAXPROCS(0) // a page is a processor's work
	}
	return pagesplitter.Run(ctx, pagesplitter.Runtime{
		Stages: cfg.Stages, Kafka: cfg.Kafka, Limits: cfg.Limits, Store: store,
		Logger: p.Logger, Tracers: p.Telemetry.TracerProvider(), Meters: p.Telemetry.MeterProvider(),
		Ready: p.Health.Register,
	}, cfg.Splitter)
}
