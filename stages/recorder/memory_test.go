package recorder

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"leafcutter/pkg/fault"
	"leafcutter/schemas"
)

// memory is the tables without a server: maps that keep, of the rows of a key, the one with the highest version, and of
// equal versions the one that came last. tables_test.go holds the same expectations against the real ones.
type memory struct {
	documents map[[2]any]documentRow
	runs      map[[3]any]runRow
	pages     map[[4]any]pageRow
	deletions map[string]deletionRow

	inserts    int
	failEnded  error // of readEnded, where set
	failDelete error // of delete, where set, between deletions and the rest
	// fail, where set, is asked before each of the three inserts of a call and may refuse it; what came before stays.
	fail func(table string, documents []documentRow, pages []pageRow, runs []runRow) error
}

func newMemory() *memory {
	return &memory{documents: map[[2]any]documentRow{}, runs: map[[3]any]runRow{}, pages: map[[4]any]pageRow{}, deletions: map[string]deletionRow{}}
}

func (m *memory) readDocuments(_ context.Context, ids []string) ([]documentRow, error) {
	var rows []documentRow
	for _, row := range m.documents {
		if slices.Contains(ids, row.DocumentID) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (m *memory) readRuns(_ context.Context, keys []runKey) ([]runRow, error) {
	var rows []runRow
	for _, row := range m.runs {
		if slices.Contains(keys, runKey{row.DocumentID, row.RunID}) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (m *memory) readPages(_ context.Context, keys []runKey) ([]pageSeen, error) {
	var rows []pageSeen
	for _, row := range m.pages {
		if slices.Contains(keys, runKey{row.DocumentID, row.RunID}) {
			rows = append(rows, pageSeen{DocumentID: row.DocumentID, RunID: row.RunID, Page: row.Page, Boxes: uint32(len(row.Boxes)),
				Code: row.Code, SubmittedAt: row.SubmittedAt, Version: row.Version})
		}
	}
	return rows, nil
}

func (m *memory) readEnded(_ context.Context, documents []string) ([]runRow, error) {
	if m.failEnded != nil {
		return nil, m.failEnded
	}
	var rows []runRow
	for _, row := range m.runs {
		if row.State.Final() && slices.Contains(documents, row.DocumentID) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (m *memory) readIdle(_ context.Context, limit int) ([]runRow, error) {
	var rows []runRow
	for _, row := range m.runs {
		if row.State == schemas.Queued || row.State == schemas.WaitingForModel {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b runRow) int { return strings.Compare(a.RunID, b.RunID) })
	return rows[:min(limit, len(rows))], nil
}

func (m *memory) readDeletions(_ context.Context, documents []string) ([]deletionRow, error) {
	var rows []deletionRow
	for _, id := range documents {
		if row, ok := m.deletions[id]; ok {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (m *memory) delete(_ context.Context, documents []string, rows []deletionRow) error {
	for _, row := range rows {
		if old, ok := m.deletions[row.DocumentID]; !ok || row.Version >= old.Version {
			m.deletions[row.DocumentID] = row
		}
	}
	if m.failDelete != nil {
		return m.failDelete
	}
	maps.DeleteFunc(m.documents, func(_ [2]any, row documentRow) bool { return slices.Contains(documents, row.DocumentID) })
	maps.DeleteFunc(m.runs, func(_ [3]any, row runRow) bool { return slices.Contains(documents, row.DocumentID) })
	maps.DeleteFunc(m.pages, func(_ [4]any, row pageRow) bool { return slices.Contains(documents, row.DocumentID) })
	return nil
}

func (m *memory) insert(_ context.Context, documents []documentRow, pages []pageRow, runs []runRow) error {
	m.inserts++
	refused := func(table string) error {
		if m.fail == nil {
			return nil
		}
		return m.fail(table, documents, pages, runs)
	}
	if err := refused("documents"); err != nil {
		return err
	}
	for _, row := range documents {
		key := [2]any{row.SubmittedAt, row.DocumentID}
		if old, ok := m.documents[key]; !ok || row.Version >= old.Version {
			m.documents[key] = row
		}
	}
	if err := refused("page_results"); err != nil {
		return err
	}
	for _, row := range pages {
		key := [4]any{row.SubmittedAt, row.DocumentID, row.RunID, row.Page}
		if old, ok := m.pages[key]; !ok || row.Version >= old.Version {
			m.pages[key] = row
		}
	}
	if err := refused("runs"); err != nil {
		return err
	}
	for _, row := range runs {
		key := [3]any{row.SubmittedAt, row.DocumentID, row.RunID}
		if old, ok := m.runs[key]; !ok || row.Version >= old.Version {
			m.runs[key] = row
		}
	}
	return nil
}

// clone copies the tables as they are.
func (m *memory) clone() *memory {
	return &memory{documents: maps.Clone(m.documents), runs: maps.Clone(m.runs), pages: maps.Clone(m.pages), deletions: maps.Clone(m.deletions)}
}

var errRefused = fault.AsPermanent("row-rejected", errors.New("the row violates a constraint"))

var errAway = fault.AsUnavailable("clickhouse", errors.New("connection refused"))
