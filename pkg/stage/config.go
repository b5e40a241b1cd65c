package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Limits are the knobs of a stage that its operator may turn.
type Limits struct {
	Workers      int           `env:"LEAFCUTTER_WORKERS" desc:"records handled at once; 0: the stage's own default"`
	BatchSize    int           `env:"LEAFCUTTER_BATCH_SIZE" desc:"records handed to the handler at once, at most; stages that take records one by one, all but the recorder, ignore it" envDefault:"1"`
	BatchDelay   time.Duration `env:"LEAFCUTTER_BATCH_DELAY" desc:"how long a batch waits to fill" envDefault:"0s"`
	BatchQuiet   time.Duration `env:"LEAFCUTTER_BATCH_QUIET" desc:"a batch that no record has joined for so long is not waited with any longer; 0: it waits the whole of LEAFCUTTER_BATCH_DELAY" envDefault:"0s"`
	MaxInFlight  int           `env:"LEAFCUTTER_MAX_IN_FLIGHT" desc:"records taken and not yet done, per lane, besides sixteen times as many that are put off until their turn comes; beyond it partitions pause" envDefault:"256"`
	MaxBytes     int64         `env:"LEAFCUTTER_MAX_IN_FLIGHT_BYTES" desc:"bytes of records taken and not yet done, per lane" envDefault:"33554432"`
	MaxAttempts  int           `env:"LEAFCUTTER_MAX_ATTEMPTS" desc:"tries of a record with a transient fault before it is dead-lettered" envDefault:"3"`
	RetryBackoff time.Duration `env:"LEAFCUTTER_RETRY_BACKOFF" desc:"pause before the second try; it doubles, with jitter, up to a minute" envDefault:"500ms"`
	CommitEvery  time.Duration `env:"LEAFCUTTER_COMMIT_EVERY" desc:"how often finished offsets are committed" envDefault:"1s"`
	Grace        time.Duration `env:"LEAFCUTTER_GRACE" desc:"how long a stop waits for the work in flight" envDefault:"25s"`
	Watchdog     time.Duration `env:"LEAFCUTTER_WATCHDOG" desc:"a record handled for longer is named in the log and in a metric" envDefault:"2m"`
}

// Validate reports every fault of the limits at once.
func (l Limits) Validate() error {
	var faults []error
	atLeast := func(name string, got, min int64) {
		if got < min {
			faults = append(faults, fmt.Errorf("%s: %d, must be %d or more", name, got, min))
		}
	}
	atLeast("LEAFCUTTER_WORKERS", int64(l.Workers), 0)
	atLeast("LEAFCUTTER_BATCH_SIZE", int64(l.BatchSize), 1)
	atLeast("LEAFCUTTER_BATCH_DELAY", int64(l.BatchDelay), 0)
	atLeast("LEAFCUTTER_BATCH_QUIET", int64(l.BatchQuiet), 0)
	atLeast("LEAFCUTTER_MAX_IN_FLIGHT", int64(l.MaxInFlight), 1)
	atLeast("LEAFCUTTER_MAX_IN_FLIGHT_BYTES", l.MaxBytes, 1)
	atLeast("LEAFCUTTER_MAX_ATTEMPTS", int64(l.MaxAttempts), 1)
	atLeast("LEAFCUTTER_RETRY_BACKOFF", int64(l.RetryBackoff), 1)
	atLeast("LEAFCUTTER_COMMIT_EVERY", int64(l.CommitEvery), int64(time.Millisecond))
	atLeast("LEAFCUTTER_GRACE", int64(l.Grace), 0)
	atLeast("LEAFCUTTER_WATCHDOG", int64(l.Watchdog), int64(time.Millisecond))
	return errors.Join(faults...)
}

// Config is everything a stage needs to run.
type Config struct {
	Name   string   // as in lc-stage, spans and metrics: planner, splitter, detector, annotator, recorder
	Group  string   // consumer group, without the deployment's prefix
	Topics []string // plain topics, without the deployment's prefix
	// Bulk adds the bulk twin of every topic, at one part of work in five.
	Bulk bool
	// Cost is how many parts of work a record is. Nil for one each.
	Cost func(in In) int

	// Last says that a record is the last of what belongs together, as far as it can tell: the batch that it is in waits
	// for no other. It has a meaning only with Limits.BatchQuiet. Nil for never.
	Last func(in In) bool

	Limits  Limits
	Handler Handler

	// Condemned gives the records that say to the rest of the pipeline that in was given up (PageFailed, RunFailed);
	// they are produced with the dead letter. Nil for none.
	Condemned func(in In, code string, err error) []Out
	// About reads what a record is about from its value. Nil for nothing.
	About func(in In) About
	// Cancelled reports whether the work of a record is no longer wanted; such records are done without being handled.
	// Nil for never.
	Cancelled func(about About) bool
	// Dropped gives the records that say so to the rest of the pipeline: in is done once they are acknowledged. What it
	// gives may be given again for other records of the same run. Nil for none.
	Dropped func(in In) []Out
	// Hold says how long a record is to wait before it is handled: it holds no worker meanwhile, counts no try, and is
	// asked about again. It is called often and must not block. What is put off is bounded apart, at sixteen times
	// Limits.MaxInFlight, so that the records behind it are fetched; the more there are, the less often each is asked
	// about. Nil for never.
	Hold func(in In) time.Duration
	// Probes ask each dependency, by the name that its faults carry, whether it is there, on a connection of their own.
	Probes map[string]func(ctx context.Context) error
	// StoreLarge keeps a dead letter's value that is too large for the topic and returns where. Nil: such values are
	// produced as they are.
	StoreLarge func(ctx context.Context, in In) (ref string, err error)
	// Assigned and Revoked are told of partitions as they come and go, before their first record and after their last
	// commit. Nil for not interested.
	Assigned func(ctx context.Context, topic string, partitions []int32) error
	Revoked  func(topic string, partitions []int32)

	Logger         *slog.Logger
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}
