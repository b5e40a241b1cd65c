package recorder

import (
	"container/list"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"leafcutter/schemas"
)

// document is what the recorder keeps of a document: its row, with Version 0 where the table has none yet, or that it was
// deleted.
type document struct {
	row     documentRow
	deleted bool
}

// cache keeps documents and runs between batches. It may drop any of them at any time but during a batch: they are read
// again. What it keeps is true only while this process owns the partition that the records of the document come by, so
// each entry carries the assignment that it was read under, and one of another assignment is as good as absent.
type cache struct {
	documents lru[string, *document]
	runs      lru[runKey, *run]
	maxRuns   int
	maxPages  int
	owned     assignments
}

func newCache(maxRuns, maxPages int) *cache {
	return &cache{documents: newLRU[string, *document](), runs: newLRU[runKey, *run](), maxRuns: maxRuns, maxPages: maxPages}
}

// load reads what entries need and the cache lacks.
func (c *cache) load(ctx context.Context, t tables, entries []entry) error {
	documents, runs := map[string]assignment{}, map[runKey]assignment{}
	var ids []string
	var keys []runKey
	for _, e := range entries {
		if _, ok := c.documents.get(e.key.document, e.held); !ok {
			if _, asked := documents[e.key.document]; !asked {
				documents[e.key.document] = e.held
				ids = append(ids, e.key.document)
			}
		}
		if e.key.run == "" {
			continue
		}
		if _, ok := c.runs.get(e.key, e.held); !ok {
			if _, asked := runs[e.key]; !asked {
				runs[e.key] = e.held
				keys = append(keys, e.key)
			}
		}
	}
	if len(ids) > 0 {
		rows, err := t.readDocuments(ctx, ids)
		if err != nil {
			return err
		}
		unknown := make(map[string]bool, len(ids))
		for _, id := range ids {
			unknown[id] = true
		}
		for _, row := range rows {
			delete(unknown, row.DocumentID)
			c.documents.put(row.DocumentID, &document{row: row}, documents[row.DocumentID])
		}
		if len(unknown) > 0 { // new, or deleted
			gone, err := t.readDeletions(ctx, slices.Sorted(maps.Keys(unknown)))
			if err != nil {
				return err
			}
			for _, row := range gone {
				c.documents.put(row.DocumentID, &document{deleted: true}, documents[row.DocumentID])
			}
		}
	}
	found, err := readRuns(ctx, t, keys, c.maxPages, len(entries) == 1)
	if err != nil {
		return err
	}
	for key, r := range found {
		c.runs.put(key, r, runs[key])
	}
	return nil
}

// readRuns gives the runs among keys that have a row, with their pages. Where these are more than maxPages it gives
// errTooLarge, unless they are to be read at any rate.
func readRuns(ctx context.Context, t tables, keys []runKey, maxPages int, anyway bool) (map[runKey]*run, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	rows, err := t.readRuns(ctx, keys)
	if err != nil {
		return nil, err
	}
	pages := 0
	runs := make(map[runKey]*run, len(rows))
	byID := make(map[string]*run, len(rows))
	for _, row := range rows {
		r := loadedRun(row)
		runs[runKey{row.DocumentID, row.RunID}], byID[row.RunID] = r, r
		pages += int(row.PagesDone + row.PagesFailed)
	}
	if pages > maxPages && !anyway {
		return nil, errTooLarge
	}
	// Pages are asked for even where there is no row of the run: a crash may have come between the two inserts.
	seen, err := t.readPages(ctx, keys)
	if err != nil {
		return nil, err
	}
	for _, p := range seen {
		r := byID[p.RunID]
		if r == nil {
			r = newRun(p.DocumentID, p.RunID, p.SubmittedAt)
			runs[runKey{p.DocumentID, p.RunID}], byID[p.RunID] = r, r
		}
		r.see(p.Page, p.page())
	}
	for _, r := range runs {
		r.loaded()
	}
	return runs, nil
}

// document gives the document of e, which load has made sure of, or a new one.
func (c *cache) document(e *entry) *document {
	if d, ok := c.documents.get(e.key.document, e.held); ok {
		if d.row.SubmittedAt == 0 { // so far only a cancellation was heard of it, which said no time
			d.row.SubmittedAt = submittedAt(e.record)
		}
		return d
	}
	d := &document{row: documentRow{DocumentID: e.key.document, SubmittedAt: submittedAt(e.record)}}
	c.documents.put(e.key.document, d, e.held)
	return d
}

