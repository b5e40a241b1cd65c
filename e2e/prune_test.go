package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"leafcutter/e2e/corpus"
	"leafcutter/e2e/pipeline"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/clickhouse"
	"leafcutter/schemas"
)

// diskUse is what a pipeline holds on disk, in bytes.
type diskUse struct{ objects, sql int64 }

// diskUsed looks at the folders themselves. Parts that were replaced are removed first: their folders stay for a while.
func diskUsed(ctx context.Context, t *testing.T, p *pipeline.Pipeline, db *clickhouse.DB) diskUse {
	t.Helper()
	eventually(ctx, t, "what was replaced is removed from the disk", func() (bool, error) {
		var rows []struct {
			N uint64 `ch:"n"`
		}
		err := db.Select(ctx, &rows, "SELECT count() AS n FROM system.parts WHERE table IN ('documents', 'runs', 'page_results') AND NOT active")
		return err == nil && rows[0].N == 0, err
	})
	size := func(dir string) (sum int64) {
		err := filepath.WalkDir(filepath.Join(p.Data, dir), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				var info fs.FileInfo
				if info, err = entry.Info(); err == nil {
					sum += info.Size()
				}
			}
			if os.IsNotExist(err) {
				return nil // merged away meanwhile
			}
			return err
		})
		ok(t, err)
		return sum
	}
	return diskUse{size("objects"), size("clickhouse")}
}

// cycles does the same work over and over, prunes after each, and returns what the disk holds after each prune.
func cycles(t *testing.T, n int) []diskUse {
	p := pipeline.Own(t)
	ctx := bounded(t, time.Duration(n+1)*2*time.Minute)
	db, err := clickhouse.Open(ctx, clickhouse.Config{Addr: []string{strings.TrimPrefix(p.SQL, "http://")}, Database: "leafcutter",
		User: p.SQLUser, Password: p.SQLSecret, Timeout: time.Minute})
	ok(t, err)
	t.Cleanup(func() { ok(t, db.Close()) })
	for _, table := range []string{"documents", "runs", "page_results", "otel_traces", "dead_letters"} {
		// Eight minutes otherwise, which is of no matter anywhere but here.
		ok(t, db.Exec(ctx, "ALTER TABLE "+table+" MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1"))
	}
	var all []diskUse
	for i := range n {
		before := diskUsed(ctx, t, p, db)
		var ids []string
		for k := range 4 {
			ids = append(ids, submit(ctx, t, p, corpus.File{Name: fmt.Sprintf("work-%d.pdf", k), Data: corpus.Report(4, 3)}, client.Options{}))
		}
		for _, id := range ids {
			await(ctx, t, p, id, schemas.Completed)
		}
		after := diskUsed(ctx, t, p, db)
		if after.objects < before.objects+400_000 {
			t.Fatalf("cycle %d: the work left no trace on the disk: %+v, then %+v", i, before, after)
		}
		// Spans come late: what is said of this cycle's work after this prune is the next one's to remove.
		out, code, err := p.CLI(ctx, nil, "prune", "--data-dir", p.Data, "--older-than", "1ms", "-o", "json")
		ok(t, err)
		var report struct {
			What []struct {
				What      string
				Documents int
			}
		}
		if err := json.Unmarshal(out.Stdout, &report); code != 0 || err != nil || len(report.What) != 2 || report.What[0].Documents != len(ids) {
			t.Fatalf("prune: %d, %v\n%s", code, err, out)
		}
		for _, id := range ids {
			if _, err := p.Client.Get(ctx, id); client.Code(err) != "document-not-found" {
				t.Errorf("document %s after it was pruned: %v", id, err)
			}
		}
		all = append(all, diskUsed(ctx, t, p, db))
		t.Logf("cycle %d: objects %d to %d to %d KB, clickhouse %d to %d to %d KB", i, before.objects>>10, after.objects>>10, all[i].objects>>10,
			before.sql>>10, after.sql>>10, all[i].sql>>10)
	}
	return all
}

// Disk use is bounded: the second time it holds no more than the first, but for what is in flight.
func TestPruneBoundsTheDisk(t *testing.T) {
	t.Parallel()
	checkHeld(t, cycles(t, 2))
}

// What may be held more than after the first cycle: spans of work that was said to be done before the prune, and the
// servers' own bookkeeping, such as the attributes of the object that probes write again and again.
const (
	sqlRoom    = 2 << 20
	objectRoom = 64 << 10
)

func checkHeld(t *testing.T, all []diskUse) {
	t.Helper()
	for i, h := range all[1:] {
		if h.objects > all[0].objects+objectRoom || h.sql > all[0].sql+sqlRoom {
			t.Errorf("after cycle %d the disk holds %+v, after the first %+v", i+1, h, all[0])
		}
	}
}

// A pipeline that was told what to keep prunes itself while it runs, and leaves alone what has not ended.
func TestUpKeeps(t *testing.T) {
	t.Parallel()
	p := pipeline.Own(t, "LEAFCUTTER_KEEP_IMAGES=1ms", "LEAFCUTTER_KEEP_CROPS=1ms")
	ctx := within(t)
	id := submit(ctx, t, p, corpus.File{Name: "kept.pdf", Data: corpus.Report(2, 5)}, client.Options{})
	await(ctx, t, p, id, schemas.Completed)
	boxes := must(p.Boxes(ctx, id))(t)
	eventually(ctx, t, "images and crops are gone", func() (bool, error) {
		image, err := p.Objects.Exists(ctx, boxes[0].ImageKey)
		if err != nil || image {
			return false, err
		}
		crop, err := p.Objects.Exists(ctx, boxes[0].CropKey)
		return !crop, err
	})
	if annotated, err := p.Objects.Exists(ctx, boxes[0].AnnotatedKey); err != nil || !annotated {
		t.Errorf("the annotated page: %v, %v", annotated, err)
	}
	if d := await(ctx, t, p, id, schemas.Completed); d.PagesDone != 2 {
		t.Errorf("%+v", d)
	}
}
