package chdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"leafcutter/deploy/local/internal/datadir"
)

// Config says which library to load and which data to open.
type Config struct {
	Library    string // path of libchdb.so
	Dir        string // data directory, created where it is missing
	ConfigFile string // ClickHouse server configuration (XML), optional
}

// Engine is the opened data directory. Close it after every connection.
type Engine struct {
	lib    *library
	args   []string
	lock   *datadir.Lock
	anchor *Conn // keeps the engine running while no other connection is open

	mu    sync.Mutex
	conns int
}

// Open loads the library and opens the data directory, which takes 0.1 to 0.5 s.
//
// It fails where another process, or this one, has the directory open.
func Open(cfg Config) (*Engine, error) {
	if cfg.Library == "" {
		return nil, errors.New("opening chDB: no library given")
	}
	if _, err := os.Stat(cfg.Library); err != nil {
		return nil, fmt.Errorf("opening chDB: %w; run `make deps`, or name the library with LEAFCUTTER_CHDB_LIB", err)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening chDB: %w", err)
	}
	process.Lock()
	defer process.Unlock()
	if process.open != "" {
		return nil, fmt.Errorf("opening %s: this process already has %s open, and chDB is one per process", dir, process.open)
	}
	lock, err := datadir.Take(dir) // libchdb has a lock too, but its refusal carries no reason
	if err != nil {
		return nil, err
	}
	e := &Engine{lock: lock, args: []string{"leafcutter", "--path=" + dir}}
	if cfg.ConfigFile != "" {
		e.args = append(e.args, "--config-file="+cfg.ConfigFile)
	}
	if err := e.start(cfg.Library); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", dir, err), lock.Release())
	}
	process.open = dir
	return e, nil
}

func (e *Engine) start(file string) error {
	var err error
	if e.lib, err = load(file); err != nil {
		return err
	}
	e.anchor, err = e.Connect()
	return err
}

// Connect opens a connection with a session of its own.
func (e *Engine) Connect() (*Conn, error) {
	argv := make([]*byte, len(e.args)+1)
	var pinner runtime.Pinner
	defer pinner.Unpin()
	for i, arg := range e.args {
		text := append([]byte(arg), 0)
		argv[i] = &text[0]
		pinner.Pin(argv[i])
	}
	var handle uintptr
	err := e.lib.signals.kept(func() {
		handle = e.lib.connect(int32(len(e.args)), unsafe.Pointer(&argv[0]))
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to chDB: %w", err)
	}
	if handle == 0 {
		return nil, errors.New("connecting to chDB: refused (its reason, where it gives one, is on standard error)")
	}
	e.mu.Lock()
	e.conns++
	e.mu.Unlock()
	return &Conn{engine: e, handle: handle}, nil
}

// Close shuts the engine down and releases the directory. Every connection must have been closed.
func (e *Engine) Close() error {
	process.Lock()
	defer process.Unlock()
	if e.anchor == nil {
		return nil
	}
	e.mu.Lock()
	open := e.conns - 1
	e.mu.Unlock()
	if open > 0 {
		return fmt.Errorf("closing chDB: %d connections are still open", open)
	}
	var closeErr error
	err := e.lib.signals.kept(func() { closeErr = e.anchor.Close() })
	e.anchor = nil
	process.open = ""
	return errors.Join(err, closeErr, e.lock.Release())
}
