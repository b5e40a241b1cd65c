package reliability

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"leafcutter/e2e/pipeline"
)

var (
	seed   = flag.Uint64("seed", 1, "of the corpus and of the faults")
	record = flag.Bool("record", false, "write the table into docs/reliability.md")
)

// suite is what the tests of one run share: the pipeline that nobody disturbs, what it ended with, and the table.
var suite struct {
	calm  pipeline.Shared
	table table

	once   sync.Once
	items  []item
	load   *load // copy 0, undisturbed
	oracle oracle
	raw    answers
	took   time.Duration // from the first submission until all had ended
	err    error

	build   sync.Once
	failing string // folder of the build with failpoints
	broken  error  // of building it
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	code := m.Run()
	fmt.Print(suite.table.String())
	if *record {
		if err := suite.table.record(*seed); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if suite.load != nil {
		suite.load.kafka.Close()
	}
	if suite.failing != "" {
		if err := os.RemoveAll(suite.failing); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if err := suite.calm.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// undisturbed gives the corpus, and the oracle that an undisturbed run of it made.
func undisturbed(t *testing.T) (items []item, o oracle) {
	t.Helper()
	p := suite.calm.Get(t)
	suite.once.Do(func() { suite.err = learn(t, p) })
	if suite.err != nil {
		t.Fatal(suite.err)
	}
	return suite.items, suite.oracle
}

func learn(t *testing.T, p *pipeline.Pipeline) error {
	items, err := corpusOf(*seed)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l, err := loadOf(p)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := l.put(ctx, 0, items); err != nil {
		return err
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	suite.took = time.Since(began)
	known := l.documents()
	found, err := collect(ctx, p, known, false)
	if err != nil {
		return err
	}
	raw, err := collect(ctx, p, known, true)
	if err != nil {
		return err
	}
	suite.items, suite.load, suite.raw, suite.oracle = items, l, raw[0], newOracle(found[0], items)
	done := map[string]int{}
	for f, says := range found[0] {
		if f.kind == "page" && !failed(says[0]) {
			done[f.item]++
		}
	}
	for _, i := range items {
		if done[i.name] != i.pages {
			return fmt.Errorf("undisturbed, %d pages of %s are done, not %d", done[i.name], i.name, i.pages)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("undisturbed, there are %d copies, not one", len(found))
	}
	t.Logf("undisturbed: %d documents, %d pages, %d facts, %.1f s", len(items), pagesOf(items), len(found[0]), suite.took.Seconds())
	return nil
}

// beside lets a test of the seeded twentieth go on beside others: it waits for most of its time. Those of the whole suite
// have the machine to themselves.
func beside(t *testing.T) {
	t.Helper()
	if !full {
		t.Parallel()
	}
}

// bounded is a context that ends with the test or after limit.
func bounded(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// judge waits for the end of all, holds it to the oracle and adds the row to the table.
func judge(ctx context.Context, t *testing.T, l *load, o oracle, r result) {
	t.Helper()
	v, err := l.judged(ctx, o)
	ok(t, err)
	r.verdict = v
	suite.table.add(r)
	if *record { // at once: what comes later may fail
		ok(t, suite.table.record(*seed))
	}
	if !v.sound() {
		t.Errorf("%s: %s", r.fault, v)
	}
	for _, d := range r.recovery {
		if d > 30*time.Second {
			t.Errorf("%s: recovered only after %.1f s", r.fault, d.Seconds())
		}
	}
	t.Logf("%s %s", r.cells(), r.note)
}
