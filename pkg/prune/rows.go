package prune

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"leafcutter/schemas"
)

// monthly are the tables of results, cut by the month of submission. Rows that lead to others go last.
func monthly() []string { return []string{"page_results", "runs", "documents"} }

// uncut are the other tables with rows of documents. webhook_deliveries is not among them: see leftovers.
func uncut() []string { return []string{"dead_letter_replays", "dead_letters"} }

// rows removes the rows of documents whose objects are gone, and notes what parts are. Rows of a month that goes as a whole
// are left for that.
func (j *job) rows(ctx context.Context, m month, found []document, whole bool, masked map[string]bool) error {
	byKind := map[string][]string{}
	for _, d := range found {
		for _, what := range d.what {
			byKind[what] = append(byKind[what], "'"+d.id+"'")
		}
	}
	for _, what := range []string{Rows, Documents} {
		ids := byKind[what]
		if len(ids) == 0 {
			continue
		}
		in := "document_id IN (" + strings.Join(ids, ", ") + ")"
		tables := []string{"page_results"}
		if what == Documents {
			tables = slices.Concat(monthly(), uncut())
		}
		for _, table := range tables {
			cut := slices.Contains(monthly(), table)
			where := in
			if cut {
				where = fmt.Sprintf("toYYYYMM(submitted_at) = %s AND %s", m, in)
			}
			n, err := j.countRows(ctx, table, where)
			if err != nil {
				return err
			}
			j.count(func(r *Report) { r.of(what).Rows += n })
			if j.dry || n == 0 || cut && whole {
				continue
			}
			if err := j.DB.Exec(ctx, "DELETE FROM "+table+" WHERE "+where); err != nil {
				return fmt.Errorf("delete from %s: %w", table, err)
			}
			masked[table] = true
		}
	}
	if j.dry {
		return nil
	}
	return j.note(ctx, found)
}

// countRows counts rows as they lie in the table: a row that was replaced takes room until parts are merged.
func (j *job) countRows(ctx context.Context, table, where string) (uint64, error) {
	var rows []struct {
		N uint64 `ch:"n"`
	}
	if err := j.DB.Select(ctx, &rows, "SELECT count() AS n FROM "+table+" WHERE "+where); err != nil {
		return 0, fmt.Errorf("count rows of %s: %w", table, err)
	}
	return rows[0].N, nil
}

// note writes down which parts of documents are gone.
func (j *job) note(ctx context.Context, found []document) error {
	var values []string
	now := j.Now().UnixMilli()
	for _, d := range found {
		for _, what := range d.what {
			if what != Documents {
				values = append(values, fmt.Sprintf("('%s', '%s', fromUnixTimestamp64Milli(%d))", d.id, what, now))
			}
		}
	}
	for some := range slices.Chunk(values, pageSize) {
		if err := j.DB.Exec(ctx, "INSERT INTO prunes (document_id, what, pruned_at) VALUES "+strings.Join(some, ", ")); err != nil {
			return fmt.Errorf("note what was pruned: %w", err)
		}
	}
	return nil
}

