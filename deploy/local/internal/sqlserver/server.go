// Package sqlserver is ClickHouse's HTTP interface in front of the ClickHouse that runs inside this process
// (package chdb), for `leafcutter service sql` and for tests. clickhouse-go, curl, Python clients and Grafana
// talk to it as to a server: the same parameters, headers, formats, status codes and error texts.
//
// Two identities exist. Without a password everyone reads: SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS, within
// bounds of time, memory and rows, and nothing outside the database (no files, no network). The user of the
// stages, whose password the caller chooses, reads and writes.
//
// What it leaves out: sessions (session_id is accepted and ignored), external tables, roles, quotas, and
// client_protocol_version beyond the handshake of clickhouse-go.
package sqlserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"leafcutter/deploy/local/internal/chdb"
)

// Config says what to serve, where and to whom. Zero bounds take the defaults named beside them.
type Config struct {
	Addr     string // host:port, on loopback; port 0 takes any
	Library  string // libchdb.so
	Dir      string // data directory
	User     string // who may write; "leafcutter" by default
	Password string // of User; required
	Logger   *slog.Logger

	MaxBody       int64         // bytes of a request's body after decompression; 256 MiB
	MaxStatements int           // that run at the same time, of readers and of the writer each; 8
	MaxMemory     int64         // bytes the engine may allocate; 1 GiB
	ReadTime      time.Duration // a reader's statement; 60 s
	ReadRows      int64         // of a reader's answer; 1,000,000
	ReadMemory    int64         // bytes of a reader's statement; 512 MiB
	Grace         time.Duration // for statements in flight when the server stops, before they are killed; 5 s
}

func (c *Config) complete() error {
	var faults []error
	if c.Library == "" {
		faults = append(faults, errors.New("no library given"))
	}
	if c.Dir == "" {
		faults = append(faults, errors.New("no data directory given"))
	}
	if c.Password == "" {
		faults = append(faults, errors.New("no password given for the user that writes"))
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		faults = append(faults, err)
	} else if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		faults = append(faults, fmt.Errorf("%s is no loopback address: this server is for one machine", host))
	}
	if c.User == "" {
		c.User = "leafcutter"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	orDefault(&c.MaxBody, 256<<20)
	orDefault(&c.MaxStatements, 8)
	orDefault(&c.MaxMemory, 1<<30)
	orDefault(&c.ReadTime, time.Minute)
	orDefault(&c.ReadRows, 1_000_000)
	orDefault(&c.ReadMemory, 512<<20)
	orDefault(&c.Grace, 5*time.Second)
	return errors.Join(faults...)
}

func orDefault[T int | int64 | time.Duration](value *T, standard T) {
	if *value <= 0 {
		*value = standard
	}
}

// Server owns the engine and the listener from New to the end of Run.
type Server struct {
	cfg      Config
	engine   *chdb.Engine
	sessions *sessions
	listener net.Listener
	identity serverIdentity
	running  sync.WaitGroup

	// One slot per statement that runs. Readers have their own, so that however slow they are the writer's
	// inserts find one free.
	readers, writers chan struct{}
}

// New opens the data directory and the port. The port answers once Run is called.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configuring the SQL server: %w", err)
	}
	listener, err := listen(cfg.Addr)
	if err != nil {
		return nil, err
	}
	server, err := open(cfg, listener)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return server, nil
}

func listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("the SQL server cannot have %s, another program listens there: stop it, or let `leafcutter up --any-port` choose: %w", addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listening for SQL: %w", err)
	}
	return listener, nil
}

func open(cfg Config, listener net.Listener) (*Server, error) {
	configFile, err := writeEngineConfig(cfg)
	if err != nil {
		return nil, err
	}
	engine, err := chdb.Open(chdb.Config{Library: cfg.Library, Dir: filepath.Join(cfg.Dir, "data"), ConfigFile: configFile})
	if err != nil {
		return nil, fmt.Errorf("starting the SQL server: %w", err)
	}
	if err := os.RemoveAll(spoolDir(cfg)); err != nil {
		return nil, errors.Join(fmt.Errorf("clearing what an earlier run left: %w", err), engine.Close())
	}
	if err := os.MkdirAll(spoolDir(cfg), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the SQL server: %w", err), engine.Close())
	}
	s := &Server{cfg: cfg, engine: engine, listener: listener,
		sessions: &sessions{engine: engine, max: 2 * cfg.MaxStatements},
		readers:  make(chan struct{}, cfg.MaxStatements), writers: make(chan struct{}, cfg.MaxStatements)}
	if s.identity, err = s.identify(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the SQL server: %w", err), engine.Close())
	}
	return s, nil
}

// Addr is where the server listens, host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends, then lets statements in flight finish (for Grace, after which they are
// killed) and closes the engine. It returns nil after such a stop. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.listener) }()
	s.cfg.Logger.InfoContext(ctx, "sql server is ready", slog.String("address", s.Addr()), slog.String("version", s.identity.version))
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
		defer cancel()
		if err = srv.Shutdown(grace); errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close() // ends the requests' contexts, which kills their statements
		}
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
	}
	s.running.Wait()
	return errors.Join(err, s.sessions.close(), s.engine.Close())
}

// serverIdentity is what the engine says of itself; constant while it runs.
type serverIdentity struct{ displayName, version, timezone string }

func (s *Server) identify() (serverIdentity, error) {
	conn, err := s.engine.Connect()
	if err != nil {
		return serverIdentity{}, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Exec("CREATE DATABASE IF NOT EXISTS leafcutter"); err != nil {
		return serverIdentity{}, err
	}
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	id := serverIdentity{displayName: name}
	for expression, field := range map[string]*string{"version()": &id.version, "timezone()": &id.timezone} {
		value, _, err := conn.Query([]byte("SELECT "+expression), "TSVRaw")
		if err != nil {
			return serverIdentity{}, err
		}
		*field = string(trimNewline(value))
	}
	return id, nil
}
