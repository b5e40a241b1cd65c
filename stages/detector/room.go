package detector

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"leafcutter/stages/detector/internal/repository"
	"leafcutter/stages/detector/internal/session"
)

// version is one state of a model: what was in the repository at one time.
type version struct {
	repository.Fetched
	weights int64 // their size in bytes
	// unprepared is why it could not be prepared when it was taken up, and tried when
	// that was: memory may have been wanting, so it counts for an hour. Guarded by
	// Models.mu.
	unprepared error
	tried      time.Time
}

func newVersion(f repository.Fetched) *version {
	v := &version{Fetched: f}
	if info, err := os.Stat(f.Weights); err == nil { // else loading it says what is wrong
		v.weights = info.Size()
	}
	return v
}

// room is the memory for loaded models. A version is loaded when somebody
// enters with it first. Where there is no room, those go that were not used for
// longest, but only when they have nothing to do or have had their turn: were
// they to go for each page that another one is wanted for, a queue in which two
// of them mix would be loading and not inferring.
type room struct {
	config Config        // resolved
	turn   time.Duration // that a loaded version keeps its place while others wait
	idle   time.Duration // without a page, after which it has nothing to do
	load   func(ctx context.Context, v *version) (*Detector, error)
	log    *slog.Logger

	open context.Context // ends with close
	shut context.CancelFunc

	mu      sync.Mutex
	guests  map[*version]*guest
	changed chan struct{} // closed and replaced when a guest has come or gone

	// loading is held while a version is loaded or unloaded: one at a time, for
	// loading takes memory that is not counted. It also maps files and unmaps them:
	// what gives back mappings (session.Forgo) holds it, lest it finds another at the
	// address that it was told.
	loading sync.Mutex
}

// guest is a version that is loaded, or on its way in or out.
type guest struct {
	version  *version
	detector *Detector // nil while it is being loaded
	err      error     // why it could not be
	users    int
	since    time.Time // when it was loaded
	used     time.Time // when its last user left, or it was loaded
	leaving  bool      // nobody enters any more
}

const (
	defaultTurn = 10 * time.Second
	defaultIdle = 300 * time.Millisecond
	lookAgain   = 50 * time.Millisecond
)

func newRoom(c Config, load func(ctx context.Context, v *version) (*Detector, error), log *slog.Logger) *room {
	r := &room{config: c, turn: defaultTurn, idle: defaultIdle, load: load, log: log, guests: map[*version]*guest{}, changed: make(chan struct{})}
	r.open, r.shut = context.WithCancel(context.Background())
	return r
}

// bytes is what a loaded model takes, by estimate: what ONNX Runtime and tensors take
// of the smallest, and two and a half times its weights. That is the model that comes
// with the project (7 MB, 100 MB resident) and Detectron2's (166 MB, 460 MB). Batches
// and several inferences at once take more.
func (r *room) bytes(v *version) int64 {
	const least = 64 << 20
	return least + v.weights*5/2 + bytesOfMore(r.config, v.Manifest, v.weights)
}

