package stage

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/failpoint"
	"leafcutter/pkg/fault"
)

// work is what the watchdog looks at: a call of the handler, or outputs on their way.
type work struct {
	items []*item
	doing string
	since time.Time
	named bool // the watchdog has said so already
}

func (r *Runner) begin(items []*item, doing string) *work {
	w := &work{items: items, doing: doing, since: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[w] = struct{}{}
	return w
}

func (r *Runner) end(w *work) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, w)
}

// work hands records to the handler until the lanes are closed or ctx ends.
func (r *Runner) work(ctx context.Context) {
	for {
		batch := r.lanes.next(ctx)
		if batch == nil {
			return
		}
		wanted := batch[:0]
		for _, i := range batch {
			switch {
			case i.part.isRevoked():
				r.lanes.release(i)
			case i.refused != nil:
				r.meters.fault(ctx, i.refused)
				r.condemn(ctx, i, i.refused)
			case r.cfg.Cancelled != nil && r.cfg.Cancelled(r.about(i.in)):
				r.drop(ctx, i)
			case r.crashed(ctx, i):
			default:
				pause := r.pause(i)
				if !i.judged {
					i.judged, i.suspect = true, i.part.judge(i.in.Offset, pause > 0)
				}
				switch {
				case pause > 0:
					r.putOff(i, pause)
				case i.suspect:
					r.handleAlone(ctx, i)
				default:
					wanted = append(wanted, i)
				}
			}
		}
		if len(wanted) > 0 {
			r.alone.RLock()
			r.handle(ctx, wanted)
			r.alone.RUnlock()
		}
	}
}

// pause is how long it is until a record's time comes.
func (r *Runner) pause(i *item) time.Duration {
	if r.cfg.Hold == nil {
		return 0
	}
	pause := r.cfg.Hold(i.in)
	if pause <= 0 {
		r.lanes.unpark(i)
	}
	return pause
}

// putOff queues a record again when its time may have come.
func (r *Runner) putOff(i *item, pause time.Duration) {
	r.lanes.refund(i)
	pause = max(pause, time.Duration(r.lanes.park(i))*betweenHolds)
	time.AfterFunc(pause, func() { r.lanes.again(i) })
}

// betweenHolds bounds what it costs to ask about records that are put off, however many there are: 2,500 times a second.
const betweenHolds = 400 * time.Microsecond

func (r *Runner) handle(ctx context.Context, items []*item) {
	ins := make([]In, len(items))
	started := time.Now()
	for n, i := range items {
		i.in.Attempt = i.attempts + 1
		ins[n] = i.in
		r.meters.queued(ctx, started.Sub(i.in.Timestamp))
	}
	w := r.begin(items, "in the handler")
	ctx, span := r.spans.start(ctx, ins, r.about)
	failpoint.Hit(r.cfg.Name, "taken")
	results := r.call(ctx, ins)
	failpoint.Hit(r.cfg.Name, "handled")
	r.meters.worked(ctx, time.Since(started))
	outs := make([][]Out, len(items))
	for n := range items {
		outs[n] = r.spans.inject(ctx, results[n].Out)
	}
	span.end(results)

	r.end(w)
	for n, i := range items {
		r.settle(ctx, i, results[n], outs[n])
	}
}

