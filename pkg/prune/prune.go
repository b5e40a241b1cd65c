package prune

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"leafcutter/pkg/clickhouse"
	"leafcutter/pkg/objectstore"
)

// Pruner is what pruning needs. Its ClickHouse has to be patient: a statement that rewrites a month may take minutes.
type Pruner struct {
	Store *objectstore.Store
	DB    *clickhouse.DB
	Now   func() time.Time
}

// Report is what was removed, or with DryRun what would be.
type Report struct {
	DryRun bool    `json:"dry_run"`
	What   []Count `json:"what"`
	// Swept is what was found below the prefixes of documents that were deleted for ever, written after their deletion.
	Swept Count `json:"deleted_documents"`
	// Dropped are whole partitions that went at once: table and partition.
	Dropped []string `json:"partitions_dropped"`
}

// Count is what was removed of one kind.
type Count struct {
	What      string     `json:"what"`
	Before    *time.Time `json:"before,omitempty"` // older than this
	Documents int        `json:"documents"`
	Objects   int        `json:"objects"`
	Bytes     int64      `json:"bytes"` // of the objects
	Rows      uint64     `json:"rows"`
}

// of is the count of a kind.
func (r *Report) of(what string) *Count {
	i := slices.IndexFunc(r.What, func(c Count) bool { return c.What == what })
	return &r.What[i]
}

// Run removes what is older than keep says. With dry it only counts. What was done before an error is in the report.
func (p *Pruner) Run(ctx context.Context, keep Keep, dry bool) (*Report, error) {
	cutoffs := keep.cutoffs(p.Now())
	report := &Report{DryRun: dry, Swept: Count{What: "deleted"}, Dropped: []string{}}
	for _, what := range All() {
		if at, ok := cutoffs[what]; ok {
			report.What = append(report.What, Count{What: what, Before: &at})
		}
	}
	j := &job{Pruner: p, cutoffs: cutoffs, dry: dry, report: report}
	for _, step := range []func(context.Context) error{j.documents, j.traces, j.leftovers, j.sweep} {
		if err := step(ctx); err != nil {
			return report, fmt.Errorf("prune: %w", err)
		}
	}
	return report, nil
}

// job is one run.
type job struct {
	*Pruner
	cutoffs map[string]time.Time
	dry     bool

	mu     sync.Mutex
	report *Report
}

// documents prunes documents and their parts, a month of submissions after the other: the unit in which tables are cut.
func (j *job) documents(ctx context.Context) error {
	if latest(j.cutoffs, append(parts(), Documents)...).IsZero() {
		return nil
	}
	months, err := j.months(ctx)
	if err != nil {
		return err
	}
	for _, m := range months {
		if err := j.month(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// month prunes what was submitted in one month.
func (j *job) month(ctx context.Context, m month) error {
	whole, err := j.whole(ctx, m)
	if err != nil {
		return err
	}
	masked := map[string]bool{} // tables that rows were deleted from
	for last := ""; ; {
		found, err := j.due(ctx, m, last, pageSize)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			break
		}
		last = found[len(found)-1].id
		if found, err = j.objects(ctx, m, found); err != nil {
			return err
		}
		// A run that began while the others' objects went is not to lose its rows as well.
		if found, err = j.still(ctx, m, found); err != nil {
			return err
		}
		if err := j.rows(ctx, m, found, whole, masked); err != nil {
			return err
		}
	}
	if j.dry {
		return nil
	}
	if whole {
		return j.drop(ctx, m)
	}
	return j.rewrite(ctx, m, masked)
}

// pageSize is how many documents are looked at at once: the server bounds the length of a statement that names them.
const pageSize = 1000
