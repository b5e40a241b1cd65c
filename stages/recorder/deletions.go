package recorder

import (
	"context"
	"fmt"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// erased are the tables that hold rows of a document, all but deletions. Spans are not among them: they say what the
// pipeline did, and go by age. The rows that lead to others go last.
func erased() []string {
	return []string{"page_results", "webhook_deliveries", "dead_letter_replays", "dead_letters", "prunes", "runs", "documents"}
}

const readDeletionsSQL = `SELECT toString(document_id), toUnixTimestamp64Milli(requested_at), sequence,
	coalesce(toUnixTimestamp64Milli(deleted_at), 0), objects, version
FROM deletions FINAL WHERE document_id IN (%s)`

func (d database) readDeletions(ctx context.Context, documents []string) ([]deletionRow, error) {
	var rows []deletionRow
	for part := range slices.Chunk(documents, maxNamed) {
		err := d.read(ctx, fmt.Sprintf(readDeletionsSQL, quoted(part)), func(r driver.Rows) error {
			var row deletionRow
			err := r.Scan(&row.DocumentID, &row.RequestedAt, &row.Sequence, &row.DeletedAt, &row.Objects, &row.Version)
			rows = append(rows, row)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read deletions: %w", err)
		}
	}
	return rows, nil
}

const insertDeletionsSQL = `INSERT INTO deletions (document_id, requested_at, sequence, deleted_at, objects, version)`

// delete says first that documents are deleted. Their rows are deleted for all who ask from its return on; their bytes go
// with the next merge of the parts that hold them. The tokens of their inserts stay known to the server, which matters to
// nobody: nothing of these documents is inserted again.
func (d database) delete(ctx context.Context, documents []string, rows []deletionRow) error {
	if len(rows) > 0 {
		token := newToken("deletions")
		token.json(rows)
		err := d.send(ctx, insertDeletionsSQL, token, len(rows), func(b driver.Batch, i int) error {
			r := &rows[i]
			return b.Append(r.DocumentID, millis(r.RequestedAt), r.Sequence, nullable(r.DeletedAt), r.Objects, r.Version)
		})
		if err != nil {
			return fmt.Errorf("land deletions: %w", err)
		}
	}
	for part := range slices.Chunk(documents, maxNamed) {
		for _, table := range erased() {
			if err := d.db.Exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE document_id IN (%s)", table, quoted(part))); err != nil {
				return fmt.Errorf("delete from %s: %w", table, err)
			}
		}
	}
	return nil
}
