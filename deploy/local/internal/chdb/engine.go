package chdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"
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
	lock   *os.File
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
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening chDB: %w", err)
	}
	process.Lock()
	defer process.Unlock()
	if process.open != "" {
		return nil, fmt.Errorf("opening %s: this process already has %s open, and chDB is one per process", dir, process.open)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	e := &Engine{lock: lock, args: []string{"leafcutter", "--path=" + dir}}
	if cfg.ConfigFile != "" {
		e.args = append(e.args, "--config-file="+cfg.ConfigFile)
	}
	if err := e.start(cfg.Library); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", dir, err), lock.Close())
	}
	process.open = dir
	return e, nil
}

func (e *Engine) start(file string) error {
	var loadErr error
	err := keepingSignals(func() {
		e.lib, loadErr = load(file)
		if loadErr == nil {
			e.lib.setSignalHandlers(0)
		}
	})
	if err := errors.Join(loadErr, err); err != nil {
		return err
	}
	e.anchor, err = e.Connect()
	return err
}

// lockDir takes the directory for this process. libchdb has a lock of its own, but its refusal carries no
// reason; this one names the process that holds the directory.
func lockDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "leafcutter.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := file.ReadAt(holder, 0)
		_ = file.Close()
		return nil, fmt.Errorf("%s is in use by process %s: stop it, or choose another data directory (%w)", dir, strings.TrimSpace(string(holder[:n])), err)
	}
	if err := file.Truncate(0); err == nil {
		_, err = file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), file.Close())
		}
	}
	return file, nil
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
	err := keepingSignals(func() {
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
	err := keepingSignals(func() { closeErr = e.anchor.Close() })
	e.anchor = nil
	process.open = ""
	return errors.Join(err, closeErr, e.lock.Close())
}
