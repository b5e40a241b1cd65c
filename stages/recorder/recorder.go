package recorder

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// Name is the recorder's, in lc-stage, spans and metrics, and of its consumer group.
const Name = "recorder"

// Limits are the defaults of the stage's limits that suit the recorder: one worker, because a batch changes what memory
// has of its runs, and batches as large as ClickHouse likes them. An insert of a few rows costs as much as one of
// hundreds: while results flow, a batch takes a second of them. The last page of a run lands at once, and what comes alone
// within BatchQuiet, and the time of three small inserts. That is longer than a page takes after its document was
// accepted, so a document of one page is one batch and not two. What waits while ClickHouse is away is bounded by its bytes: some
// thousand pages of a few boxes.
func Limits() stage.Limits {
	return stage.Limits{Workers: 1, BatchSize: 1000, BatchDelay: time.Second, BatchQuiet: 400 * time.Millisecond, MaxInFlight: 4000, MaxBytes: 4 << 20}
}

// Config is what a Recorder is made of.
type Config struct {
	DB *clickhouse.DB
	// Members says how many members a consumer group has (group is without the deployment's prefix). Nil: no run is ever
	// said to wait for its model.
	Members func(ctx context.Context, group string) (int, error)
	// Deleted says whether a document was deleted for ever. Nil: it is known only from the table deletions.
	Deleted func(documentID string) bool

	MaxRuns  int // runs kept in memory between batches; 0: 4096
	MaxPages int // pages of these runs, about 60 bytes each; 0: 400,000

	Logger        *slog.Logger         // nil: none
	MeterProvider metric.MeterProvider // nil: none
}

// Recorder lands results. It is safe for concurrent use and handles one batch at a time.
type Recorder struct {
	tables  tables
	deleted func(documentID string) bool
	log     *slog.Logger
	meters  *meters
	watch   *watch

	// mu is held while a batch is handled, and while the states of waiting runs are changed: both write runs from what
	// memory has of them.
	mu    sync.Mutex
	cache *cache
	owed  map[string]bool // documents whose rows are to be taken away again
}

// New makes a Recorder.
func New(c Config) (*Recorder, error) {
	if c.DB == nil {
		return nil, errors.New("recorder: DB is required")
	}
	return build(c, database{c.DB})
}

func build(c Config, t tables) (*Recorder, error) {
	if c.MaxRuns <= 0 {
		c.MaxRuns = 4096
	}
	if c.MaxPages <= 0 {
		c.MaxPages = 400_000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MeterProvider == nil {
		c.MeterProvider = noop.NewMeterProvider()
	}
	m, err := newMeters(c.MeterProvider)
	if err != nil {
		return nil, err
	}
	return &Recorder{tables: t, deleted: c.Deleted, log: c.Logger, meters: m, watch: newWatch(c.Members),
		cache: newCache(c.MaxRuns, c.MaxPages), owed: map[string]bool{}}, nil
}

// Stage is the recorder as a stage: the caller adds limits, probes, logger and providers.
func (r *Recorder) Stage() stage.Config {
	return stage.Config{
		Name: Name, Group: Name, Topics: []string{schemas.TopicResults},
		Handler: r, About: about, Condemned: condemned, Last: last,
		Assigned: func(_ context.Context, _ string, partitions []int32) error {
			r.cache.owned.end(partitions)
			r.watch.rescan()
			return nil
		},
		Revoked: func(_ string, partitions []int32) { r.cache.owned.end(partitions) },
	}
}
