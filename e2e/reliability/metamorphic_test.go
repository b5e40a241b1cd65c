package reliability

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"leafcutter/e2e/pipeline"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// variation is a way to do the same that must change nothing.
type variation struct {
	workers    int
	partitions int32
	shuffled   bool
	twice      bool
}

func (v variation) String() string {
	s := fmt.Sprintf("%d workers, %d partitions", v.workers, v.partitions)
	if v.shuffled {
		s += ", another order"
	}
	if v.twice {
		s += ", twice"
	}
	return s
}

// The same corpus by 1 worker or 8, over 1 partition or 12, in any order, twice: the same rows, object keys and objects,
// down to every identity.
func TestSameAnswersAnyWay(t *testing.T) {
	variations := []variation{{1, 1, false, false}, {8, 12, false, false}, {1, 12, true, false}, {8, 1, true, true}}
	if !full {
		variations = variations[3:]
	}
	beside(t)
	items, o := undisturbed(t)
	// Here nothing is made plain: copy 0 is what the undisturbed run was, identities and all.
	o.want = suite.raw
	ctx := bounded(t, 30*time.Minute)
	var all verdict
	for _, v := range variations {
		t.Run(v.String(), func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			ok(t, makeTopics(ctx, data, v.partitions))
			p := pipeline.Again(t, data, fmt.Sprintf("LEAFCUTTER_WORKERS=%d", v.workers))
			l := newLoad(t, p)
			order := slices.Clone(items)
			if v.shuffled {
				rand.New(rand.NewPCG(*seed, 6)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			}
			ok(t, l.put(ctx, 0, order))
			if v.twice {
				slices.Reverse(order)
				ok(t, l.put(ctx, 0, order))
			}
			ok(t, l.settle(ctx))
			known := l.documents()
			found, err := collect(ctx, p, known, true)
			ok(t, err)
			verdict := o.judge(known, found)
			if !verdict.sound() {
				t.Errorf("%s: %s", v, verdict)
			}
			all.add(verdict)
		})
	}
	suite.table.add(result{fault: "other workers, partitions, order; twice", times: len(variations), verdict: all, note: "compared by every identity and key"})
}

// makeTopics makes the topics with as many partitions as given, before up does with as many as it likes.
func makeTopics(ctx context.Context, data string, partitions int32) error {
	root, err := pipeline.Root()
	if err != nil {
		return err
	}
	dir := filepath.Join(data, "kafka")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the broker's folder: %w", err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	addr := free.Addr().String()
	if err := free.Close(); err != nil {
		return fmt.Errorf("free a port: %w", err)
	}
	broker := exec.CommandContext(ctx, binary(root, "leafcutter"), "service", "broker", "--addr", addr, "--dir", dir)
	if err := broker.Start(); err != nil {
		return fmt.Errorf("start a broker: %w", err)
	}
	models, err := filepath.Glob(filepath.Join(root, "build", "models", "*", "manifest.json"))
	for i, m := range models {
		models[i] = filepath.Base(filepath.Dir(m))
	}
	k := kafka.Config{Brokers: []string{addr}, SessionTimeout: 6 * time.Second}
	err = errors.Join(err, persist(ctx, func() error { return kafka.Probe(k)(ctx) }))
	if err == nil {
		_, err = kafka.Apply(ctx, k, schemas.Topics(models...), partitions)
	}
	return errors.Join(err, broker.Process.Signal(syscall.SIGTERM), broker.Wait())
}
