package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// Runner runs one stage. It is made by New and used once.
type Runner struct {
	kafka  kafka.Config
	cfg    Config
	log    *slog.Logger
	client *kgo.Client
	lanes  *lanes
	probes *probes
	meters *meters
	spans  spans

	mu         sync.Mutex
	joined     bool
	partitions map[topicPartition]*partition
	halted     map[topicPartition]error
	running    map[*work]struct{}

	// commits is held from reading what may be committed until the broker has answered. The revoke callback takes it
	// too: without it a commit that was read before a revoke could reach the broker after it, and set back or pass the
	// partition's new owner.
	commits sync.Mutex

	// alone is held for reading by every call of the handler, and for writing by that of a record which may have ended a
	// process: nothing else is in the handler then.
	alone sync.RWMutex

	// settling counts what goes on outside the workers: outputs on their way, probes, backoffs.
	settling sync.WaitGroup
}

type topicPartition struct {
	topic     string
	partition int32
}

// New checks cfg and makes a Runner that consumes nothing yet.
func New(k kafka.Config, cfg Config) (*Runner, error) {
	if cfg.Limits.Workers == 0 {
		cfg.Limits.Workers = runtime.GOMAXPROCS(0)
	}
	if err := errors.Join(k.Validate(), cfg.Limits.Validate()); err != nil {
		return nil, err
	}
	if cfg.Name == "" || cfg.Group == "" || len(cfg.Topics) == 0 || cfg.Handler == nil {
		return nil, errors.New("stage: Name, Group, Topics and Handler are required")
	}
	if _, one := cfg.Handler.(each); one {
		cfg.Limits.BatchSize, cfg.Limits.BatchDelay = 1, 0
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Runner{
		kafka: k, cfg: cfg, log: cfg.Logger.With("stage", cfg.Name),
		lanes:      newLanes(cfg.Limits),
		probes:     newProbes(cfg.Probes),
		spans:      newSpans(cfg),
		partitions: map[topicPartition]*partition{},
		halted:     map[topicPartition]error{},
		running:    map[*work]struct{}{},
	}
	meters, err := newMeters(r)
	if err != nil {
		return nil, err
	}
	r.meters = meters
	return r, nil
}

// Run consumes until ctx ends, then stops softly: it takes no new records, gives the work in flight Limits.Grace to end,
// commits, and leaves the group. It returns nil after such a stop. A ctx that has ended already stops it before it
// starts.
func (r *Runner) Run(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	defer r.meters.unregister()
	// The work outlives ctx by the grace time, so it has a context of its own.
	work, hard := context.WithCancel(context.WithoutCancel(ctx))
	defer hard()

	client, err := r.connect()
	if err != nil {
		return err
	}
	r.client = client

	var workers, others sync.WaitGroup
	for range r.cfg.Limits.Workers {
		workers.Go(func() { r.work(work) })
	}
	background, stopBackground := context.WithCancel(work)
	others.Go(func() { r.commitEvery(background) })
	others.Go(func() { r.watch(background) })

	r.poll(ctx)
	r.log.Info("stopping: no new records are taken", "grace", r.cfg.Limits.Grace)
	r.lanes.close()

	finished := make(chan struct{})
	go func() {
		workers.Wait()
		r.settling.Wait()
		close(finished)
	}()
	grace := time.NewTimer(r.cfg.Limits.Grace)
	defer grace.Stop()
	select {
	case <-finished:
	case <-grace.C:
		r.log.Warn("the work in flight did not end within the grace time; it will be done again")
	}
	hard()
	stopBackground()
	others.Wait()

	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastCommit)
	defer cancel()
	err = r.giveBack(last, nil)
	if err != nil {
		r.log.Error("the last commit failed; finished records will be done again", "error", err)
	}
	client.CloseAllowingRebalance()
	select {
	case <-finished:
		return nil
	case <-time.After(unwind):
		return fmt.Errorf("stage %s: a handler went on %s after its context had ended", r.cfg.Name, unwind)
	}
}

const (
	lastCommit = 10 * time.Second // for the commit at the end
	unwind     = 5 * time.Second  // for handlers to return once their context has ended

	// rebalanceTimeout is how long a group waits for a member to join again. One that dies between joining and the answer
	// is not missed by its heartbeats, which begin only after that: for so long the whole group stands still. A member
	// that lives needs little, for what it must commit before it joins is bounded by commitTimeout.
	rebalanceTimeout = 15 * time.Second
)

func (r *Runner) connect() (*kgo.Client, error) {
	var topics []string
	for _, t := range r.cfg.Topics {
		topics = append(topics, r.kafka.Topic(t))
		if r.cfg.Bulk {
			topics = append(topics, r.kafka.Topic(schemas.Lane(t, true)))
		}
	}
	return kafka.NewClient(r.kafka,
		kgo.ConsumerGroup(r.kafka.Group(r.cfg.Group)),
		kgo.ConsumeTopics(topics...),
		kgo.SessionTimeout(r.kafka.SessionTimeout),
		kgo.HeartbeatInterval(max(r.kafka.SessionTimeout/4, 250*time.Millisecond)),
		kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.DisableAutoCommit(),
		// From a poll to its AllowRebalance nothing is revoked, so what a poll returned is always taken by the
		// assignment that it was fetched under.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(r.assigned),
		kgo.OnOffsetsFetched(r.fetched),
		kgo.AdjustFetchOffsetsFn(r.beginnings),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, gone map[string][]int32) { r.revoked(ctx, gone, true) }),
		kgo.OnPartitionsLost(func(ctx context.Context, _ *kgo.Client, gone map[string][]int32) { r.revoked(ctx, gone, false) }),
		// A group without commits starts at the beginning; a committed offset that is no longer there is an alarm and
		// a stop of that partition, never a jump.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxWait(fetchWait),
		kgo.MetadataMaxAge(time.Minute),
		kgo.ProducerLinger(2*time.Millisecond),
		// A topic that is missing is made good by its operator; until then what is meant for it waits.
		kgo.UnknownTopicRetries(-1),
		kgo.MaxBufferedBytes(bufferedBytes),
	)
}

