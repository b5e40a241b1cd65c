package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"leafcutter/pkg/kafka"
	"leafcutter/pkg/program"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// announcer says on the topic models which models are served, as soon as Kafka
// takes it and the model's own topics exist. The planner refuses or parks documents
// for models that nobody has announced, so the program is not ready before; pages
// of one that it knows and that have no topic to go to would hold up those of all.
type announcer struct {
	producer *stage.Producer
	kafka    kafka.Config
	topic    string
	log      *slog.Logger
	news     chan struct{} // of one: there is something to say

	mu      sync.Mutex
	pending map[string]schemas.ModelAnnounced // by model: what was to be said before it is no longer true
	why     map[string]error                  // why that could not be said
}

func newAnnouncer(p *program.Program, k kafka.Config) (*announcer, error) {
	producer, err := stage.NewProducer(k, p.Logger)
	if err != nil {
		return nil, err
	}
	return &announcer{producer: producer, kafka: k, topic: k.Topic(schemas.TopicModels), log: p.Logger, news: make(chan struct{}, 1),
		pending: map[string]schemas.ModelAnnounced{}, why: map[string]error{}}, nil
}

// say has a model announced, some time soon.
func (a *announcer) say(m schemas.ModelAnnounced) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending[m.Model] = m
	select {
	case a.news <- struct{}{}:
	default: // it has been told that there is something
	}
}

// last is what was announced last of a model, by anybody; without a digest where nothing was.
func (a *announcer) last(ctx context.Context, model string) (last schemas.ModelAnnounced, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	read := false
	err = kafka.Tail(ctx, a.kafka, schemas.TopicModels, func(key string, value []byte) {
		if key != model {
			return
		}
		m, err := schemas.Unmarshal[schemas.ModelAnnounced](value)
		if err == nil || value == nil { // else it is as the planner has it: the one before
			last = m
		}
	}, func() {
		read = true
		cancel()
	})
	if err == nil && !read {
		err = fmt.Errorf("topic %s was not read to its end within 30 seconds", a.topic)
	}
	return last, err
}

// ready is nil while there is nothing left to say.
func (a *announcer) ready() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.pending {
		if why := a.why[name]; why != nil {
			return fmt.Errorf("model %s: %w", name, why)
		}
		return fmt.Errorf("topic %s has not taken %s yet", a.topic, name)
	}
	return nil
}

// run says what there is to say until ctx ends.
func (a *announcer) run(ctx context.Context) {
	for {
		pause := time.Duration(-1)
		if !a.sayAll(ctx) {
			pause = 2 * time.Second
		}
		var again <-chan time.Time
		if pause > 0 {
			again = time.After(pause)
		}
		select {
		case <-a.news:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// sayAll says what there is to say. It returns false where some is left.
func (a *announcer) sayAll(ctx context.Context) bool {
	a.mu.Lock()
	pending := make([]schemas.ModelAnnounced, 0, len(a.pending))
	for _, m := range a.pending {
		pending = append(pending, m)
	}
	a.mu.Unlock()
	all := true
	for _, m := range pending {
		if err := a.sayOne(ctx, m); err != nil {
			all = false
			a.mu.Lock()
			news := a.why[m.Model] == nil || a.why[m.Model].Error() != err.Error()
			a.why[m.Model] = err
			a.mu.Unlock()
			if news && ctx.Err() == nil {
				a.log.Warn("model not announced, trying again soon", slog.String("model", m.Model), slog.Any("error", err))
			}
			continue
		}
		a.log.Info("model announced", slog.String("model", m.Model), slog.String("digest", m.Digest))
		a.mu.Lock()
		delete(a.why, m.Model)
		if a.pending[m.Model].AnnouncedAt.Equal(m.AnnouncedAt) { // else there is something newer to say
			delete(a.pending, m.Model)
		}
		a.mu.Unlock()
	}
	return all
}

func (a *announcer) sayOne(ctx context.Context, m schemas.ModelAnnounced) error {
	out, err := stage.Emit(schemas.TopicModels, m.Model, m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	pages := schemas.PagesTopic(m.Model)
	missing, err := kafka.Missing(ctx, a.kafka, schemas.Lane(pages, false), schemas.Lane(pages, true))
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("there is no topic %s: leafcutter topics apply --model %s makes what it needs", a.kafka.Topic(missing[0]), m.Model)
	}
	return a.producer.Produce(ctx, out)
}
