//go:build real

package reliability

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"leafcutter/e2e/realservers"
)

// disturbed runs faults one after another under load, each followed by a page that must land, then holds what came of it to
// the oracle. A fault returns once the server is there again.
func disturbed(ctx context.Context, t *testing.T, r real, name, note string, faults ...func()) {
	t.Helper()
	items, o := undisturbed(t)
	l := newLoad(t, r.Pipeline)
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	var fed error
	feeding.Go(func() { _, fed = l.flow(ctx, stop, 1, 3*len(items), items) })
	landed := func() uint64 {
		n, err := pagesLanded(ctx, r.Pipeline)
		ok(t, err)
		return n
	}
	untilNextPage(ctx, t, r.Pipeline, landed()) // the load takes hold
	var recovery []time.Duration
	for _, fault := range faults {
		fault()
		took := untilNextPage(ctx, t, r.Pipeline, landed())
		recovery = append(recovery, took)
		t.Logf("%s: the next page after %.1f s", name, took.Seconds())
	}
	close(stop)
	feeding.Wait()
	ok(t, fed)
	judge(ctx, t, l, o, result{fault: name, times: len(faults), recovery: recovery, note: note})
}

// times repeats a fault.
func times(n int, fault func()) []func() {
	all := make([]func(), n)
	for i := range all {
		all[i] = fault
	}
	return all
}

// away is how long a server is down: longer than a client's first tries, shorter than the groups' rebalance timeout.
const away = 5 * time.Second

// The only broker dies and comes back: there is no other meanwhile, so everything waits for it.
func TestRealOneBrokerKilled(t *testing.T) {
	ctx := bounded(t, 8*time.Minute)
	r := onReal(ctx, t, realservers.KafkaOptions{}, nil)
	broker := r.kafka.Brokers[0]
	disturbed(ctx, t, r, "Apache Kafka, 1 broker: kill -9", fmt.Sprintf("down for %.0f s each", away.Seconds()), times(3, func() {
		ok(t, broker.Kill())
		time.Sleep(away) // how long it is down
		ok(t, broker.Start())
		ok(t, r.kafka.Await(ctx, 0))
	})...)
}

// Three brokers, each record on two of them before it is acknowledged: one may die at any time, and all may be restarted
// one after another, without anybody noticing more than a pause.
func TestRealThreeBrokers(t *testing.T) {
	ctx := bounded(t, 15*time.Minute)
	r := onReal(ctx, t, realservers.KafkaOptions{Brokers: 3, Secure: true}, nil)
	down := func(n int, end func() error) func() {
		return func() {
			ok(t, end())
			time.Sleep(away) // how long it is down
			ok(t, r.kafka.Brokers[n].Start())
			ok(t, r.kafka.AwaitInSync(ctx))
		}
	}
	var kills, restarts []func()
	for n, b := range r.kafka.Brokers {
		kills = append(kills, down(n, b.Kill))
		restarts = append(restarts, down(n, b.Stop))
	}
	disturbed(ctx, t, r, "Apache Kafka, 3 brokers, TLS, SCRAM: kill -9 of each, then a rolling restart",
		fmt.Sprintf("acks=all, min.insync.replicas=2; down for %.0f s each", away.Seconds()), append(kills, restarts...)...)
}

// SeaweedFS dies in the middle of uploads.
func TestRealObjectsKilled(t *testing.T) {
	ctx := bounded(t, 10*time.Minute)
	r := onReal(ctx, t, realservers.KafkaOptions{}, nil)
	disturbed(ctx, t, r, "SeaweedFS: kill -9", fmt.Sprintf("down for %.0f s each", away.Seconds()), times(3, func() {
		ok(t, r.objects.Kill())
		time.Sleep(away) // how long it is down
		ok(t, r.objects.Start())
		ok(t, r.objects.AwaitStoring(ctx))
	})...)
}
