package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"leafcutter/pkg/failpoint"
	"leafcutter/schemas"
)

// assigned opens the partitions that the group gave to this member. Kafka's client fetches them only after it returns.
func (r *Runner) assigned(ctx context.Context, client *kgo.Client, got map[string][]int32) {
	r.mu.Lock()
	r.joined = true
	for topic, ids := range got {
		for _, id := range ids {
			r.partitions[topicPartition{topic, id}] = newPartition(topic, id)
			delete(r.halted, topicPartition{topic, id})
		}
	}
	r.mu.Unlock()
	client.ResumeFetchPartitions(got) // of an earlier assignment one may have been halted
	for topic, ids := range got {
		r.log.Debug("partitions assigned", "topic", topic, "partitions", ids)
		if r.cfg.Assigned == nil {
			continue
		}
		if err := r.cfg.Assigned(ctx, r.plainName(topic), ids); err != nil {
			r.log.Error("preparing for assigned partitions failed", "topic", topic, "error", err)
		}
	}
}

// revoked commits what is done of the partitions that go to another member and closes them, so that what is still in
// work commits nothing. Lost partitions are another's already: nothing of them is committed.
func (r *Runner) revoked(ctx context.Context, gone map[string][]int32, commit bool) {
	if commit {
		within, cancel := context.WithTimeout(ctx, commitTimeout)
		err := r.giveBack(within, gone)
		cancel()
		if err != nil {
			r.log.Warn("committing before a revoke failed; the next owner does some records again", "error", err)
		}
	}
	r.commits.Lock() // a background commit that has read these partitions ends first
	defer r.commits.Unlock()
	r.mu.Lock()
	r.joined = r.joined && commit // lost: the group goes on without this member until it has joined again
	for topic, ids := range gone {
		for _, id := range ids {
			key := topicPartition{topic, id}
			if p := r.partitions[key]; p != nil {
				p.revoke()
				delete(r.partitions, key)
			}
			delete(r.halted, key)
		}
	}
	r.mu.Unlock()
	for topic, ids := range gone {
		r.log.Debug("partitions revoked", "topic", topic, "partitions", ids)
		if r.cfg.Revoked != nil {
			r.cfg.Revoked(r.plainName(topic), ids)
		}
	}
}

// commitEvery commits what is done, every Limits.CommitEvery, until ctx ends.
func (r *Runner) commitEvery(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Limits.CommitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		within, cancel := context.WithTimeout(ctx, commitTimeout)
		err := r.commit(within)
		cancel()
		if err != nil && ctx.Err() == nil {
			r.log.Warn("committing failed; it is tried again", "error", err)
		}
	}
}

const commitTimeout = 10 * time.Second

// commit commits what is done.
func (r *Runner) commit(ctx context.Context) error {
	return r.commitAll(ctx, func(*partition) bool { return true }, false)
}

// giveBack commits what is done of the partitions named, or of all where gone is nil, and that their owner lives.
func (r *Runner) giveBack(ctx context.Context, gone map[string][]int32) error {
	named := func(p *partition) bool { return gone == nil || slices.Contains(gone[p.topic], p.id) }
	wasOpen := map[*partition]bool{}
	r.mu.Lock()
	for _, p := range r.partitions {
		if named(p) {
			wasOpen[p] = p.close()
		}
	}
	r.mu.Unlock()
	return r.commitAll(ctx, func(p *partition) bool { return wasOpen[p] }, true)
}

// commitAll commits what is done of the partitions that which picks: of those that moved or, with still, of all.
func (r *Runner) commitAll(ctx context.Context, which func(*partition) bool, still bool) error {
	r.commits.Lock()
	defer r.commits.Unlock()
	offsets := map[string]map[int32]kgo.EpochOffset{}
	notes := map[string]map[int32]note{}
	moved := map[*partition]kgo.EpochOffset{}
	r.mu.Lock()
	for key, p := range r.partitions {
		if !which(p) {
			continue
		}
		if at, n, ok := p.committable(still); ok {
			if offsets[key.topic] == nil {
				offsets[key.topic], notes[key.topic] = map[int32]kgo.EpochOffset{}, map[int32]note{}
			}
			offsets[key.topic][key.partition], notes[key.topic][key.partition] = at, n
			moved[p] = at
		}
	}
	r.mu.Unlock()
	if len(offsets) == 0 {
		return nil
	}
	failpoint.Hit(r.cfg.Name, "committing")
	var fault error
	r.client.CommitOffsetsSync(withNotes(ctx, notes), offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			fault = err
			return
		}
		for _, t := range answer.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					fault = errors.Join(fault, fmt.Errorf("%s partition %d: %w", t.Topic, p.Partition, err))
				}
			}
		}
	})
	if fault != nil {
		return fault
	}
	failpoint.Hit(r.cfg.Name, "committed")
	for p, at := range moved {
		p.committed(at)
	}
	return nil
}

// plainName is a topic's name without the deployment's prefix.
func (r *Runner) plainName(topic string) string {
	return strings.TrimPrefix(topic, r.kafka.TopicPrefix)
}

func isBulk(topic string) bool { return strings.HasSuffix(topic, schemas.BulkSuffix) }

func isOutOfRange(err error) bool { return errors.Is(err, kerr.OffsetOutOfRange) }
