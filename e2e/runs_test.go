package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/schemas"
)

// A run's end is said once, with the counts that SQL has; a recorder that reads every result from the beginning again, and
// a document that is submitted again by the same record, change no answer.
func TestEndsAreSaidOnceAndReplaysChangeNothing(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t) // of its own: a replay says the ends of every document again
	ctx := within(t)
	var ids []string
	for _, f := range []corpus.File{sample(t), {Name: "poster.pdf", Data: corpus.OneTooLarge(3, 3)}, {Name: "none.pdf", Data: corpus.NoPages()}} {
		ids = append(ids, submit(ctx, t, p, f, client.Options{}))
	}
	raw := &kgo.Record{Topic: schemas.TopicDocuments, Value: corpus.Report(1, 1)}
	made := produce(ctx, t, p, raw)
	ids = append(ids, schemas.DocumentIDForRecord(made.Topic, made.Partition, made.Offset, made.Timestamp, made.Value))
	for _, id := range ids {
		eventually(ctx, t, "the document is known", func() (bool, error) {
			_, err := p.Client.Get(ctx, id)
			return err == nil, err
		})
		_, err := p.Client.Wait(ctx, id, nil)
		ok(t, err)
	}
	eventually(ctx, t, "every end is said", func() (bool, error) { return len(ends(ctx, t, p)) >= len(ids), nil })
	said := ends(ctx, t, p)
	for _, id := range ids {
		d := must(p.Client.Get(ctx, id))(t)
		if len(said[id]) != 1 {
			t.Errorf("%s: its end is said %d times", d.Title, len(said[id]))
			continue
		}
		e := said[id][0]
		if e.State != d.State || e.PagesDone != d.PagesDone || e.PagesFailed != d.PagesFailed || e.PagesSelected != d.PagesSelected ||
			e.Boxes != d.Boxes || e.RunID != d.Runs[0].RunID || e.ID != e.EventID() || e.Title != d.Title {
			t.Errorf("%s: the event %+v says other things than the API %+v", d.Title, e, d.Summary)
		}
	}
	before := must(p.Answers(ctx, ids...))(t)

	replay(ctx, t, p, "recorder", "replay-")
	if diff := cmp.Diff(before, must(p.Answers(ctx, ids...))(t)); diff != "" {
		t.Errorf("reading every result again changed answers:\n%s", diff)
	}
	// All other stages as well: what they make again has the same names.
	for _, stage := range []string{"annotator", "detector", "page-splitter"} {
		replay(ctx, t, p, stage, "replay-")
	}
	for _, group := range []string{"recorder", "annotator", schemas.DetectorGroup(p.Model)} {
		drained(ctx, t, p, group)
	}
	after := must(p.Answers(ctx, ids...))(t)
	if diff := cmp.Diff(timeless(before), timeless(after)); diff != "" {
		t.Errorf("reading every topic again changed answers:\n%s", diff)
	}
	for id, all := range ends(ctx, t, p) {
		for _, e := range all {
			if e.ID != all[0].ID {
				t.Errorf("document %s: its end is said with two identities: %+v", id, all)
			}
		}
	}
}

// ends are the values of document-events by document.
func ends(ctx context.Context, t *testing.T, p *pipeline.Pipeline) map[string][]schemas.RunEnded {
	t.Helper()
	all := map[string][]schemas.RunEnded{}
	for _, r := range records(ctx, t, p, schemas.TopicDocumentEvents) {
		var e schemas.RunEnded
		ok(t, json.Unmarshal(r.Value, &e))
		if string(r.Key) != e.DocumentID {
			t.Errorf("the event of %s has the key %q", e.DocumentID, r.Key)
		}
		all[e.DocumentID] = append(all[e.DocumentID], e)
	}
	return all
}

// replay runs a stage in a consumer group of its own until it has handled its topics from their beginning.
func replay(ctx context.Context, t *testing.T, p *pipeline.Pipeline, stage, prefix string) {
	t.Helper()
	groups := map[string][]string{
		"recorder": {"recorder"}, "annotator": {"annotator"}, "detector": {schemas.DetectorGroup(p.Model)}, "page-splitter": {"planner", "splitter"},
	}[stage]
	dir := t.TempDir()
	cmd := exec.Command(p.Binary(stage))
	cmd.Dir = dir
	cmd.Env = append(p.Env(), "LEAFCUTTER_GROUP_PREFIX="+prefix, "LEAFCUTTER_ADMIN_ADDR=127.0.0.1:0", "LEAFCUTTER_CACHE_DIR="+filepath.Join(dir, "cache"),
		"LEAFCUTTER_MODEL="+p.Model, "LEAFCUTTER_LOG_FORMAT=json")
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	ok(t, cmd.Start())
	for _, group := range groups {
		drained(ctx, t, p, prefix+group)
	}
	ok(t, cmd.Process.Signal(syscall.SIGTERM))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%s: %v\n%s", stage, err, log.String())
		}
	case <-time.After(40 * time.Second):
		ok(t, cmd.Process.Kill())
		t.Errorf("%s does not stop (%v):\n%s", stage, <-ended, log.String())
	}
}

// drained waits until a group has committed all there is on its topics.
func drained(ctx context.Context, t *testing.T, p *pipeline.Pipeline, group string) {
	t.Helper()
	admin := kadm.NewClient(producer(t, p))
	eventually(ctx, t, "the group "+group+" is done", func() (bool, error) {
		lags, err := admin.Lag(ctx, group)
		if err != nil {
			return false, err
		}
		lag := lags[group]
		if err := errors.Join(lag.Error(), lag.FetchErr, lag.DescribeErr); err != nil {
			return false, err
		}
		if lag.State != "Stable" || len(lag.Lag) == 0 {
			return false, nil
		}
		return lag.Lag.Total() == 0, nil
	})
}

// timeless is answers without what a second handling may change: times and durations and the trace.
func timeless(answers string) string {
	var columns, keep []string
	var b strings.Builder
	for line := range strings.Lines(answers) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) > 2 && (fields[0] == "document_id" || fields[0] == "run_id") {
			columns = fields
		}
		keep = keep[:0]
		for i, f := range fields {
			name := columns[i]
			if !strings.HasSuffix(name, "_ms") && !strings.HasSuffix(name, "_at") && name != "trace_id" {
				keep = append(keep, f)
			}
		}
		b.WriteString(strings.Join(keep, "\t") + "\n")
	}
	return b.String()
}
