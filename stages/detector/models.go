package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	announced  func(ctx context.Context, model string) (schemas.ModelAnnounced, error)
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

// served is what is known of one model. Its fields are guarded by Models.mu, but for
// fallAgain and unfallen, which are of Follow alone.
type served struct {
	why       error              // why no version of it is served; nil for one that is
	current   *version           // that runs are to be planned for; nil where none is served yet
	said      *manifest.Manifest // as it was last told
	seen      string             // what the repository's listing had when it was taken up
	failure   error              // why what it has now is not served; nil where it is
	tried     string             // what it had when that did not work
	again     time.Time          // when that is to be tried again
	pause     time.Duration      // between the last try and the next
	fallen    bool               // current is the version before what the repository has
	fallAgain time.Time          // when that is to be looked for again
	unfallen  error              // why it was not found
	versions  map[string]*version
	unknown   map[string]asking  // digests that were looked for in vain
	sought    map[string]bool    // digests that could not be looked for lately
	asking    chan struct{}      // of one: sending is the right to look for a digest
	broken    map[*version]error // versions that could not be loaded lately
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

// Heed has a process that begins with what does not work serve the version that was
// announced last. announced gives that announcement, or none where the model never was.
// It is to be called before Follow.
func (m *Models) Heed(announced func(ctx context.Context, model string) (schemas.ModelAnnounced, error)) {
	m.announced = announced
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
