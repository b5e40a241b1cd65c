package reliability

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// load puts copies of a corpus into a pipeline, whatever becomes of the servers meanwhile: what was not accepted is
// submitted again, as a user's program would, under the same identity.
type load struct {
	p     *pipeline.Pipeline
	kafka *kgo.Client

	garbled   []string        // values of records that are no records
	strangers func(fact) bool // facts of no document that are as they must be; nil for none

	mu        sync.Mutex
	submitted map[string]ref // by document
}

func newLoad(t testing.TB, p *pipeline.Pipeline) *load {
	t.Helper()
	l, err := loadOf(p)
	ok(t, err)
	t.Cleanup(l.kafka.Close)
	return l
}

func loadOf(p *pipeline.Pipeline) (*load, error) {
	// A record is sent until it is taken: how often Kafka goes away meanwhile is the matter of the test.
	k, err := kafka.NewClient(p.KafkaConfig(), kgo.ProducerBatchMaxBytes(9<<20), kgo.RecordRetries(1<<30), kgo.UnknownTopicRetries(-1))
	if err != nil {
		return nil, err
	}
	return &load{p: p, kafka: k, submitted: map[string]ref{}}, nil
}

// put submits items as the copy given and returns once each is accepted.
func (l *load) put(ctx context.Context, copy int, items []item) error {
	for _, i := range items {
		id, err := l.submit(ctx, copy, i)
		if err != nil {
			return fmt.Errorf("submit %s: %w", i.named(copy), err)
		}
		l.mu.Lock()
		l.submitted[id] = ref{copy, i.name}
		l.mu.Unlock()
	}
	return nil
}

func (l *load) submit(ctx context.Context, copy int, i item) (id string, err error) {
	if i.door == byUpload {
		err = persist(ctx, func() error {
			accepted, err := l.p.Client.Submit(ctx, i.name, bytes.NewReader(i.data), client.Options{IdempotencyKey: i.named(copy)})
			if err == nil {
				id = accepted.DocumentID
			}
			return err
		})
		return id, err
	}
	if i.door == byReference {
		if err := persist(ctx, func() error { return l.p.Objects.Put(ctx, i.inbox(), i.data, "") }); err != nil {
			return "", err
		}
	}
	value, err := i.value(l.p, copy)
	if err != nil {
		return "", err
	}
	id = i.recordID(copy)
	// The time of the first try stays the record's: it is the document's time of submission, by which its rows are kept.
	r := &kgo.Record{Topic: schemas.TopicDocuments, Key: []byte(id), Value: value, Timestamp: time.Now(),
		Headers: []kgo.RecordHeader{{Key: schemas.HeaderTitle, Value: []byte(i.name)}}}
	return id, l.kafka.ProduceSync(ctx, r).FirstErr()
}

// persist does something until it succeeds or ctx ends.
func persist(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// documents are those submitted so far.
func (l *load) documents() map[string]ref {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.submitted)
}

// flow submits copies from first on until stop is closed, so that never more than depth documents are unfinished, and
// gives the number of the next copy.
func (l *load) flow(ctx context.Context, stop <-chan struct{}, first, depth int, items []item) (next int, err error) {
	for copy := first; ; copy++ {
		for {
			select {
			case <-stop:
				return copy, nil
			default:
			}
			if open, err := l.unfinished(ctx); err == nil && open < depth {
				break
			}
			select {
			case <-stop:
				return copy, nil
			case <-ctx.Done():
				return copy, ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
		if err := l.put(ctx, copy, items); err != nil {
			return copy, err
		}
	}
}

// unfinished is how many of the documents submitted SQL does not yet show as ended.
func (l *load) unfinished(ctx context.Context) (int, error) {
	var rows []struct {
		ID string `ch:"id"`
	}
	err := l.p.Select(ctx, &rows, `SELECT toString(document_id) AS id FROM document_status
		WHERE state IN ('completed', 'completed_with_failures', 'failed', 'cancelled')`)
	if err != nil {
		return 0, err
	}
	open := l.documents()
	for _, r := range rows {
		delete(open, r.ID)
	}
	return len(open), nil
}

// settle waits until every document has ended and every group has done all there is, so that nothing can come any more.
func (l *load) settle(ctx context.Context) error {
	for {
		open, err := l.unfinished(ctx)
		if err == nil && open == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d documents have not ended (last error: %w)", open, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return l.drained(ctx, "planner", "splitter", schemas.DetectorGroup(l.p.Model), "annotator", "recorder")
}

// drained waits until groups have committed all there is on their topics.
func (l *load) drained(ctx context.Context, groups ...string) error {
	admin := kadm.NewClient(l.kafka)
	for _, group := range groups {
		err := persist(ctx, func() error {
			lags, err := admin.Lag(ctx, group)
			if err != nil {
				return err
			}
			lag := lags[group]
			switch {
			case lag.Error() != nil:
				return lag.Error()
			case lag.State != "Stable" || len(lag.Lag) == 0:
				return fmt.Errorf("the group is %s", lag.State)
			case lag.Lag.Total() != 0:
				return fmt.Errorf("%d records behind", lag.Lag.Total())
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("group %s is not done: %w", group, err)
		}
	}
	return nil
}

// judged waits until all has ended and holds it to the oracle.
func (l *load) judged(ctx context.Context, o oracle) (verdict, error) {
	if err := l.settle(ctx); err != nil {
		return verdict{}, err
	}
	known := l.documents()
	found, err := collect(ctx, l.p, known, false)
	if err != nil {
		return verdict{}, err
	}
	for f := range found[strange] {
		if l.strangers != nil && l.strangers(f) {
			delete(found[strange], f)
		}
	}
	return o.judge(known, found), nil
}
