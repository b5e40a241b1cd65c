// Package broker is the Kafka of a laptop: franz-go's kfake with its data on disk, for
// `leafcutter service broker` and for tests. Clients see one broker that keeps topics, records, committed
// offsets and producers' sequences across restarts.
//
// It is a fake by its own words: one broker, no replication, and a failed fsync shows in its log only. A kill
// loses nothing acknowledged, but forgets producers' sequences: a record whose acknowledgement the kill cut off
// may be there twice. Production runs Kafka or Redpanda.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"leafcutter/deploy/local/internal/datadir"
)

// Config says where to listen and what to keep.
type Config struct {
	Addr   string // host:port, on 127.0.0.1; port 0 takes any
	Dir    string // data directory, created where it is missing
	Logger *slog.Logger

	Partitions      int           // of a topic that is created without saying how many; 10
	MaxRecord       int64         // bytes of a batch, and so of its largest record; 16 MiB
	AutoCreate      bool          // topics come into being when a client asks for them
	MinGroupSession time.Duration // the shortest session timeout that a group member may ask for; 6 s
}

func (c *Config) complete() (port int, err error) {
	var faults []error
	if c.Dir == "" {
		faults = append(faults, errors.New("no data directory given"))
	}
	host, portText, err := net.SplitHostPort(c.Addr)
	if err != nil {
		faults = append(faults, err)
	} else if host != "127.0.0.1" {
		faults = append(faults, fmt.Errorf("%s is not 127.0.0.1: this broker is for one machine", host))
	} else if port, err = strconv.Atoi(portText); err != nil {
		faults = append(faults, fmt.Errorf("port %q is no number", portText))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Partitions <= 0 {
		c.Partitions = 10
	}
	if c.MaxRecord <= 0 {
		c.MaxRecord = 16 << 20
	}
	if c.MinGroupSession <= 0 {
		c.MinGroupSession = 6 * time.Second
	}
	return port, errors.Join(faults...)
}

// Server is a broker that accepts connections from New on.
type Server struct {
	cfg     Config
	cluster *kfake.Cluster
	members *silentMembers
	lock    *datadir.Lock
	addr    string
}

// New locks the data directory, loads what it holds and starts to listen.
//
// It fails where another broker has the directory or another program the port.
func New(cfg Config) (*Server, error) {
	port, err := cfg.complete()
	if err != nil {
		return nil, fmt.Errorf("configuring the broker: %w", err)
	}
	lock, err := datadir.Take(cfg.Dir)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("the broker cannot have %s, another program listens there: stop it, or let `leafcutter up --any-port` choose: %w", cfg.Addr, err)
		} else {
			err = fmt.Errorf("listening for Kafka clients: %w", err)
		}
		return nil, errors.Join(err, lock.Release())
	}
	options := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("leafcutter"),
		kfake.Ports(port),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }),
		kfake.DataDir(cfg.Dir),
		kfake.SyncWrites(), // an acknowledged record survives the machine, not only the process
		kfake.DefaultNumPartitions(cfg.Partitions),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.FormatInt(cfg.MaxRecord, 10)}),
		kfake.GroupMinSessionTimeout(cfg.MinGroupSession),
		kfake.WithLogger(logger{cfg.Logger}),
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the broker on %s: %w", cfg.Dir, err), listener.Close(), lock.Release())
	}
	if cfg.AutoCreate {
		autoCreate(cluster, int32(cfg.Partitions), cfg.Logger)
	}
	members := watchMembers(cluster, cfg.Logger)
	return &Server{cfg: cfg, cluster: cluster, members: members, lock: lock, addr: listener.Addr().String()}, nil
}

// Addr is where clients connect, host:port.
func (s *Server) Addr() string { return s.addr }

// Run serves until ctx ends, then writes its state and releases the directory. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	s.cfg.Logger.InfoContext(ctx, "broker is ready", slog.String("address", s.addr), slog.String("dir", s.cfg.Dir))
	err := s.members.run(ctx, s.addr)
	s.cluster.Close()
	return errors.Join(err, s.lock.Release())
}

// logger passes on what kfake says at the levels that a user should see.
type logger struct{ to *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	text := slog.String("text", strings.TrimSpace(fmt.Sprintf(format, args...)))
	switch level {
	case kfake.LogLevelError:
		l.to.Error("broker reports an error", text)
	case kfake.LogLevelWarn:
		l.to.Warn("broker warns", text)
	case kfake.LogLevelInfo, kfake.LogLevelDebug, kfake.LogLevelNone:
		l.to.Debug("broker says", text)
	}
}
