//go:build real

package reliability

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/e2e/realservers"
)

// used says which servers each stage speaks to.
var used = map[string][]string{
	"ingest-api":    {"kafka", "s3", "sql"},
	"page-splitter": {"kafka", "s3"},
	"detector":      {"kafka", "s3"},
	"annotator":     {"kafka", "s3"},
	"recorder":      {"kafka", "sql"},
}

// overNetwork starts the product with a way of its own between each stage and each server that it uses. The tests' own
// clients go straight.
func overNetwork(ctx context.Context, t *testing.T) (real, *realservers.Network) {
	t.Helper()
	network := realservers.NewNetwork()
	at := map[string]string{} // address of a way, by its name
	doors := map[string]string{}
	for stage, servers := range used {
		for _, server := range servers {
			name := stage + " to " + server
			address, err := network.Reserve(name)
			ok(t, err)
			at[name] = address
			if server == "kafka" {
				doors[stage] = address
			}
		}
	}
	r := onReal(ctx, t, realservers.KafkaOptions{Doors: doors}, func(o *realservers.StackOptions, k *realservers.Kafka, objects *realservers.Objects) {
		atEnd(t, network.Close) // before the servers, after the stages
		for stage := range used {
			ok(t, network.Lead(stage+" to kafka", k.Door(stage)))
		}
		o.Environ = func(stage string) []string {
			var env []string
			for _, server := range used[stage] {
				address := at[stage+" to "+server]
				env = append(env, map[string]string{"kafka": "KAFKA_BROKERS=" + address, "s3": "AWS_ENDPOINT_URL=http://" + address, "sql": "CLICKHOUSE_ADDR=http://" + address}[server])
			}
			return env
		}
		o.BeforeStages = func(sql string) error {
			for stage, servers := range used {
				for server, upstream := range map[string]string{"s3": objects.URL, "sql": sql} {
					if slices.Contains(servers, server) {
						if err := network.Lead(stage+" to "+server, upstream); err != nil {
							return err
						}
					}
				}
			}
			return nil
		}
	})
	return r, network
}

// ways are the names of all, in order.
func ways() []string {
	var all []string
	for stage, servers := range used {
		for _, server := range servers {
			all = append(all, stage+" to "+server)
		}
	}
	slices.Sort(all)
	return all
}

// netFault is what may befall a way, and for how long at a time.
type netFault struct {
	name  string
	lasts time.Duration
	begin func(n *realservers.Network, way string) error
	end   func(n *realservers.Network, way string) error
}

func toxic(name string, lasts time.Duration, kind string, attributes map[string]int) netFault {
	return netFault{name, lasts,
		func(n *realservers.Network, way string) error { return n.Poison(way, kind, attributes) },
		func(n *realservers.Network, way string) error { return n.Heal(way) }}
}

func netFaults() []netFault {
	return []netFault{
		toxic("latency of 200 ± 100 ms each way", 4*time.Second, "latency", map[string]int{"latency": 200, "jitter": 100}),
		toxic("40 KB/s", 4*time.Second, "bandwidth", map[string]int{"rate": 40}),
		toxic("connections reset at their first byte", 3*time.Second, "reset_peer", map[string]int{"timeout": 0}),
		toxic("connections that swallow everything and close after 1 s", 3*time.Second, "timeout", map[string]int{"timeout": 1000}),
		toxic("connections that swallow everything", 6*time.Second, "timeout", map[string]int{"timeout": 0}),
		{"cut: connections refused", 5 * time.Second,
			func(n *realservers.Network, way string) error { return n.Cut(way) },
			func(n *realservers.Network, way string) error { return n.Join(way) }},
		{"half open: open connections are forgotten for good", time.Second,
			func(n *realservers.Network, way string) error { _, err := n.Forget(way); return err },
			func(*realservers.Network, string) error { return nil }},
	}
}

// Each way between a stage and a server fails in each manner, one way at a time, then all of them at once, while documents
// come in: nothing is lost and nothing doubled, and no goroutine is left behind.
func TestRealNetworkFaults(t *testing.T) {
	items, o := undisturbed(t)
	items = healthy(items)
	ctx := bounded(t, 55*time.Minute)
	r, network := overNetwork(ctx, t)
	l := newLoad(t, r.Pipeline)
	// Once through, so that connections and pools are there, and then at rest.
	ok(t, l.put(ctx, 1, items))
	ok(t, l.settle(ctx))
	resting, err := goroutines(ctx, r.Pipeline)
	ok(t, err)
	next := 2
	for _, fault := range netFaults() {
		t.Run(fault.name, func(t *testing.T) {
			stop := make(chan struct{})
			var feeding sync.WaitGroup
			var fed error
			feeding.Go(func() { next, fed = l.flow(ctx, stop, next, len(items), items) })
			befallen := 0
			befall := func(which ...string) {
				for _, way := range which {
					ok(t, fault.begin(network, way))
				}
				time.Sleep(fault.lasts) // that long it lasts
				for _, way := range which {
					ok(t, fault.end(network, way))
				}
				befallen++
			}
			for _, way := range ways() {
				befall(way)
			}
			befall(ways()...)
			than, err := pagesLanded(ctx, r.Pipeline)
			ok(t, err)
			recovered := untilNextPage(ctx, t, r.Pipeline, than)
			close(stop)
			feeding.Wait()
			ok(t, fed)
			began := time.Now()
			ok(t, l.settle(ctx))
			note := fmt.Sprintf("each of %d ways for %.0f s, then all at once; all had ended %.0f s later", len(ways()), fault.lasts.Seconds(), time.Since(began).Seconds())
			if err := leaked(ctx, r.Pipeline, resting); err != nil {
				t.Error(err)
				note += "; goroutines left: " + strings.ReplaceAll(err.Error(), "\n", "; ")
			} else {
				note += "; 0 goroutines left"
			}
			judge(ctx, t, l, o, result{fault: "network: " + fault.name, times: befallen, recovery: []time.Duration{recovered}, note: note})
		})
	}
	t.Logf("at rest: %v", slices.Sorted(maps.Values(resting)))
}
