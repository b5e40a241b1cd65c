package detector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"leafcutter/pkg/objectstore"
	"leafcutter/schemas"
	"leafcutter/stages/detector/internal/manifest"
	"leafcutter/stages/detector/internal/repository"
	"leafcutter/stages/detector/internal/session"
)

// Models are those that one process serves: each with its topic and consumer
// group, all within one memory budget. Follow takes them up and notices when the
// repository has another version of one. Pages name the version that their run
// was planned for, and are done by that: one that was served before is kept in
// the cache (archive), and loaded again for them (room).
type Models struct {
	config     Config // resolved
	repository *repository.Repository
	archive    archive
	shared     *repository.Versions // nil where there is no store for them
	denied     sync.Once            // when that refuses first
	room       *room
	options    []Option
	runs       chan struct{} // shared by all
	held       *held
	files      sync.Pool // *bytes.Buffer
	log        *slog.Logger
	keeping    sync.Mutex // one at a time writes into the archive
	uploading  sync.Mutex // and one at a time to the store that all have
	copying    sync.WaitGroup
	tending    time.Duration // how often it is looked whether something is to be kept there
	sharing    time.Duration // how long an announcement waits for that at most
	started    sync.Once     // when the first page comes

	mu      sync.Mutex
	library *session.Runtime // keeps ONNX Runtime loaded while no model is; nil until one was
	reading error            // why the repository cannot be read
	served  map[string]*served
	copies  map[string]*copied // in the store that all have, by model/digest; of those that were of use here
}

// served is what is known of one model. Its fields are guarded by Models.mu.
type served struct {
	why      error              // why no version of it is served; nil for one that is
	current  *version           // that runs are to be planned for; nil where none is served yet
	said     *manifest.Manifest // as it was last told
	seen     string             // what the repository's listing had when it was taken up
	tried    string             // what it had when it could not be loaded
	again    time.Time          // when that is to be tried again
	pause    time.Duration      // between the last try and the next
	versions map[string]*version
	unknown  map[string]asking  // digests that were looked for in vain
	sought   map[string]bool    // digests that could not be looked for lately
	asking   chan struct{}      // of one: sending is the right to look for a digest
	broken   map[*version]error // versions that could not be loaded lately
}

// OpenModels makes what a process serves. Nothing is loaded yet: an error is one
// of the configuration. s3 is how a repository in S3 is reached.
func OpenModels(ctx context.Context, c Config, s3 objectstore.Config, log *slog.Logger, options ...Option) (*Models, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	r, err := repository.Open(ctx, c.ModelsDir, s3, c.CacheDir)
	if err != nil {
		return nil, err
	}
	m := &Models{
		config: c, repository: r, archive: newArchive(c.CacheDir), options: options, log: log,
		runs: make(chan struct{}, c.Runs), held: newHeld(int64(c.MaxBytes)), served: map[string]*served{}, copies: map[string]*copied{},
		tending: time.Minute, sharing: 2 * time.Minute,
	}
	m.room = newRoom(c, m.load, log)
	for _, name := range c.names() {
		m.serve(name)
	}
	return m, nil
}

// serve notes that a model is to be served.
func (m *Models) serve(name string) *served {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.served[name]
	if s == nil {
		s = &served{why: errors.New("loading"), versions: map[string]*version{}, unknown: map[string]asking{}, sought: map[string]bool{}, asking: make(chan struct{}, 1), broken: map[*version]error{}}
		m.served[name] = s
	}
	return s
}

// Names are the models that are to be served, sorted.
func (m *Models) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.served))
}

// Alone says that one model is served, and was named.
func (m *Models) Alone() bool { return len(m.config.names()) == 1 }

// Ready is nil while every model is served, and else names those that are not,
// and says why.
func (m *Models) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var faults []error
	if len(m.served) == 0 {
		faults = append(faults, fmt.Errorf("no model in %s", m.repository.Location()))
		if m.reading != nil {
			faults = []error{m.reading}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.served)) {
		if why := m.served[name].why; why != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, why))
		}
	}
	return errors.Join(faults...)
}

// Close waits for the pages in work and unloads all.
func (m *Models) Close() error {
	m.copying.Wait() // Follow's context has ended
	m.room.close()
	m.repository.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.library == nil {
		return nil
	}
	return m.library.Close()
}

