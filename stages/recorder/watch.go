package recorder

import (
	"context"
	"errors"
	"sync"
	"time"

	"leafcutter/schemas"
)

const (
	watchEvery  = 2 * time.Second  // how soon a run is said to wait for its model, or not to wait any more
	rescanEvery = time.Minute      // how soon a run is noticed that another recorder owned and forgot
	askTimeout  = 10 * time.Second // for all questions of one round
	maxIdle     = 10_000           // runs that are watched; beyond it the newest are
)

// watch knows the runs of which no page has come yet, and so may be waiting for a detector that is not there. Nothing in
// the topics says that, so the recorder asks who serves the model.
type watch struct {
	members func(ctx context.Context, group string) (int, error)

	mu   sync.Mutex
	idle map[runKey]idleRun
	due  bool // for a look at the table, because partitions have come
}

type idleRun struct {
	model   string
	waiting bool
}

func newWatch(members func(context.Context, string) (int, error)) *watch {
	return &watch{members: members, idle: map[runKey]idleRun{}, due: true}
}

// note keeps the watch on a run whose row has landed, or ends it.
func (w *watch) note(r *run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := runKey{r.row.DocumentID, r.row.RunID}
	if r.row.State != schemas.Queued && r.row.State != schemas.WaitingForModel {
		delete(w.idle, key)
		return
	}
	if _, known := w.idle[key]; known || len(w.idle) < maxIdle {
		w.idle[key] = idleRun{r.row.Model, r.row.State == schemas.WaitingForModel}
	}
}

// forget ends the watch on the runs of a document.
func (w *watch) forget(document string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range w.idle {
		if key.document == document {
			delete(w.idle, key)
		}
	}
}

// replace watches the runs in rows and no others.
func (w *watch) replace(rows []runRow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.idle)
	for _, row := range rows {
		w.idle[runKey{row.DocumentID, row.RunID}] = idleRun{row.Model, row.State == schemas.WaitingForModel}
	}
}

func (w *watch) rescan() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = true
}

func (w *watch) takeDue() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	due := w.due
	w.due = false
	return due
}

// byModel gives the watched runs by model.
func (w *watch) byModel() map[string]map[runKey]idleRun {
	w.mu.Lock()
	defer w.mu.Unlock()
	models := map[string]map[runKey]idleRun{}
	for key, i := range w.idle {
		if models[i.model] == nil {
			models[i.model] = map[runKey]idleRun{}
		}
		models[i.model][key] = i
	}
	return models
}

// WatchModels says of queued runs whether their model has a detector, every few seconds until ctx ends.
func (r *Recorder) WatchModels(ctx context.Context) {
	if r.watch.members == nil {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	scanned := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		round, cancel := context.WithTimeout(ctx, askTimeout)
		err := r.watchOnce(round, time.Since(scanned) > rescanEvery, func() { scanned = time.Now() })
		cancel()
		if err != nil && ctx.Err() == nil {
			r.log.Warn("whether queued runs have a detector could not be found out; it is tried again", "error", err)
		}
	}
}

// watchOnce is one round.
func (r *Recorder) watchOnce(ctx context.Context, overdue bool, scanned func()) error {
	if r.watch.takeDue() || overdue {
		rows, err := r.tables.readIdle(ctx, maxIdle)
		if err != nil {
			r.watch.rescan()
			return err
		}
		r.watch.replace(rows)
		scanned()
	}
	var faults []error
	for model, idle := range r.watch.byModel() {
		members, err := r.watch.members(ctx, schemas.DetectorGroup(model))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		var stale []runKey
		for key, i := range idle {
			if i.waiting != (members == 0) {
				stale = append(stale, key)
			}
		}
		if err := r.setWaiting(ctx, stale, members == 0); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// setWaiting changes the state of those of keys that still have no page. Their rows are read anew, also where memory has
// them: another recorder may own them, and then its rows are the truth. Should it write at the same moment, its row has
// the higher version, being that of a later record.
func (r *Recorder) setWaiting(ctx context.Context, keys []runKey, waiting bool) error {
	if len(keys) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	runs, err := readRuns(ctx, r.tables, keys, 0, true)
	if err != nil {
		return err
	}
	var rows []runRow
	for _, key := range keys {
		run := runs[key]
		if run == nil || r.asked(key.document) {
			r.watch.forget(key.document)
			continue
		}
		run.waiting = waiting
		run.settle()
		if row, changed := run.change(); changed && !row.State.Final() {
			rows = append(rows, row)
			run.landed = row
		}
		// Whatever memory has of the run, its row is another now.
		r.cache.runs.drop(key)
		r.watch.note(run)
	}
	if err := r.tables.insert(ctx, nil, nil, rows); err != nil {
		r.watch.rescan()
		return err
	}
	written := make([]string, len(rows))
	for i, row := range rows {
		written[i] = row.DocumentID
	}
	return r.recheck(ctx, written)
}