// call is the handler's call, with a panic turned into a fault of the records and a wrong number of results refused.
func (r *Runner) call(ctx context.Context, ins []In) (results []Result) {
	fail := func(err error) {
		results = make([]Result, len(ins))
		for n := range results {
			results[n] = Fail(err)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("the handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			fail(fault.AsTransient("panic", fmt.Errorf("panic: %v", p)))
		}
	}()
	results = r.cfg.Handler.Handle(ctx, ins)
	if len(results) != len(ins) {
		fail(fault.AsTransient("internal", fmt.Errorf("the handler gave %d results for %d records", len(results), len(ins))))
	}
	return results
}

// settle decides what becomes of a handled record.
func (r *Runner) settle(ctx context.Context, i *item, result Result, outs []Out) {
	if result.Err == nil {
		for _, f := range result.Failures {
			r.meters.fault(ctx, f.Err)
			r.log.Warn("part of a record failed and is dead-lettered", append(aboutAttrs(f.About), "code", fault.CodeOf(f.Err), "error", f.Err)...)
			outs = append(outs, r.deadLetterOfPart(i, f))
		}
		r.produce(ctx, i, outs, outcomeDone)
		return
	}
	class := fault.ClassOf(result.Err)
	if class == fault.Shutdown && ctx.Err() == nil {
		class = fault.Transient // the handler gave up by itself: nobody asked it to
	}
	r.meters.fault(ctx, result.Err)
	switch class {
	case fault.Shutdown:
		i.leave()
		r.lanes.release(i) // uncommitted: it is read again
	case fault.Permanent:
		r.condemn(ctx, i, result.Err)
	case fault.Transient:
		r.retry(ctx, i, result.Err, r.cfg.Limits.RetryBackoff)
	case fault.Unavailable:
		failed := time.Now()
		r.settling.Go(func() { r.await(ctx, i, result.Err, failed) })
	}
}

// await decides about a record whose dependency seems to be away. The fault is believed only while the dependency's
// own probe fails too, or did so lately: an error that one record alone provokes counts as a try of that record.
func (r *Runner) await(ctx context.Context, i *item, err error, failed time.Time) {
	dependency := fault.DependencyOf(err)
	if away := r.probes.away(ctx, dependency, failed); away == nil && !r.probes.lately(dependency) {
		// It answers, yet not to this record: overload, or the record's own doing. Patience tells which.
		r.retry(ctx, i, err, doubt*r.cfg.Limits.RetryBackoff)
		return
	}
	if i.waits == 0 {
		r.log.Warn("a dependency is away: its records wait", "dependency", dependency, "error", err)
	}
	i.waits++
	r.later(i, backoff(r.cfg.Limits.RetryBackoff, i.waits, maxWait))
}

// retry counts a failed try and queues the record again after a backoff, or gives it up after Limits.MaxAttempts.
func (r *Runner) retry(ctx context.Context, i *item, err error, pause time.Duration) {
	i.attempts++
	if i.attempts >= r.cfg.Limits.MaxAttempts {
		r.condemn(ctx, i, err)
		return
	}
	r.log.Info("a record failed and is tried again", append(r.itemAttrs(i), "attempt", i.attempts, "code", fault.CodeOf(err), "error", err)...)
	r.later(i, backoff(pause, i.attempts, maxBackoff))
}

// later queues a record again after a pause in which it holds no worker.
func (r *Runner) later(i *item, pause time.Duration) {
	i.leave()
	time.AfterFunc(pause, func() { r.lanes.again(i) })
}

const (
	maxBackoff = time.Minute
	maxWait    = 5 * time.Second // so that work goes on soon after a dependency is back
	doubt      = 20              // times the pause after an error of a dependency that answers others
)

// backoff doubles from base with each try, up to limit, less up to a half at random so that records that failed
// together do not come back together.
func backoff(base time.Duration, try int, limit time.Duration) time.Duration {
	d := base << min(try-1, 16)
	if d > limit || d <= 0 {
		d = limit
	}
	return d - rand.N(d/2+1)
}

// drop has done with a record whose work is not wanted any more, once that has been said.
func (r *Runner) drop(ctx context.Context, i *item) {
	var outs []Out
	if r.cfg.Dropped != nil {
		outs = r.spans.inject(extract(i.in), r.cfg.Dropped(i.in))
	}
	r.lanes.refund(i)
	r.produce(ctx, i, outs, outcomeCancelled)
}

// produce sends what a record caused and marks it done once all of it has been acknowledged.
func (r *Runner) produce(ctx context.Context, i *item, outs []Out, outcome string) {
	if len(outs) == 0 {
		r.done(ctx, i, outcome)
		return
	}
	r.settling.Add(1)
	waiting := r.begin([]*item{i}, "waiting for Kafka to take what it caused")
	sendAll(ctx, r.client, r.kafka, outs, func(err error) {
		defer r.settling.Done()
		r.end(waiting)
		switch {
		case err == nil:
			failpoint.Hit(r.cfg.Name, "produced")
			r.done(ctx, i, outcome)
		case ctx.Err() != nil:
			i.leave()
			r.lanes.release(i)
		case outcome == outcomeDead && fault.ClassOf(err) == fault.Permanent:
			r.settling.Go(func() { r.giveUpBriefly(ctx, i, err) })
		default:
			// Not from here: this is the client's own goroutine, and a retry may produce again.
			r.settling.Go(func() { r.refused(ctx, i, err) })
		}
	})
}

// refused decides about a record whose outputs Kafka did not take. What is wrong with an output itself is settled as an
// error of the handler is. Anything else is Kafka's fault, whatever its probe says: a broker without room on its disk, or
// that forbids this client to write, still answers. The record is handled again until Kafka takes what it causes, for to
// give it up takes Kafka too.
func (r *Runner) refused(ctx context.Context, i *item, err error) {
	if fault.ClassOf(err) == fault.Permanent {
		r.settle(ctx, i, Fail(err), nil)
		return
	}
	r.meters.fault(ctx, err)
	if i.waits == 0 {
		r.log.Warn("Kafka does not take what a record caused: it waits", append(r.itemAttrs(i), "error", err)...)
	}
	i.waits++
	r.later(i, backoff(r.cfg.Limits.RetryBackoff, i.waits, maxWait))
}

// done marks a record as finished.
func (r *Runner) done(ctx context.Context, i *item, outcome string) {
	i.part.finish(i.in.Offset)
	i.leave()
	r.lanes.release(i)
	r.meters.done(ctx, i.bulk, outcome)
}

// in copies all that it takes of a record, which would otherwise keep the batch that it came in.
func (r *Runner) in(rec *kgo.Record) In {
	headers := make(map[string]string, len(rec.Headers))
	for _, h := range rec.Headers {
		headers[h.Key] = string(h.Value)
	}
	return In{Topic: r.plainName(rec.Topic), Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp,
		Key: string(rec.Key), Value: bytes.Clone(rec.Value), Headers: headers, Attempt: 1}
}

func (r *Runner) about(in In) About {
	if r.cfg.About == nil {
		return About{}
	}
	return r.cfg.About(in)
}

func (r *Runner) itemAttrs(i *item) []any {
	return append(aboutAttrs(r.about(i.in)), "topic", i.in.Topic, "partition", i.in.Partition, "offset", i.in.Offset)
}

func aboutAttrs(a About) []any {
	var attrs []any
	if a.DocumentID != "" {
		attrs = append(attrs, "document_id", a.DocumentID)
	}
	if a.RunID != "" {
		attrs = append(attrs, "run_id", a.RunID)
	}
	if a.Page != 0 {
		attrs = append(attrs, "page", a.Page)
	}
	return attrs
}
