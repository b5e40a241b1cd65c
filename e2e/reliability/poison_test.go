package reliability

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/pipeline"
	"leafcutter/schemas"
)

// One record in twenty is poison, on every topic that stages read: each is dead-lettered within three tries, and what is
// healthy comes through as fast as without.
func TestPoison(t *testing.T) {
	copies := 2
	if full {
		copies = 10
	}
	items, o := undisturbed(t)
	well := healthy(items)
	p := pipeline.Own(t)
	ctx := bounded(t, 40*time.Minute)
	l := newLoad(t, p)
	next := 1
	through := func(poison bool) float64 {
		documents, garbage := 0, 0
		began := time.Now()
		for range copies {
			for i, one := range well {
				ok(t, l.put(ctx, next, []item{one}))
				documents++
				if poison && documents%19 == 0 {
					bad := items[len(well)+documents/19%(len(items)-len(well))]
					ok(t, l.put(ctx, next, []item{bad}))
				}
				if poison {
					// A document's records on each later topic: a range for each 16 pages, and one for each page.
					for topic, n := range map[string]int{schemas.TopicPageRanges: 1, schemas.PagesTopic(p.Model): one.pages, schemas.TopicDetections: one.pages, schemas.TopicResults: one.pages + 2} {
						for range share(&garbage, n) {
							ok(t, l.garbage(ctx, topic, fmt.Sprintf("%d/%d/%s/%d", next, i, topic, garbage)))
						}
					}
				}
			}
			next++
		}
		ok(t, l.settle(ctx))
		return float64(copies*pagesOf(well)) / time.Since(began).Seconds()
	}
	var calm, poisoned []float64
	passes := []bool{false, true}
	if full {
		through(false) // everything is warm
		// In an order that gives neither the better half of a busy machine's hour.
		passes = []bool{false, true, true, false}
	}
	for _, poison := range passes {
		if poison {
			poisoned = append(poisoned, through(true))
		} else {
			calm = append(calm, through(false))
		}
	}
	tries := l.garbageLetters(ctx, t)
	kept := 100 * median(poisoned) / median(calm)
	if full && kept < 90 {
		t.Errorf("with poison %.0f %% of the throughput is left, 90 %% is wanted: %.2f pages/s of %.2f", kept, median(poisoned), median(calm))
	}
	l.strangers = func(f fact) bool { return f.kind == "letter" && f.item == "" }
	judge(ctx, t, l, o, result{fault: "one record in twenty is poison", times: len(l.garbled), note: fmt.Sprintf(
		"each dead-lettered after %d tries at most; %.2f pages/s of %.2f without: %.0f %%", tries, median(poisoned), median(calm), kept)})
}

// share is how many of n records are poison, so that one in twenty is over the long run.
func share(seen *int, n int) int {
	before := *seen / 19
	*seen += n
	return *seen/19 - before
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// garbage puts a record onto a topic that no stage can read: every second is no JSON at all, the others are of the type that
// belongs there, with fields that do not.
func (l *load) garbage(ctx context.Context, topic, name string) error {
	value := "garbage " + name
	if len(l.garbled)%2 == 1 {
		kind := map[string]string{schemas.TopicPageRanges: "PageRange", schemas.TopicDetections: "PageDetected", schemas.TopicResults: "PageDone"}[topic]
		value = fmt.Sprintf(`{"type":%q,"run_id":%q,"page":"one","pages":"one"}`, cmp.Or(kind, "PageRendered"), name)
	}
	l.garbled = append(l.garbled, value)
	return l.kafka.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(name), Value: []byte(value)}).FirstErr()
}

// garbageLetters holds each garbled record to one dead letter, and gives the tries of the one that was tried most.
func (l *load) garbageLetters(ctx context.Context, t *testing.T) (tries int) {
	t.Helper()
	all, err := records(ctx, l.p, schemas.TopicDeadLetters)
	ok(t, err)
	places := map[string]map[string]bool{}
	for _, r := range all {
		var at [3]string
		var attempts int
		for _, h := range r.Headers {
			switch h.Key {
			case schemas.HeaderTopic:
				at[0] = string(h.Value)
			case schemas.HeaderPartition:
				at[1] = string(h.Value)
			case schemas.HeaderOffset:
				at[2] = string(h.Value)
			case schemas.HeaderAttempts:
				ok(t, json.Unmarshal(h.Value, &attempts))
			}
		}
		if places[string(r.Value)] == nil {
			places[string(r.Value)] = map[string]bool{}
		}
		places[string(r.Value)][fmt.Sprint(at)] = true
		tries = max(tries, attempts)
	}
	for _, value := range l.garbled {
		if len(places[value]) != 1 {
			t.Errorf("%d dead letters for the record %s", len(places[value]), value)
		}
	}
	if tries > 3 {
		t.Errorf("a record was tried %d times before it was given up", tries)
	}
	return tries
}

// notBehind is nil where the group of a stage has committed nothing behind the record that a line of the log names.
func notBehind(ctx context.Context, l *load, stage, line string) error {
	var named struct {
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Offset    int64  `json:"offset"`
	}
	if err := json.Unmarshal([]byte(line), &named); err != nil {
		return fmt.Errorf("read the watchdog's word: %w", err)
	}
	group := stage
	if stage == "detector" {
		group = schemas.DetectorGroup(l.p.Model)
	}
	offsets, err := kadm.NewClient(l.kafka).FetchOffsets(ctx, group)
	if err != nil {
		return fmt.Errorf("ask for what is committed: %w", err)
	}
	at, found := offsets.Lookup(named.Topic, named.Partition)
	if found && at.At > named.Offset {
		return fmt.Errorf("%s %d is committed up to %d though %d hangs: %s", named.Topic, named.Partition, at.At, named.Offset, strings.TrimSpace(line))
	}
	return nil
}
