package stage

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/pkg/fault"
)

// CodeCrashedConsumer is the code of a record that was handled alone when its process died, three times.
const CodeCrashedConsumer = "crashed-consumer"

// fetched reads the notes of the partitions that were just assigned. Kafka's client calls it before their first record.
func (r *Runner) fetched(_ context.Context, _ *kgo.Client, answer *kmsg.OffsetFetchResponse) error {
	read := func(topic string, id int32, metadata *string) {
		if metadata == nil {
			return
		}
		n := parseNote(*metadata)
		r.mu.Lock()
		p := r.partitions[topicPartition{topic, id}]
		r.mu.Unlock()
		if p != nil && n.running {
			r.log.Warn("the last owner of a partition died: what it had in work is handled one by one", "topic", topic, "partition", id, "records", n.width)
			p.suspect(n)
		}
	}
	if len(answer.Groups) == 0 { // answered in the form before version 8
		for _, t := range answer.Topics {
			for _, p := range t.Partitions {
				read(t.Topic, p.Partition, p.Metadata)
			}
		}
	}
	for _, g := range answer.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				read(t.Topic, p.Partition, p.Metadata)
			}
		}
	}
	return nil
}

// crashed gives up a record of which processes died often enough.
func (r *Runner) crashed(ctx context.Context, i *item) bool {
	deaths := i.part.deathsOf(i.in.Offset)
	if deaths < maxDeaths {
		return false
	}
	i.attempts = deaths
	r.condemn(ctx, i, fault.Permanentf(CodeCrashedConsumer, "the process died %d times while it handled this record alone", deaths))
	return true
}

// handleAlone handles a record of which a process may have died, with nothing else in the handler. That it is being
// handled is committed first, so that a death counts even if nothing else is left of it; that it survived is committed
// after, so that only deaths while alone count.
func (r *Runner) handleAlone(ctx context.Context, i *item) {
	r.alone.Lock()
	defer r.alone.Unlock()
	i.suspect = false // a retry after an error is as any other's
	i.part.enter(i.in.Offset, i.part.deathsOf(i.in.Offset)+1)
	if err := r.commitNotes(ctx, i.part); err != nil {
		r.log.Warn("that a record is handled alone could not be committed; a death would not count", append(r.itemAttrs(i), "error", err)...)
	}
	settled := make(chan struct{})
	i.settled = settled
	r.handle(ctx, []*item{i})
	i.part.survived(i.in.Offset)
	// Its outputs are waited for, so that what is committed next has passed it: if a later record ends the process, this
	// one is out of doubt.
	select {
	case <-settled:
	case <-ctx.Done():
	}
	if err := r.commitNotes(ctx, i.part); err != nil {
		r.log.Warn("that a record was survived could not be committed", append(r.itemAttrs(i), "error", err)...)
	}
}

// commitNotes commits the offset and the note of one partition now, moved or not.
func (r *Runner) commitNotes(ctx context.Context, p *partition) error {
	within, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	return r.commitAll(within, func(q *partition) bool { return q == p }, true)
}

// open notes, before the first record of an assignment is handled, that the partition is being worked on.
func (r *Runner) open(ctx context.Context, p *partition) {
	if !p.open(min(r.cfg.Limits.Workers*r.cfg.Limits.BatchSize, maxWidth)) {
		return
	}
	if err := r.commitNotes(ctx, p); err != nil {
		r.log.Warn("that a partition is worked on could not be committed; a death of this process would go unnoticed",
			"topic", p.topic, "partition", p.id, "error", err)
	}
}

// withNotes is ctx with which a commit carries the notes of its partitions.
func withNotes(ctx context.Context, notes map[string]map[int32]note) context.Context {
	return kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for t := range req.Topics {
			topic := &req.Topics[t]
			for p := range topic.Partitions {
				n, ok := notes[topic.Topic][topic.Partitions[p].Partition]
				if !ok {
					return fmt.Errorf("no note for %s partition %d", topic.Topic, topic.Partitions[p].Partition)
				}
				text := n.String()
				topic.Partitions[p].Metadata = &text
			}
		}
		return nil
	})
}
