package prune

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"leafcutter/schemas"
)

// month is a partition of the tables of results: 202611, by the documents' time of submission.
type month uint32

func (m month) String() string { return fmt.Sprint(uint32(m)) }

// months are those in which something was submitted, the oldest first.
func (j *job) months(ctx context.Context) ([]month, error) {
	var rows []struct {
		Month uint32 `ch:"m"`
	}
	err := j.DB.Select(ctx, &rows, "SELECT DISTINCT toYYYYMM(submitted_at) AS m FROM runs ORDER BY m")
	if err != nil {
		return nil, fmt.Errorf("list months: %w", err)
	}
	var months []month
	for _, r := range rows {
		months = append(months, month(r.Month))
	}
	return months, nil
}

// document is one of which something is due.
type document struct {
	id   string
	what []string // Documents alone, or parts
}

func final() string {
	var quoted []string
	for _, s := range []schemas.State{schemas.Completed, schemas.CompletedWithFailures, schemas.Failed, schemas.Cancelled} {
		quoted = append(quoted, "'"+string(s)+"'")
	}
	return strings.Join(quoted, ", ")
}

// ended are the documents of a month all of whose runs have ended, with the end of the last: all of them, or those among
// others. It takes the month.
func ended(among string) string {
	return `SELECT document_id, toUnixTimestamp64Milli(max(finished_at)) AS at FROM runs FINAL
	WHERE toYYYYMM(submitted_at) = ? ` + among + `
	GROUP BY document_id
	HAVING countIf(finished_at IS NULL OR state NOT IN (` + final() + `)) = 0`
}

// due is a page of the documents of a month of which something is due, by identity, after last.
func (j *job) due(ctx context.Context, m month, last string, limit int) ([]document, error) {
	youngest := latest(j.cutoffs, append(parts(), Documents)...)
	// It goes on until the page is filled: of many old documents all that is due may have been pruned before.
	var found []document
	for len(found) < limit {
		after, args := "", []any{uint32(m), youngest.UnixMilli()}
		if last != "" {
			after, args = "AND document_id > toUUID(?)", append(args, last)
		}
		var rows []struct {
			ID    string   `ch:"id"`
			At    int64    `ch:"at"`
			Kinds []string `ch:"kinds"`
			Times []int64  `ch:"times"`
		}
		err := j.DB.Select(ctx, &rows, `SELECT toString(e.document_id) AS id, e.at AS at, p.kinds AS kinds, p.times AS times
			FROM (SELECT * FROM (`+ended("")+`) WHERE at < ? `+after+` ORDER BY document_id LIMIT `+fmt.Sprint(pageSize)+`) AS e
			LEFT ANY JOIN
			(
				SELECT document_id, groupArray(toString(what)) AS kinds, groupArray(toUnixTimestamp64Milli(pruned_at)) AS times
				FROM prunes FINAL GROUP BY document_id
			) AS p ON e.document_id = p.document_id
			ORDER BY e.document_id`, args...)
		if err != nil {
			return nil, fmt.Errorf("look for old documents: %w", err)
		}
		for _, r := range rows {
			pruned := map[string]int64{}
			for i, kind := range r.Kinds {
				pruned[kind] = r.Times[i]
			}
			if what := j.dueOf(r.At, pruned); len(what) > 0 {
				found = append(found, document{r.ID, what})
			}
		}
		if len(rows) < pageSize {
			break
		}
		last = rows[len(rows)-1].ID
	}
	return found, nil
}

// still leaves of documents what is due by now: one of them may have begun another run since they were looked for. It is
// asked often, and may not read a month each time: all rows of a run name the same document, so the index by document is
// right with FINAL too. Older servers do not use it there by themselves.
func (j *job) still(ctx context.Context, m month, found []document) ([]document, error) {
	if j.dry || len(found) == 0 {
		return found, nil
	}
	quoted := make([]string, len(found))
	for i, d := range found {
		quoted[i] = "'" + d.id + "'"
	}
	var rows []struct {
		ID string `ch:"id"`
		At int64  `ch:"at"`
	}
	among := "AND document_id IN (" + strings.Join(quoted, ", ") + ")"
	err := j.DB.Select(ctx, &rows, "SELECT toString(document_id) AS id, at FROM ("+ended(among)+") SETTINGS use_skip_indexes_if_final = 1", uint32(m))
	if err != nil {
		return nil, fmt.Errorf("look whether documents are still old: %w", err)
	}
	at := map[string]int64{}
	for _, r := range rows {
		at[r.ID] = r.At
	}
	var left []document
	for _, d := range found {
		end, ok := at[d.id]
		d.what = slices.DeleteFunc(slices.Clone(d.what), func(what string) bool { return !ok || end >= j.cutoffs[what].UnixMilli() })
		if len(d.what) > 0 {
			left = append(left, d)
		}
	}
	return left, nil
}

// dueOf is what is due of a document whose last run ended at a time, in milliseconds since 1970, and of which parts were
// pruned at other times.
func (j *job) dueOf(at int64, pruned map[string]int64) []string {
	old := func(what string) bool {
		cutoff, ok := j.cutoffs[what]
		return ok && at < cutoff.UnixMilli()
	}
	if old(Documents) {
		return []string{Documents}
	}
	var what []string
	for _, part := range parts() {
		if before, ok := pruned[part]; old(part) && (!ok || before <= at) {
			what = append(what, part)
		}
	}
	return what
}

// whole reports whether every document of a month is old, so that its partitions can be dropped. The current month is
// not: something may be submitted while it is looked at.
func (j *job) whole(ctx context.Context, m month) (bool, error) {
	cutoff, ok := j.cutoffs[Documents]
	now := j.Now().UTC()
	if !ok || uint32(m) >= uint32(now.Year()*100+int(now.Month())) {
		return false, nil
	}
	return j.empty(ctx, m, cutoff)
}

// empty reports whether nothing of a month is to be kept.
func (j *job) empty(ctx context.Context, m month, cutoff time.Time) (bool, error) {
	var rows []struct {
		Kept uint64 `ch:"kept"`
	}
	err := j.DB.Select(ctx, &rows, `SELECT count() AS kept FROM
		(
			SELECT document_id FROM documents WHERE toYYYYMM(submitted_at) = ?
			UNION DISTINCT SELECT document_id FROM runs WHERE toYYYYMM(submitted_at) = ?
			UNION DISTINCT SELECT document_id FROM page_results WHERE toYYYYMM(submitted_at) = ?
		)
		WHERE document_id NOT IN (SELECT document_id FROM (`+ended("")+`) WHERE at < ?)`,
		uint32(m), uint32(m), uint32(m), uint32(m), cutoff.UnixMilli())
	if err != nil {
		return false, fmt.Errorf("look whether all of %s is old: %w", m, err)
	}
	return rows[0].Kept == 0, nil
}
