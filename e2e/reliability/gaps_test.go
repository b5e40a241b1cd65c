package reliability

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"leafcutter/e2e/pipeline"
)

// gap is a place between an object, a record, a row and a commit at which a process may end.
type gap struct{ binary, where, after string }

func (g gap) String() string { return g.binary + "." + g.where + "." + g.after }

// gaps are all of them. Those of one stage do not follow each other: a record that its process dies of three times while it
// handles it alone is given up, and that is what three stops in a row can look like.
func gaps() []gap {
	all := []gap{{"ingest-api", "object", "put"}, {"page-splitter", "object", "put"}, {"annotator", "object", "put"}, {"recorder", "rows", "inserted"}}
	for _, after := range []string{"taken", "handled", "produced", "committing", "committed"} {
		for _, s := range [][2]string{{"page-splitter", "planner"}, {"detector", "detector"}, {"annotator", "annotator"}, {"page-splitter", "splitter"}, {"recorder", "recorder"}} {
			all = append(all, gap{s[0], s[1], after})
		}
	}
	return all
}

// failing builds the binaries with their failpoints, once, and gives their folder, with libraries and models beside it.
func failing(t *testing.T) string {
	t.Helper()
	suite.build.Do(func() { suite.failing, suite.broken = buildFailing() })
	ok(t, suite.broken)
	return filepath.Join(suite.failing, "bin")
}

func buildFailing() (dir string, err error) {
	root, err := pipeline.Root()
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp("", "leafcutter-failing-"); err != nil {
		return "", err
	}
	for _, name := range []string{"lib", "models"} {
		err = errors.Join(err, os.Symlink(filepath.Join(root, "build", name), filepath.Join(dir, name)))
	}
	bin := filepath.Join(dir, "bin")
	if err = errors.Join(err, os.Mkdir(bin, 0o700)); err != nil {
		return dir, err
	}
	build := exec.Command("go", "build", "-trimpath", "-tags", "failpoints", "-o", bin+"/", "./deploy/local/cmd/leafcutter", "./ingest-api/cmd/ingest-api",
		"./stages/page-splitter/cmd/page-splitter", "./stages/detector/cmd/detector", "./stages/annotator/cmd/annotator", "./stages/recorder/cmd/recorder")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
}

// A process that ends at any gap leaves nothing that another does not put right.
func TestStopsAtEachGap(t *testing.T) {
	random := rand.New(rand.NewPCG(*seed, 5))
	all := gaps()
	if !full {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:3]
	}
	beside(t)
	items, o := undisturbed(t)
	ctx := bounded(t, 40*time.Minute)
	armed := t.TempDir()
	p := pipeline.Own(t, "LEAFCUTTER_BIN_DIR="+failing(t), "LEAFCUTTER_FAILPOINTS="+armed)
	l := newLoad(t, p)
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	var fed error
	feeding.Go(func() { _, fed = l.flow(ctx, stop, 1, len(items), items) })
	var recovery []time.Duration
	for _, g := range all {
		before, err := p.PID(g.binary)
		ok(t, err)
		path := filepath.Join(armed, g.String())
		// The first pass or a later one: of a document's objects, or of the records of a batch.
		ok(t, os.WriteFile(path, []byte(fmt.Sprint(1+random.IntN(4))), 0o600))
		within, cancel := context.WithTimeout(ctx, 2*time.Minute)
		err = persist(within, func() error {
			if _, err := os.Stat(path); err == nil {
				return errors.New("nobody came by " + g.String())
			}
			return nil
		})
		cancel()
		ok(t, err)
		ended := time.Now()
		ok(t, p.AwaitChild(ctx, g.binary, before))
		ok(t, persist(ctx, func() error { return p.Ready(ctx, g.binary) }))
		recovery = append(recovery, time.Since(ended))
		t.Logf("%s: back at work after %.1f s", g, time.Since(ended).Seconds())
	}
	close(stop)
	feeding.Wait()
	ok(t, fed)
	judge(ctx, t, l, o, result{fault: "a stop at each gap", times: len(recovery), recovery: recovery, note: afters(all)})
}

// afters says what had just happened where, and how often that was tried.
func afters(all []gap) string {
	count := map[string]int{}
	for _, g := range all {
		count[g.after]++
	}
	var each []string
	for _, after := range slices.Sorted(maps.Keys(count)) {
		each = append(each, fmt.Sprintf("%s %d", after, count[after]))
	}
	return strings.Join(each, ", ")
}

// A handler that hangs is named by the watchdog, nothing behind it is committed, and a kill of its process sets it right.
func TestHungHandler(t *testing.T) {
	beside(t)
	items, o := undisturbed(t)
	ctx := bounded(t, 10*time.Minute)
	armed := t.TempDir()
	p := pipeline.Own(t, "LEAFCUTTER_BIN_DIR="+failing(t), "LEAFCUTTER_FAILPOINTS="+armed, "LEAFCUTTER_WATCHDOG=10s")
	l := newLoad(t, p)
	victims := []gap{{"annotator", "annotator", "taken"}}
	if full {
		victims = []gap{{"page-splitter", "planner", "taken"}, {"page-splitter", "splitter", "handled"}, {"detector", "detector", "taken"}, {"annotator", "annotator", "handled"}, {"recorder", "recorder", "taken"}}
	}
	var recovery []time.Duration
	for copy, g := range victims {
		path := filepath.Join(armed, g.String())
		ok(t, os.WriteFile(path, []byte("2 hang"), 0o600))
		ok(t, l.put(ctx, copy+1, items))
		// On a busy machine others are slow too and are named. The one that hangs is not done a while later either.
		ok(t, persist(ctx, func() error {
			if _, err := os.Stat(path); err == nil {
				return errors.New("nobody came by " + g.String())
			}
			log, err := os.ReadFile(filepath.Join(p.Data, "logs", g.binary+".log"))
			if err != nil {
				return err
			}
			err = errors.New("the watchdog says nothing of " + g.String())
			for line := range strings.Lines(string(log)) {
				if !strings.Contains(line, "a record takes too long") {
					continue
				}
				if err = notBehind(ctx, l, g.where, line); err == nil {
					time.Sleep(5 * time.Second) // in which what is slow would be committed
					if err = notBehind(ctx, l, g.where, line); err == nil {
						return nil
					}
				}
			}
			return err
		}))
		before, err := p.KillChild(g.binary)
		ok(t, err)
		killed := time.Now()
		ok(t, p.AwaitChild(ctx, g.binary, before))
		ok(t, persist(ctx, func() error { return p.Ready(ctx, g.binary) }))
		recovery = append(recovery, time.Since(killed))
		ok(t, l.settle(ctx))
	}
	judge(ctx, t, l, o, result{fault: "a handler hangs; its process is killed", times: len(victims), recovery: recovery, note: "named by the watchdog, nothing behind it committed"})
}
