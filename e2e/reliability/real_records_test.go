//go:build real

package reliability

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"leafcutter/e2e/pipeline"
	"leafcutter/e2e/realservers"
	"leafcutter/pkg/kafka"
	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// A batch of records that unfolds to 2 GiB, written by a client that is none of ours: it is refused with a letter, memory
// stays as it was, and the documents before and behind it in its partition are done.
func TestRealBomb(t *testing.T) {
	items, o := undisturbed(t)
	ctx := bounded(t, 8*time.Minute)
	r := onReal(ctx, t, realservers.KafkaOptions{}, nil)
	l := newLoad(t, r.Pipeline)
	// put puts a copy of the corpus through, and gives the most memory that the page-splitter itself had meanwhile.
	put := func(copy int) (most int64) {
		ok(t, l.put(ctx, copy, items))
		done := make(chan error, 1)
		go func() { done <- l.settle(ctx) }()
		for {
			now, _, err := pipeline.Memory(r.Stage["page-splitter"].PID())
			ok(t, err)
			most = max(most, now)
			select {
			case err := <-done:
				ok(t, err)
				return most
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	if realservers.Garble(ctx, r.KafkaConfig(), schemas.TopicDocuments, 0) == nil {
		t.Error("Apache Kafka takes a batch that nobody can decompress: its partition would be stopped")
	}
	before := put(1)
	most := before
	letters := 0
	for n, codec := range []string{"zstd", "gzip"} {
		for partition := range int32(2) {
			wire, err := realservers.Explode(ctx, r.KafkaConfig(), schemas.TopicDocuments, partition, codec)
			ok(t, err)
			t.Logf("%s: 2 GiB in %.2f MB on the wire, onto partition %d", codec, float64(wire)/1e6, partition)
			letters++
		}
		most = max(most, put(2+n))
	}
	found := 0
	all, err := records(ctx, r.Pipeline, schemas.TopicDeadLetters)
	ok(t, err)
	for _, letter := range all {
		for _, h := range letter.Headers {
			if h.Key == schemas.HeaderCode && string(h.Value) == stage.CodeBatchTooLarge {
				found++
			}
		}
	}
	if found != letters {
		t.Errorf("%d letters tell of %d batches", found, letters)
	}
	growth := 100 * (float64(most)/float64(before) - 1)
	// A client counts up to the bound before it refuses, and holds none of it; its decoders and the fetches themselves cost something.
	if most > before+2*kafka.MaxDecompressed {
		t.Errorf("the page-splitter grew from %d to %d MB", before/1e6, most/1e6)
	}
	v, err := l.judged(ctx, o)
	ok(t, err)
	v = forgive(v, stage.CodeBatchTooLarge)
	suite.table.add(result{fault: "batches that unfold to 2 GiB", times: letters, verdict: v,
		note: fmt.Sprintf("each refused with a letter; page-splitter %.0f MB before, %.0f MB at most (%+.0f %%)", float64(before)/1e6, float64(most)/1e6, growth)})
	if !v.sound() {
		t.Error(v)
	}
}

// forgive takes out of a verdict the letters that are about no document, which the test counts itself.
func forgive(v verdict, code string) verdict {
	var left []string
	for _, d := range v.details {
		if strings.HasPrefix(d, fmt.Sprintf("copy %d: ", strange)) && strings.Contains(d, code) {
			v.doubled--
			continue
		}
		left = append(left, d)
	}
	v.details = left
	return v
}

// Members join and leave groups that Kafka's own coordinator leads, some in order and some by kill -9.
func TestRealMembersComeAndGo(t *testing.T) {
	items, o := undisturbed(t)
	ctx := bounded(t, 10*time.Minute)
	r := onReal(ctx, t, realservers.KafkaOptions{}, nil)
	l := newLoad(t, r.Pipeline)
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	var fed error
	feeding.Go(func() { _, fed = l.flow(ctx, stop, 1, 2*len(items), items) })
	idle := watchIdleness(ctx, l)
	random := rand.New(rand.NewPCG(*seed, 5))
	names := []string{"page-splitter", "detector", "annotator", "recorder"}
	const changes, every = 24, 5 * time.Second
	var guests []*pipeline.Stage
	leave := func() {
		guest := guests[0]
		guests = guests[1:]
		if random.IntN(2) == 0 {
			ok(t, guest.Kill())
		} else {
			ok(t, guest.Stop())
		}
	}
	defer func() {
		for len(guests) > 0 {
			leave()
		}
	}()
	for range changes {
		if len(guests) == 2 || len(guests) == 1 && random.IntN(2) == 0 {
			leave()
		} else {
			guest, err := r.Pipeline.StartStage(names[random.IntN(len(names))])
			ok(t, err)
			guests = append(guests, guest)
		}
		time.Sleep(every) // the pace at which they change
	}
	close(stop)
	feeding.Wait()
	ok(t, fed)
	for len(guests) > 0 {
		leave()
	}
	ok(t, l.settle(ctx))
	still, of := idle.end()
	if still > time.Minute {
		t.Errorf("%s stood still for %.0f s", of, still.Seconds())
	}
	judge(ctx, t, l, o, result{fault: "Apache Kafka: members join and leave", times: changes,
		note: fmt.Sprintf("every %.0f s; a partition stood still for %.1f s at most", every.Seconds(), still.Seconds())})
}

// A record that is in the handler, alone, at each of three deaths of the process is given up; that it was is known from
// nothing but the metadata of commits on a real coordinator. What was there before it and comes after it is done.
func TestRealRecordThatKillsItsProcess(t *testing.T) {
	items, o := undisturbed(t)
	ctx := bounded(t, 8*time.Minute)
	r := onReal(ctx, t, realservers.KafkaOptions{}, nil)
	l := newLoad(t, r.Pipeline)
	ok(t, l.put(ctx, 1, items))
	ok(t, l.settle(ctx))
	annotator := r.Stage["annotator"]
	ok(t, annotator.Stop())
	victim := slices.IndexFunc(items, func(i item) bool { return i.name == "scan.png" })
	ok(t, l.put(ctx, 2, items[victim:victim+1]))
	detected := schemas.TopicDetections
	admin := kadm.NewClient(l.kafka)
	ok(t, persist(ctx, func() error {
		lags, err := admin.Lag(ctx, "annotator")
		if err != nil {
			return err
		}
		if lag := lags["annotator"].Lag.Total(); lag != 1 {
			return fmt.Errorf("%d pages wait for the annotator, not one", lag)
		}
		return nil
	}))
	// Nothing is annotated while S3 hangs: what is in the handler stays there.
	ok(t, syscall.Kill(r.objects.PID(), syscall.SIGSTOP))
	hangs := true
	wake := func() {
		if hangs {
			ok(t, syscall.Kill(r.objects.PID(), syscall.SIGCONT))
		}
		hangs = false
	}
	defer wake()
	notes := func() map[int32]string {
		all := map[int32]string{}
		offsets, err := admin.FetchOffsetsForTopics(ctx, "annotator", detected)
		if err != nil {
			return all
		}
		offsets.Each(func(o kadm.OffsetResponse) {
			if o.Topic == detected {
				all[o.Partition] = o.Metadata
			}
		})
		return all
	}
	awaitNote := func(has string) {
		ok(t, persist(ctx, func() error {
			now := notes()
			for _, note := range now {
				if strings.Contains(note, has) {
					return nil
				}
			}
			return fmt.Errorf("no commit says %q: %v", has, now)
		}))
	}
	start := func() { ok(t, r.Stack.StartStage("annotator")) }
	start()
	awaitNote("running")
	ok(t, annotator.Kill()) // of this death any of those in the handler may have been the cause
	for death := 1; death <= 3; death++ {
		start()
		awaitNote(fmt.Sprintf("deaths=%d", death))
		ok(t, annotator.Kill())
	}
	wake()
	start()
	ok(t, l.put(ctx, 3, items))
	ok(t, l.settle(ctx))
	v, err := l.judged(ctx, o)
	ok(t, err)
	letters := 0
	all, err := records(ctx, r.Pipeline, schemas.TopicDeadLetters)
	ok(t, err)
	for _, letter := range all {
		for _, h := range letter.Headers {
			if h.Key == schemas.HeaderCode && string(h.Value) == stage.CodeCrashedConsumer {
				letters++
			}
		}
	}
	if letters != 1 {
		t.Errorf("%d records are given up as %s, want one: %s", letters, stage.CodeCrashedConsumer, v)
	}
	failedPages := 0
	for _, d := range v.details {
		if strings.Contains(d, ": letter ") && strings.Contains(d, "was given up") {
			failedPages++
		}
	}
	if failedPages != 1 || v.doubled != 0 {
		t.Errorf("more than the one page is given up: %s", v)
	}
	suite.table.add(result{fault: "Apache Kafka: 3 deaths with one record alone", times: 3, verdict: verdict{pages: v.pages - 1, doubled: v.doubled},
		note: "that record is given up as crashed-consumer, known from the metadata of commits; all others are done"})
}

// A committed offset that has fallen out of retention stops its partition, and that alone, with an alarm: the stage is not
// ready and says which, and a metric counts it. What was lost is emitted again by leafcutter reconcile.
func TestRealRetentionFallout(t *testing.T) {
	items, o := undisturbed(t)
	items = healthy(items)
	ctx := bounded(t, 8*time.Minute)
	r := onReal(ctx, t, realservers.KafkaOptions{}, nil)
	l := newLoad(t, r.Pipeline)
	ok(t, l.put(ctx, 1, items))
	ok(t, l.settle(ctx))
	detector := r.Stage["detector"]
	ok(t, detector.Stop())
	ok(t, l.put(ctx, 2, items))
	ok(t, l.drained(ctx, "planner", "splitter"))
	topic := schemas.PagesTopic(r.Model)
	admin := kadm.NewClient(l.kafka)
	lags, err := admin.Lag(ctx, schemas.DetectorGroup(r.Model))
	ok(t, err)
	fallen, lost, starts := int32(-1), int64(0), int64(0)
	for id, lag := range lags[schemas.DetectorGroup(r.Model)].Lag[topic] {
		if lag.Lag > 0 && lag.Commit.At > 0 {
			fallen, lost, starts = id, lag.Lag, lag.End.Offset
			deleted, err := admin.DeleteRecords(ctx, kadm.Offsets{topic: {id: {Topic: topic, Partition: id, At: lag.End.Offset}}})
			ok(t, errors.Join(err, deleted.Error()))
			t.Logf("%d records of %s, partition %d, are gone", lag.Lag, topic, id)
			break
		}
	}
	if fallen < 0 {
		t.Fatal("no partition has a backlog behind a commit")
	}
	ok(t, r.Stack.StartStage("detector"))
	named := fmt.Sprintf("%s partition %d is stopped", topic, fallen)
	ok(t, persist(ctx, func() error {
		err := r.Ready(ctx, "detector")
		if err == nil || !strings.Contains(err.Error(), named) {
			return fmt.Errorf("the detector does not say that %s: %w", named, err)
		}
		return nil
	}))
	m, err := r.Metrics(ctx, "detector")
	ok(t, err)
	if m["leafcutter_stage_halted_partitions_total"] < 1 {
		t.Error("leafcutter_stage_halted_partitions_total does not count the partition")
	}
	// The others go on.
	ok(t, persist(ctx, func() error {
		lags, err := admin.Lag(ctx, schemas.DetectorGroup(r.Model))
		if err != nil {
			return err
		}
		for name, partitions := range lags[schemas.DetectorGroup(r.Model)].Lag {
			for id, lag := range partitions {
				if lag.Lag > 0 && (name != topic || id != fallen) {
					return fmt.Errorf("%s partition %d is %d records behind", name, id, lag.Lag)
				}
			}
		}
		return nil
	}))

	// What an operator does then: the group begins where the partition does, and what was lost is emitted again.
	ok(t, detector.Stop())
	committed, err := admin.CommitOffsets(ctx, schemas.DetectorGroup(r.Model), kadm.Offsets{topic: {fallen: {Topic: topic, Partition: fallen, At: starts, LeaderEpoch: -1}}})
	ok(t, errors.Join(err, committed.Error()))
	ok(t, r.Stack.StartStage("detector"))
	ok(t, r.AwaitReady(ctx, "detector"))
	began := time.Now()
	out, err := r.Command(ctx, "reconcile", "--older-than", "0s")
	ok(t, err)
	t.Logf("leafcutter reconcile: %s", out)
	ok(t, l.settle(ctx))
	judge(ctx, t, l, o, result{fault: "Apache Kafka: a committed offset falls out of retention", times: 1,
		note: fmt.Sprintf("%d records gone; that partition stops, with an alarm, the others go on; after a reset and leafcutter reconcile all had ended %.0f s later", lost, time.Since(began).Seconds())})
}
