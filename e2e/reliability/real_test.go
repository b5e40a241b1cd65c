//go:build real

package reliability

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"leafcutter/e2e/realservers"
)

// What follows, in the files real_*_test.go, runs the product on Apache Kafka and SeaweedFS (package realservers), and
// holds it to the oracle that the embedded servers made: the same rows, the same objects, to the byte. SQL is the embedded
// server here too: no package registry has a ClickHouse.

// real is the product on servers of its own.
type real struct {
	*realservers.Stack
	kafka   *realservers.Kafka
	objects *realservers.Objects
}

// onReal starts servers and stages for a test. prepare may set what is not as usual; nil for nothing.
func onReal(ctx context.Context, t *testing.T, k realservers.KafkaOptions, prepare func(*realservers.StackOptions, *realservers.Kafka, *realservers.Objects)) real {
	t.Helper()
	dir := t.TempDir()
	k.Dir = filepath.Join(dir, "kafka")
	began := time.Now()
	cluster, err := realservers.NewKafka(ctx, k)
	ok(t, err)
	atEnd(t, cluster.Kill)
	ok(t, cluster.Start(ctx))
	t.Logf("Kafka, %d brokers: up in %.1f s", len(cluster.Brokers), time.Since(began).Seconds())

	began = time.Now()
	objects, err := realservers.NewObjects(filepath.Join(dir, "seaweedfs"))
	ok(t, err)
	atEnd(t, objects.Kill)
	ok(t, objects.Start())
	ok(t, objects.Await(ctx))
	t.Logf("SeaweedFS: up in %.1f s", time.Since(began).Seconds())

	began = time.Now()
	o := realservers.StackOptions{Dir: filepath.Join(dir, "data"), Kafka: cluster.Config(), Objects: objects}
	if prepare != nil {
		prepare(&o, cluster, objects)
	}
	s, err := realservers.NewStack(ctx, o)
	ok(t, err)
	atEnd(t, s.Stop)
	s.Watch(t)
	t.Logf("the stages: up in %.1f s", time.Since(began).Seconds())
	return real{s, cluster, objects}
}

// atEnd runs stop at the end of the test and has it fail where that does.
func atEnd(t *testing.T, stop func() error) {
	t.Helper()
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// The same documents on real servers and on the embedded ones: the same rows and objects.
func TestRealServersGiveTheSame(t *testing.T) {
	items, o := undisturbed(t)
	for name, k := range map[string]realservers.KafkaOptions{
		"one broker": {}, "three brokers with TLS and SCRAM": {Brokers: 3, Secure: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := bounded(t, 5*time.Minute)
			r := onReal(ctx, t, k, nil)
			l := newLoad(t, r.Pipeline)
			began := time.Now()
			ok(t, l.put(ctx, 1, items))
			ok(t, l.settle(ctx))
			t.Logf("%d documents in %.1f s", len(items), time.Since(began).Seconds())
			judge(ctx, t, l, o, result{fault: "real servers, no fault: " + name, times: 1})
		})
	}
}