// run gives the run of e, or a new one that is to lie where its document does; nil where nobody knows where that is.
func (c *cache) run(e *entry, d *document) *run {
	if r, ok := c.runs.get(e.key, e.held); ok {
		if d.row.SubmittedAt == 0 {
			d.row.SubmittedAt = r.row.SubmittedAt
		}
		return r
	}
	if d.row.SubmittedAt == 0 {
		return nil
	}
	r := newRun(e.key.document, e.key.run, d.row.SubmittedAt)
	c.runs.put(e.key, r, e.held)
	return r
}

// submittedAt is what a record says of its document, 0 where it says nothing.
func submittedAt(r schemas.Result) int64 {
	switch r := r.(type) {
	case schemas.DocumentAccepted:
		return r.SubmittedAt.UnixMilli()
	case schemas.RunPlanned:
		return r.SubmittedAt.UnixMilli()
	case schemas.RunFailed:
		return r.SubmittedAt.UnixMilli()
	case schemas.PageDone:
		return r.SubmittedAt.UnixMilli()
	case schemas.PageFailed:
		return r.SubmittedAt.UnixMilli()
	case schemas.RunCancelled:
		return orZero(r.SubmittedAt)
	case schemas.RunResumed:
		return orZero(r.SubmittedAt)
	default:
		return 0
	}
}

// orZero is t in the tables' form, 0 where it is missing or cannot be held.
func orZero(t time.Time) int64 {
	if !schemas.StorableTime(t) {
		return 0
	}
	return t.UnixMilli()
}

// forget drops what entries have touched.
func (c *cache) forget(entries []entry) {
	for _, e := range entries {
		c.documents.drop(e.key.document)
		c.runs.drop(e.key)
	}
}

// trim drops what was not used for longest until the rest is within bounds.
func (c *cache) trim() {
	c.documents.trim(c.maxRuns, func(*document) int { return 1 })
	c.runs.trim(c.maxRuns, func(*run) int { return 1 })
	c.runs.trim(c.maxPages, func(r *run) int { return len(r.pages) })
}

// assignment is one time that this process was given one partition.
type assignment struct {
	partition int32
	times     int64
}

// assignments counts them. It has a lock of its own: a rebalance does not wait for a batch.
type assignments struct {
	mu    sync.Mutex
	times map[int32]int64
}

func (a *assignments) of(partition int32) assignment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return assignment{partition, a.times[partition]}
}

// end ends the assignments of partitions: nothing that was read under them is used by a batch that starts later. A batch
// that is being handled goes on with what it read, whose commit is void, and what it leaves in the cache carries the
// assignment that has ended.
func (a *assignments) end(partitions []int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.times == nil {
		a.times = map[int32]int64{}
	}
	for _, p := range partitions {
		a.times[p]++
	}
}

// lru is a map that knows which of its entries was used last.
type lru[K comparable, V any] struct {
	order *list.List // of *slot, the last used in front
	slots map[K]*list.Element
}

type slot[K comparable, V any] struct {
	key   K
	value V
	held  assignment
}

func newLRU[K comparable, V any]() lru[K, V] {
	return lru[K, V]{order: list.New(), slots: map[K]*list.Element{}}
}

// get gives the value of key if it was put under the same assignment, and drops one that was put under another.
func (l lru[K, V]) get(key K, held assignment) (V, bool) {
	var none V
	element, ok := l.slots[key]
	if !ok {
		return none, false
	}
	s := element.Value.(*slot[K, V])
	if s.held != held {
		l.drop(key)
		return none, false
	}
	l.order.MoveToFront(element)
	return s.value, true
}

func (l lru[K, V]) put(key K, value V, held assignment) {
	l.drop(key)
	l.slots[key] = l.order.PushFront(&slot[K, V]{key: key, value: value, held: held})
}

func (l lru[K, V]) drop(key K) {
	if element, ok := l.slots[key]; ok {
		l.order.Remove(element)
		delete(l.slots, key)
	}
}

// trim keeps the last used entries whose weights sum up to at most limit, and in any case the last used one.
func (l lru[K, V]) trim(limit int, weigh func(V) int) {
	sum := 0
	for element := l.order.Front(); element != nil; {
		next := element.Next()
		s := element.Value.(*slot[K, V])
		if sum += weigh(s.value); sum > limit && element != l.order.Front() {
			l.drop(s.key)
		}
		element = next
	}
}