// load is the room's.
func (m *Models) load(ctx context.Context, v *version) (*Detector, error) {
	m.mu.Lock()
	unprepared := v.unprepared
	if time.Since(v.tried) > longestRetrying {
		unprepared = nil
	}
	m.mu.Unlock()
	options := append(slices.Clone(m.options), func(l *loader) { l.unprepared = unprepared })
	d, err := load(ctx, m.config, v.Fetched, m.runs, m.log, options)
	if err != nil {
		return nil, err
	}
	m.used(v.Fetched)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.library == nil {
		if m.library, err = session.Load(m.config.Library); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

const (
	// retrying is the pause while a model that is to be served is not: models
	// come by volumes and copies that may be late.
	retrying = 5 * time.Second
	// retryingBroken is the pause after what ONNX Runtime does not accept, and
	// longestRetrying what pauses grow to.
	retryingBroken  = 10 * time.Minute
	longestRetrying = time.Hour
	// unused is how long a version stays loaded that no run is planned for any
	// more.
	unused = time.Minute
)

// Follow takes up the models and then looks, every Config.Refresh, what has
// changed in the repository, until ctx ends. tell is called for each model that
// is served from now on, and for each whose manifest or weights are others from
// now on.
func (m *Models) Follow(ctx context.Context, tell func(schemas.ModelAnnounced)) {
	m.look(ctx, tell)
	var tended sync.WaitGroup
	defer tended.Wait()
	tended.Go(func() { m.tend(ctx) })
	for {
		pause := cmp.Or(m.config.Refresh, unused)
		if m.Ready() != nil {
			pause = min(pause, retrying)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if m.config.Refresh > 0 || m.Ready() != nil {
			m.look(ctx, tell)
		}
		m.room.tidy(unused, m.isCurrent)
	}
}

// look takes up what has changed since the last look.
func (m *Models) look(ctx context.Context, tell func(schemas.ModelAnnounced)) {
	changes, err := m.repository.Changes(ctx)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	told := news(m.reading, err)
	m.reading = err
	if err != nil {
		for _, s := range m.served {
			if s.current == nil {
				s.why = err
			}
		}
	}
	m.mu.Unlock()
	if told {
		m.log.Error("models cannot be read, looking again soon", slog.Any("error", err))
	}
	if err != nil {
		return
	}
	if m.config.all() {
		m.forget(changes)
		for name := range changes {
			if schemas.IsModelName(name) {
				m.serve(name)
			}
		}
	}
	for _, name := range m.Names() {
		if ctx.Err() != nil {
			return
		}
		m.lookAt(ctx, name, changes[name], tell)
	}
	m.room.forgo() // what is done seldom, such as this, need not stay mapped
}

// forget removes models that were found, never served, and are there no more.
func (m *Models) forget(there map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.served, func(name string, s *served) bool {
		_, still := there[name]
		return !still && s.current == nil
	})
}

// lookAt takes up one model, if it is another than it was.
func (m *Models) lookAt(ctx context.Context, name, now string, tell func(schemas.ModelAnnounced)) {
	s := m.serve(name)
	m.mu.Lock()
	changed, first := s.seen != now, s.current == nil
	early := s.tried == now && time.Now().Before(s.again)
	m.mu.Unlock()
	if !changed && !first || early {
		return
	}
	if now == "" && !first {
		m.log.Warn("a model that is served is no longer in the repository; it is served on", slog.String("model", name))
		m.noted(s, now)
		return
	}
	a, err := m.takeUp(ctx, s, name)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		m.noted(s, now)
		if a != nil {
			tell(*a)
		}
	case first:
		m.mu.Lock()
		told := news(s.why, err)
		s.why = err
		m.mu.Unlock()
		if told {
			m.log.Error("model not loaded, looking again soon", slog.String("model", name), slog.Any("error", err))
		}
		if errors.Is(err, errNotLoaded) && aboutModel(err) {
			if a := m.fallBack(ctx, s, name); a != nil {
				tell(*a)
			}
		}
	default:
		m.log.Error("a model has changed and cannot be taken up; the one before is served on", slog.String("model", name), slog.Any("error", err))
	}
	if errors.Is(err, errNotLoaded) && ctx.Err() == nil {
		m.putOff(s, now, err)
	}
}

// fallBack serves what was served before the version that lies in the repository
// and does not work: a process that begins after a bad change does what those do
// that had the version before. What is returned is to be told; nil where there is
// none that works.
func (m *Models) fallBack(ctx context.Context, s *served, name string) *schemas.ModelAnnounced {
	_, broken, err := m.repository.Manifest(ctx, name)
	if err != nil {
		return nil
	}
	for i, f := range m.lately(ctx, name, broken) {
		if i > fallBacks { // the broken one is among them
			break
		}
		if f.Digest == broken {
			continue
		}
		v := newVersion(f)
		_, leave, err := m.room.enter(ctx, v)
		if err != nil {
			m.forgo(v, err)
			continue
		}
		leave()
		m.mu.Lock()
		s.why, s.current, s.said, s.versions[f.Digest] = nil, v, &f.Manifest, v
		m.mu.Unlock()
		m.log.Warn("the version before is served", slog.String("model", name), slog.String("digest", f.Digest))
		a := announcement(f.Manifest, f.Digest, time.Now())
		return &a
	}
	return nil
}

// fallBacks is how many versions are tried for one that works.
const fallBacks = 3

func (m *Models) noted(s *served, seen string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.seen, s.tried, s.pause = seen, "", 0
}

// putOff has what could not be loaded left alone for longer each time: a try
// hashes, copies and prepares it, and sends those away that are served. What may
// be the model's own fault is as good as known to be one, but where memory was
// wanting it looks the same, and then nobody is to have to touch the manifest.
func (m *Models) putOff(s *served, seen string, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.tried != seen {
		s.pause = 0
	}
	least := retrying
	if aboutModel(why) {
		least = retryingBroken
	}
	s.tried, s.pause = seen, min(max(2*s.pause, least), longestRetrying)
	s.again = time.Now().Add(s.pause)
}

// errNotLoaded is a version that was had, but could not be loaded.
var errNotLoaded = errors.New("not loaded")

// takeUp serves what the repository has now of a model: its runs are planned for
// it from then on. The version before answers until this one has been loaded and
// tried; what was planned for it is still done by it. What is returned is to be
// told; nil where nothing changed.
func (m *Models) takeUp(ctx context.Context, s *served, name string) (*schemas.ModelAnnounced, error) {
	f, err := m.repository.Fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	before, said := s.current, s.said
	known := s.versions[f.Digest]
	m.mu.Unlock()
	if said != nil && reflect.DeepEqual(*said, f.Manifest) {
		return nil, nil
	}
	kept, err := m.keep(f)
	if err != nil && known != nil {
		kept.Weights = known.Weights
	}
	v := newVersion(kept)
	if known != nil && known.Manifest.Provider == kept.Manifest.Provider && known.Manifest.Batching == kept.Manifest.Batching && known.Weights == kept.Weights {
		v = known // it computes the same in the same way, and may be loaded: only labels or thresholds are new
	}
	if v != before {
		// While it is prepared, which may take minutes, the others stay loaded.
		ahead := &loader{config: m.config, manifest: v.Manifest, weights: v.Weights, log: m.log}
		for _, option := range m.options {
			option(ahead)
		}
		unprepared := ahead.ahead(ctx)
		m.mu.Lock()
		v.unprepared, v.tried = unprepared, time.Now()
		m.mu.Unlock()
		_, leave, err := m.room.enter(ctx, v)
		if err != nil {
			m.forgo(v, err)
			return nil, fmt.Errorf("%w: %w", errNotLoaded, err)
		}
		leave()
	}
	m.share(ctx, kept) // before runs can be planned for it
	m.mu.Lock()
	s.why, s.current, s.said = nil, v, &f.Manifest
	s.versions[f.Digest] = v
	clear(s.unknown)
	m.mu.Unlock()
	if before != nil {
		m.used(before.Fetched)
		m.log.Info("model changed", slog.String("model", name), slog.String("digest", f.Digest), slog.String("before", before.Digest))
	}
	if !m.Alone() && v != before {
		// It is known to work. It is loaded again when its first page comes.
		m.room.tidy(0, func(other *version) bool { return other != v })
	}
	a := announcement(f.Manifest, f.Digest, time.Now())
	return &a, nil
}

// keep has a version archived and gives it as it lies there. With an error, which
// is logged, it is as it was fetched: a file that the next version may replace.
func (m *Models) keep(f repository.Fetched) (repository.Fetched, error) {
	m.keeping.Lock()
	defer m.keeping.Unlock()
	kept, err := m.archive.keep(f)
	if err != nil {
		m.log.Warn("version of the model not kept: should it change, pages queued for it fail", slog.String("model", f.Manifest.Name), slog.Any("error", err))
		return f, err
	}
	return kept, nil
}

func (m *Models) isCurrent(v *version) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.served[v.Manifest.Name]
	return s != nil && s.current == v
}

// aboutModel says whether an error is the model's own, and not of the disk, the
// memory or the library.
func aboutModel(err error) bool {
	return errors.Is(err, ErrModelInvalid) || errors.Is(err, ErrModelDigest) || errors.Is(err, ErrModelAbsent)
}
