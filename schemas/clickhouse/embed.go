// Package clickhouse holds the DDL of Leafcutter's tables and views as goose migrations. `leafcutter migrate`, the
// migration job of a deployment and the tests apply them through leafcutter/pkg/clickhouse.Migrate; the names are
// unqualified, so they land in the database that the connection names (leafcutter by default).
//
// What holds for every table of results (documents, runs, page_results):
//
//   - ReplacingMergeTree(version): the row of a key with the highest version is the answer, and only SELECT … FINAL is
//     sure to give it before the parts have merged. The views use FINAL; whoever reads a table must too.
//   - version comes from the results record (schemas.RowVersion), never from the time of insertion, so that a replay
//     of the topic writes the same versions again. Bit 63 outranks all others: it is set for a page that is done and
//     for a run that has ended.
//   - submitted_at leads the order and decides the partition (a month); a document keeps the one it first came with.
//     bloom filters on the identities make a look-up by them cheap. They stand on columns of the key only: an index on
//     a column that a later version changes would hide that version from FINAL.
//   - non_replicated_deduplication_window lets insert_deduplication_token drop a batch that is sent twice.
//   - a statement may run again: a migration that was cut short is repeated from its start.
//   - no TTL: rows stay until somebody says otherwise (docs/sql.md shows how).
package clickhouse

import "embed"

// Migrations are the files NNNNN_name.sql, for goose.
//
//go:embed *.sql
var Migrations embed.FS