// enter waits until v is loaded and gives its detector, until leave is called. Loading
// goes on where ctx ends: it may take longer than one caller waits, and others wait too.
func (r *room) enter(ctx context.Context, v *version) (d *Detector, leave func(), err error) {
	var mine *guest // whose loading is waited for
	for {
		r.mu.Lock()
		if mine != nil && mine.err != nil {
			r.mu.Unlock()
			return nil, nil, mine.err
		}
		g := r.guests[v]
		changed := r.changed
		switch {
		case g == nil:
			going, ok := r.makeRoom(r.bytes(v))
			if ok && len(going) == 0 {
				mine = &guest{version: v}
				r.guests[v] = mine
				r.mu.Unlock()
				go r.bring(mine)
				break
			}
			var empty []*guest
			for _, other := range going { // none where it would not do
				other.leaving = true
				if other.users == 0 {
					empty = append(empty, other)
				}
			}
			r.mu.Unlock()
			for _, other := range empty {
				r.unload(other)
			}
		case g.detector != nil && !g.leaving:
			g.users++
			r.mu.Unlock()
			return g.detector, func() { r.leave(g) }, nil
		default:
			mine = g
			r.mu.Unlock()
		}
		select {
		case <-changed:
		case <-time.After(lookAgain): // a turn may be over
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// forgo is session.Forgo, beside no loading, which ends with the same.
func (r *room) forgo() {
	if r.loading.TryLock() {
		session.Forgo()
		r.loading.Unlock()
	}
}

// bring loads a guest that was let in.
func (r *room) bring(g *guest) {
	d, err := r.loadAlone(g.version)
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.signal()
	if err != nil {
		g.err = err
		delete(r.guests, g.version)
		return
	}
	now := time.Now()
	g.detector, g.since, g.used = d, now, now // who waits for it enters within idle
}

// loadAlone loads beside no other. Nobody called bring, so a panic is its own to survive.
func (r *room) loadAlone(v *version) (d *Detector, err error) {
	r.loading.Lock()
	defer r.loading.Unlock()
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("loading a model panicked", slog.String("model", v.Manifest.Name), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			err = fmt.Errorf("%w: panic: %v", ErrModelInvalid, p)
		}
	}()
	return r.load(r.open, v)
}

func (r *room) leave(g *guest) {
	r.mu.Lock()
	g.users--
	g.used = time.Now()
	last := g.users == 0 && g.leaving
	r.mu.Unlock()
	if last {
		r.unload(g)
	}
}

// unload closes a guest that is leaving and has no user. It is called once for
// each: by who took away the last user, or who told it to leave when it had none.
func (r *room) unload(g *guest) {
	r.loading.Lock()
	err := g.detector.Close()
	session.FreeMemory()
	r.loading.Unlock()
	if err != nil {
		r.log.Warn("model not unloaded cleanly", slog.String("model", g.version.Manifest.Name), slog.Any("error", err))
	}
	r.log.Info("model unloaded", slog.String("model", g.version.Manifest.Name), slog.String("digest", g.version.Digest))
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.guests, g.version)
	r.signal()
}

func (r *room) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// makeRoom says whether there is room for so many bytes once those that it names
// have gone. Where nobody else is, there is room for any size.
func (r *room) makeRoom(bytes int64) (going []*guest, ok bool) {
	taken, staying := int64(0), 0
	var may []*guest
	now := time.Now()
	for _, g := range r.guests {
		taken += r.bytes(g.version)
		staying++
		if g.leaving { // its room is not there yet, and is not to be made twice
			return nil, false
		}
		if g.detector != nil && (now.Sub(g.since) >= r.turn || g.users == 0 && now.Sub(g.used) >= r.idle) {
			may = append(may, g)
		}
	}
	slices.SortFunc(may, func(a, b *guest) int { return a.lastUse(now).Compare(b.lastUse(now)) })
	for _, g := range may {
		if staying == 0 || taken+bytes <= int64(r.config.Memory) {
			break
		}
		going = append(going, g)
		taken -= r.bytes(g.version)
		staying--
	}
	if staying > 0 && taken+bytes > int64(r.config.Memory) {
		return nil, false
	}
	return going, true
}

func (g *guest) lastUse(now time.Time) time.Time {
	if g.users > 0 {
		return now
	}
	return g.used
}

// wait says how long to put off what wants v: nothing where enter would not wait,
// but for loading.
func (r *room) wait(v *version) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch g := r.guests[v]; {
	case g != nil && g.detector != nil && !g.leaving:
		return 0
	case g != nil: // coming or going
		return lookAgain
	}
	if _, ok := r.makeRoom(r.bytes(v)); ok {
		return 0
	}
	return 2 * lookAgain
}

// tidy tells those to leave that stays does not name and that were not used for
// as long as that.
func (r *room) tidy(unused time.Duration, stays func(v *version) bool) {
	r.mu.Lock()
	var empty []*guest
	for _, g := range r.guests {
		if g.detector != nil && !g.leaving && g.users == 0 && time.Since(g.used) >= unused && !stays(g.version) {
			g.leaving = true
			empty = append(empty, g)
		}
	}
	r.mu.Unlock()
	for _, g := range empty {
		r.unload(g)
	}
}

// close unloads all. Nobody may enter any more, and who is in is waited for.
func (r *room) close() {
	r.shut()
	for {
		r.tidy(0, func(*version) bool { return false })
		r.mu.Lock()
		left, changed := len(r.guests), r.changed
		r.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-changed:
		case <-time.After(lookAgain):
		}
	}
}