const (
	bufferedBytes = 64 << 20 // produced and not yet acknowledged

	// fetchWait is how long the broker may hold a fetch that finds nothing. A lane that is resumed waits for the fetch
	// under way to come back before its partitions are asked for again, so this is short.
	fetchWait = 200 * time.Millisecond
)

// poll takes records until ctx ends.
func (r *Runner) poll(ctx context.Context) {
	paused := map[bool]bool{}
	for ctx.Err() == nil {
		r.throttle(paused)
		// While a lane is paused its room may come back without a record arriving: look again soon.
		wait, cancel := ctx, context.CancelFunc(func() {})
		if paused[false] || paused[true] {
			wait, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
		}
		fetches := r.client.PollRecords(wait, r.cfg.Limits.MaxInFlight)
		cancel()
		if fetches.IsClientClosed() {
			return
		}
		fetches.EachError(func(topic string, p int32, err error) { r.fetchError(ctx, topic, p, err) })
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { r.admit(ctx, p) })
		r.client.AllowRebalance()
	}
}

// throttle pauses the partitions of a lane that is full, and resumes those of one that has room again. The lanes are
// bounded apart: a backlog of books may not keep letters from being fetched.
func (r *Runner) throttle(paused map[bool]bool) {
	for _, bulk := range []bool{false, true} {
		full, roomy := r.lanes.full(bulk)
		topics := r.laneTopics(bulk)
		switch {
		case full && !paused[bulk]:
			r.client.PauseFetchTopics(topics...)
			paused[bulk] = true
		case roomy && paused[bulk]:
			r.client.ResumeFetchTopics(topics...)
			paused[bulk] = false
		}
	}
}

func (r *Runner) laneTopics(bulk bool) []string {
	if bulk && !r.cfg.Bulk {
		return nil
	}
	var topics []string
	for _, t := range r.cfg.Topics {
		topics = append(topics, r.kafka.Topic(schemas.Lane(t, bulk)))
	}
	return topics
}

// admit takes the records of one fetched partition.
func (r *Runner) admit(ctx context.Context, fetched kgo.FetchTopicPartition) {
	if len(fetched.Records) == 0 {
		return
	}
	r.mu.Lock()
	p := r.partitions[topicPartition{fetched.Topic, fetched.Partition}]
	r.mu.Unlock()
	if p == nil {
		return // revoked before this poll; the new owner reads them
	}
	p.saw(fetched.HighWatermark)
	var items []*item
	for _, rec := range fetched.Records {
		p.take(rec.Offset, rec.LeaderEpoch)
		in, cost := r.in(rec), 1
		if r.cfg.Cost != nil {
			cost = r.cfg.Cost(in)
		}
		items = append(items, &item{part: p, in: in, bulk: isBulk(in.Topic), cost: cost,
			last: r.cfg.Last != nil && r.cfg.Last(in)})
	}
	r.open(ctx, p)
	for _, i := range items {
		r.lanes.admit(i)
	}
}

func (r *Runner) fetchError(ctx context.Context, topic string, p int32, err error) {
	tooLarge, isTooLarge := errors.AsType[*kgo.ErrDecompressTooLarge](err)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return
	case isTooLarge:
		r.refuse(ctx, tooLarge)
	case isOutOfRange(err):
		r.halt(ctx, topic, p, err, "the committed offset has fallen out of retention: records are lost and this partition is stopped; reset the group to the earliest offset, restart, and run leafcutter reconcile")
	case isUndecodable(err):
		r.halt(ctx, topic, p, err, "a batch of records is none of the codec that it names, and this partition is stopped before it; set the group's offset behind it, and restart")
	default:
		r.log.Warn("reading from Kafka failed; it is tried again", "topic", topic, "partition", p, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// isUndecodable reports whether a batch, whole by its checksum, could not be decompressed: it was written like that, and a
// broker took it that does not look inside, as Apache Kafka does. The client has no type for this and would fetch it for
// ever.
func isUndecodable(err error) bool {
	return strings.HasPrefix(err.Error(), "unable to decompress batch")
}

// halt stops a partition whose committed offset is no longer there, or that cannot be read. The client would ask for it
// again at once, and for ever: it is paused until it is assigned anew.
func (r *Runner) halt(ctx context.Context, topic string, p int32, err error, said string) {
	r.client.PauseFetchPartitions(map[string][]int32{topic: {p}})
	key := topicPartition{topic, p}
	r.mu.Lock()
	known := r.halted[key] != nil
	r.halted[key] = err
	r.mu.Unlock()
	if known {
		r.log.Debug("a stopped partition was asked for again", "topic", topic, "partition", p) // once, by a fetch on its way
		return
	}
	r.meters.halted.Add(ctx, 1)
	r.log.Error(said, "topic", topic, "partition", p, "error", err)
}

// Ready is nil while the stage is a member of its group and none of its partitions is stopped.
func (r *Runner) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for tp, err := range r.halted {
		return fmt.Errorf("%s partition %d is stopped: %w", tp.topic, tp.partition, err)
	}
	if !r.joined {
		return errors.New("not yet a member of consumer group " + r.kafka.Group(r.cfg.Group))
	}
	return nil
}