// drop drops the partitions of a month, unless something of it has become young again meanwhile: then the next prune
// takes what is left.
func (j *job) drop(ctx context.Context, m month) error {
	empty, err := j.empty(ctx, m, j.cutoffs[Documents])
	if err != nil || !empty {
		return err
	}
	for _, table := range monthly() {
		if err := j.dropPartition(ctx, table, m.String()); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) dropPartition(ctx context.Context, table, partition string) error {
	if err := j.DB.Exec(ctx, "ALTER TABLE "+table+" DROP PARTITION "+partition); err != nil {
		return fmt.Errorf("drop partition %s of %s: %w", partition, table, err)
	}
	j.count(func(r *Report) { r.Dropped = append(r.Dropped, table+" "+strings.Trim(partition, "'")) })
	return nil
}

// rewrite gives back the room of rows that were deleted: until then they are only masked, and may stay so for ever in a
// part that is too large to be merged again.
func (j *job) rewrite(ctx context.Context, m month, masked map[string]bool) error {
	for _, table := range slices.Sorted(maps.Keys(masked)) {
		where := ""
		if slices.Contains(monthly(), table) {
			where = " IN PARTITION " + m.String()
		}
		if err := j.unmask(ctx, table, where); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) unmask(ctx context.Context, table, where string) error {
	if err := j.DB.Exec(ctx, "ALTER TABLE "+table+" APPLY DELETED MASK"+where+" SETTINGS mutations_sync = 1"); err != nil {
		return fmt.Errorf("rewrite %s: %w", table, err)
	}
	return nil
}

// traces drops the days of spans that are old, and of the day in which the cutoff lies what comes before it.
func (j *job) traces(ctx context.Context) error {
	cutoff, ok := j.cutoffs[Traces]
	if !ok {
		return nil
	}
	at := cutoff.UTC().Format("2006-01-02 15:04:05.000")
	n, err := j.countRows(ctx, "otel_traces", "Timestamp < toDateTime64('"+at+"', 9, 'UTC')")
	if err != nil {
		return err
	}
	j.count(func(r *Report) { r.of(Traces).Rows = n })
	if j.dry || n == 0 {
		return nil
	}
	var days []struct {
		Day  string `ch:"day"`
		Last int64  `ch:"last"`
	}
	err = j.DB.Select(ctx, &days, `SELECT toString(toDate(Timestamp)) AS day, max(toUnixTimestamp64Milli(Timestamp)) AS last
		FROM otel_traces WHERE Timestamp < toDateTime64('`+at+`', 9, 'UTC') + INTERVAL 1 DAY GROUP BY day ORDER BY day`)
	if err != nil {
		return fmt.Errorf("list days of spans: %w", err)
	}
	for _, d := range days {
		if d.Last < cutoff.UnixMilli() {
			if err := j.dropPartition(ctx, "otel_traces", "'"+d.Day+"'"); err != nil {
				return err
			}
			continue
		}
		if err := j.DB.Exec(ctx, "DELETE FROM otel_traces WHERE toDate(Timestamp) = '"+d.Day+"' AND Timestamp < toDateTime64('"+at+"', 9, 'UTC')"); err != nil {
			return fmt.Errorf("delete spans: %w", err)
		}
		return j.unmask(ctx, "otel_traces", " IN PARTITION '"+d.Day+"'")
	}
	return nil
}

// leftovers removes the rows that outlive their documents: what was pruned of them, letters about none, and webhooks. The
// last are kept for as long as the topic of events keeps what they stand for, or a replay of it would post again.
func (j *job) leftovers(ctx context.Context) error {
	cutoff, ok := j.cutoffs[Documents]
	if !ok || j.dry {
		return nil
	}
	replayable := j.Now()
	for _, t := range schemas.Topics() {
		if t.Name == schemas.TopicDocumentEvents {
			replayable = replayable.Add(-t.Retention)
		}
	}
	before := func(column string, at time.Time) string {
		return fmt.Sprintf("%s < fromUnixTimestamp64Milli(%d)", column, at.UnixMilli())
	}
	if replayable.After(cutoff) {
		replayable = cutoff
	}
	for _, d := range []struct{ table, where string }{
		{"prunes", "document_id NOT IN (SELECT document_id FROM runs)"},
		{"dead_letters", "document_id = toUUID('00000000-0000-0000-0000-000000000000') AND " + before("failed_at", cutoff)},
		{"dead_letter_replays", "document_id = toUUID('00000000-0000-0000-0000-000000000000') AND " + before("replayed_at", cutoff)},
		{"webhook_deliveries", "document_id NOT IN (SELECT document_id FROM documents) AND " + before("event_at", replayable)},
	} {
		n, err := j.countRows(ctx, d.table, d.where)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		if err := j.DB.Exec(ctx, "DELETE FROM "+d.table+" WHERE "+d.where); err != nil {
			return fmt.Errorf("delete from %s: %w", d.table, err)
		}
		if err := j.unmask(ctx, d.table, ""); err != nil {
			return err
		}
	}
	return nil
}
