package clickhouse

import (
	"context"
	"errors"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"leafcutter/pkg/fault"
)

// rows classes the errors of rows that are being read.
type rows struct {
	driver.Rows
	ctx context.Context
}

func (r *rows) Err() error               { return classed(r.ctx, "read rows", r.Rows.Err()) }
func (r *rows) Close() error             { return classed(r.ctx, "close rows", r.Rows.Close()) }
func (r *rows) Scan(dest ...any) error   { return classed(r.ctx, "scan row", r.Rows.Scan(dest...)) }
func (r *rows) ScanStruct(dst any) error { return classed(r.ctx, "scan row", r.Rows.ScanStruct(dst)) }

// row is rows for one.
type row struct {
	driver.Row
	ctx context.Context
}

func (r *row) Err() error               { return classed(r.ctx, "query row", r.Row.Err()) }
func (r *row) Scan(dest ...any) error   { return classed(r.ctx, "query row", r.Row.Scan(dest...)) }
func (r *row) ScanStruct(dst any) error { return classed(r.ctx, "query row", r.Row.ScanStruct(dst)) }

// batch classes the errors of an insert.
type batch struct {
	driver.Batch
	ctx     context.Context
	refused func() // told when a row was not taken or the insert has failed
}

// Append adds a row. Whatever it does not take is the row's fault, except a batch that was sent already.
func (b *batch) Append(values ...any) error { return b.rejected(b.Batch.Append(values...)) }

// AppendStruct adds a row from a struct with `ch` tags.
func (b *batch) AppendStruct(v any) error { return b.rejected(b.Batch.AppendStruct(v)) }

// Send inserts the rows.
func (b *batch) Send() error {
	err := b.Batch.Send()
	if err != nil {
		b.refused()
	}
	return classed(b.ctx, "insert", err)
}

func (b *batch) rejected(err error) error {
	if err == nil || errors.Is(err, chgo.ErrBatchAlreadySent) {
		return err
	}
	b.refused()
	return fault.AsPermanent(CodeRow, err)
}
