// Command annotator runs the annotator stage: it cuts and draws the boxes of each detected page.
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"

	"leafcutter/pkg/controls"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/objectstore"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"

	"leafcutter/stages/annotator"
)

// version is set by the linker.
var version string

// config is everything that the binary reads.
type config struct {
	Annotator annotator.Config
	Kafka     kafka.Config
	Objects   objectstore.Config
	Limits    stage.Limits
}

// workersPerProcessor keeps a processor busy while answers of an object store take up to 20 ms.
const workersPerProcessor = 4

func main() {
	os.Exit(program.Main(program.Spec[config]{
		Name:      annotator.Name,
		Purpose:   "cuts crops of detected boxes, draws the annotated page and assigns text",
		Version:   version,
		AdminAddr: "127.0.0.1:8094",
		Run:       run,
	}))
}

// gcPercent is how much garbage may pile up on what lives, unless GOGC says. Pixels and files lie in buffers that are used
// again, so there is little to collect: letting the heap double would be a fifth more memory for one millisecond in
// seventeen.
const gcPercent = 50

func run(ctx context.Context, p *program.Program, cfg config) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	store, err := objectstore.Open(ctx, cfg.Objects,
		objectstore.WithTelemetry(p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()))
	if err != nil {
		return err
	}
	defer store.Close()
	asked := controls.New(p.Logger)
	p.Health.Register("controls", asked.Ready)
	handler, err := annotator.New(cfg.Annotator, store, asked)
	if err != nil {
		return err
	}
	s := handler.Stage()
	s.Limits = cfg.Limits
	if s.Limits.Workers == 0 {
		// A page takes some 12 ms of a processor and five answers of the store, one after another. Memory follows the
		// pixels in work, not the workers.
		s.Limits.Workers = workersPerProcessor * runtime.GOMAXPROCS(0)
	}
	s.Probes = map[string]func(context.Context) error{
		"kafka":                kafka.Probe(cfg.Kafka),
		objectstore.Dependency: store.Probe,
	}
	s.Logger, s.TracerProvider, s.MeterProvider = p.Logger, p.Telemetry.TracerProvider(), p.Telemetry.MeterProvider()
	runner, err := stage.New(cfg.Kafka, s)
	if err != nil {
		return err
	}
	p.Health.Register("kafka group", runner.Ready)
	return asked.While(ctx, cfg.Kafka, runner.Run)
}
