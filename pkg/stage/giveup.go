package stage

import (
	"context"

	"leafcutter/pkg/fault"
	"leafcutter/schemas"
)

// What may become of a record, as the metrics name it.
const (
	outcomeDone      = "done"
	outcomeDead      = "dead"
	outcomeCancelled = "cancelled"
	outcomeLost      = "lost" // given up, and not even that could be said
)

// condemn gives a record up: to dead-letters, with the records that tell the rest of the pipeline. A letter itself is let
// go: one about it would come back to where it failed, for ever.
func (r *Runner) condemn(ctx context.Context, i *item, err error) {
	if i.in.Topic == schemas.TopicDeadLetters {
		r.log.Error("a dead letter is given up, and no letter tells of it", append(r.itemAttrs(i), "code", fault.CodeOf(err), "error", err)...)
		r.done(ctx, i, outcomeLost)
		return
	}
	r.log.Error("a record is given up and dead-lettered", append(r.itemAttrs(i), "code", fault.CodeOf(err), "attempts", max(i.attempts, 1), "error", err)...)
	letter, lerr := r.deadLetter(ctx, i, err)
	if lerr != nil {
		// Nothing is given up before its letter is safe: the record is handled again later, and condemned again.
		r.log.Warn("a dead letter could not be stored; its record is tried again", append(r.itemAttrs(i), "error", lerr)...)
		i.waits++
		r.later(i, backoff(r.cfg.Limits.RetryBackoff, i.waits, maxWait))
		return
	}
	r.produce(ctx, i, append([]Out{letter}, r.condemned(ctx, i, err)...), outcomeDead)
}

// condemned are the records that tell the rest of the pipeline.
func (r *Runner) condemned(ctx context.Context, i *item, err error) []Out {
	if r.cfg.Condemned == nil || i.refused != nil { // what was not read is about nothing that anybody knows
		return nil
	}
	return r.spans.inject(ctx, r.cfg.Condemned(i.in, fault.CodeOf(err), err))
}

// giveUpBriefly is for a record whose dead letter, or what was to be told with it, is itself refused by Kafka. It sends a
// letter without value and foreign headers, and of the rest what is well below the limits. Whatever becomes of that, the
// record is done: to condemn it again would give the same refusal, for ever.
func (r *Runner) giveUpBriefly(ctx context.Context, i *item, refused error) {
	brief := Out{Topic: schemas.TopicDeadLetters, Key: cut(i.in.Key, briefKey), Headers: r.reason(i, nil, i.in.Topic, r.about(i.in), refused)}
	outs := []Out{brief}
	for _, o := range r.condemned(ctx, i, refused) {
		if len(o.Value) <= briefValue {
			outs = append(outs, o)
		}
	}
	r.log.Error("the dead letter of a record is refused: a brief one takes its place, without the record's value", append(r.itemAttrs(i), "error", refused)...)
	r.settling.Add(1)
	sendAll(ctx, r.client, r.kafka, outs, func(err error) {
		defer r.settling.Done()
		switch {
		case err == nil:
			r.done(ctx, i, outcomeDead)
		case fault.ClassOf(err) == fault.Permanent:
			r.log.Error("a record is given up without a dead letter", append(r.itemAttrs(i), "error", err)...)
			r.done(ctx, i, outcomeLost)
		case ctx.Err() != nil:
			i.leave()
			r.lanes.release(i)
		default:
			r.settling.Go(func() { r.refused(ctx, i, err) })
		}
	})
}

const (
	briefKey   = 1 << 10   // bytes of a key
	briefValue = 512 << 10 // bytes of a value that any topic of ours takes
)
