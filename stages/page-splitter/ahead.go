package pagesplitter

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// ahead keeps the splitter from rendering far more of the books than detectors
// have looked at: what is rendered too early takes processors and the object
// store from the stages after it, and the letters behind a book would wait for
// that. First pages are never held.
type ahead struct {
	perDetector int64 // pages of a model's bulk topic that may wait, for each of its detectors
	kafka       kafka.Config
	client      *kgo.Client
	logger      *slog.Logger

	mu     sync.Mutex
	models map[string]*waiting
	asking sync.WaitGroup
	ctx    context.Context // ends the questions under way
	cancel context.CancelFunc
}

// waiting is what is known of a model's bulk topic.
type waiting struct {
	enough  bool
	asked   time.Time
	pending bool // it is being asked about
}

const (
	askEvery   = 250 * time.Millisecond // a detector does some pages in that time, and none of them is its last
	askTimeout = 5 * time.Second
	holdFor    = 100 * time.Millisecond
)

func newAhead(k kafka.Config, perDetector int, logger *slog.Logger) (*ahead, error) {
	client, err := kafka.NewClient(k)
	if err != nil {
		return nil, err
	}
	a := &ahead{perDetector: int64(perDetector), kafka: k, client: client, logger: logger, models: map[string]*waiting{}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a, nil
}

// Close ends the questions under way.
func (a *ahead) Close() {
	a.cancel()
	a.asking.Wait()
	a.client.Close()
}

// Hold is the splitter's stage.Config.Hold. It answers from what is known, and has
// that renewed beside.
func (a *ahead) Hold(in stage.In) time.Duration {
	if in.Topic != schemas.Lane(schemas.TopicPageRanges, true) {
		return 0
	}
	r, err := schemas.Unmarshal[schemas.PageRange](in.Value)
	if err != nil {
		return 0 // it is given up at once
	}
	if r.Options.Shadow {
		return 0 // its pages are rendered already, mostly, and what is held takes the place of other models' books
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.models[r.Options.Model]
	if w == nil {
		w = &waiting{}
		a.models[r.Options.Model] = w
	}
	if !w.pending && time.Since(w.asked) >= askEvery {
		w.pending = true
		a.asking.Go(func() { a.ask(r.Options.Model, w) })
	}
	if w.enough {
		return holdFor
	}
	return 0
}

func (a *ahead) ask(model string, w *waiting) {
	ctx, cancel := context.WithTimeout(a.ctx, askTimeout)
	defer cancel()
	lag, err := kafka.LagOf(ctx, a.client, a.kafka, schemas.DetectorGroup(model))
	if err != nil && a.ctx.Err() == nil {
		a.logger.Warn("how many pages wait is not known; ranges are not held back", slog.String("model", model), slog.Any("error", err))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Pages of a model that nobody serves are not waited for: nothing would take them, and the ranges of other models
	// would queue behind them.
	pages := lag.Waiting[schemas.Lane(schemas.PagesTopic(model), true)]
	w.enough = err == nil && lag.Members > 0 && pages >= a.perDetector*int64(lag.Members)
	w.asked, w.pending = time.Now(), false
}
