// Package objects is the S3 of a laptop: versitygw in front of a folder, for `leafcutter service objects` and
// for tests. Clients reach it path-style, with the one access key that the caller chooses.
//
// It belongs in a process of its own: the gateway is one per process, writes to standard output, and New
// changes the process's working directory to the folder it serves.
package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/debuglogger"
	"github.com/versity/versitygw/embedgw"

	"leafcutter/deploy/local/internal/datadir"
)

// HealthPath answers 200 without credentials once the gateway serves.
const HealthPath = "/livez"

// Region is the one that clients sign for.
const Region = "us-east-1"

// Config says where to listen, what to keep and who may come in.
type Config struct {
	Addr      string // host:port, on loopback; port 0 takes any
	Dir       string // data directory, created where it is missing
	AccessKey string // required, as is SecretKey: nothing is readable without them
	SecretKey string
	Bucket    string // made where it is missing; "leafcutter"
	Logger    *slog.Logger
}

func (c *Config) complete() error {
	var faults []error
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		faults = append(faults, err)
	} else if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		faults = append(faults, fmt.Errorf("%s is no loopback address: this server is for one machine", host))
	}
	if c.Dir == "" {
		faults = append(faults, errors.New("no data directory given"))
	}
	if c.AccessKey == "" || c.SecretKey == "" {
		faults = append(faults, errors.New("no access key and secret key given"))
	}
	if c.Bucket == "" {
		c.Bucket = "leafcutter"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(faults...)
}

// Server is the gateway and the folder behind it.
type Server struct {
	cfg     Config
	backend *posix.Posix
	addr    string
	held    net.Listener // keeps the port until the gateway takes it
	lock    *datadir.Lock
	ready   chan struct{}
}

// New prepares the folder and reserves the port.
//
// What S3 keeps beside an object's bytes (type, ETag, user metadata) goes into files of its own (attributes),
// not into extended attributes: those are missing on some file systems of containers, and are lost by a plain
// copy of the data directory.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configuring the object store: %w", err)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the object store: %w", err)
	}
	lock, err := datadir.Take(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, lock: lock, ready: make(chan struct{})}
	if err := s.open(dir); err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	return s, nil
}

func (s *Server) open(dir string) error {
	files, beside := filepath.Join(dir, "objects"), &attributes{dir: filepath.Join(dir, "attributes")}
	for _, d := range []string{files, beside.dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("opening the object store: %w", err)
		}
	}
	if err := removeHalfMadeBucket(filepath.Join(files, s.cfg.Bucket), beside.path(s.cfg.Bucket, "")); err != nil {
		return fmt.Errorf("opening the object store: %w", err)
	}
	listener, err := net.Listen("tcp", s.cfg.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("the object store cannot have %s, another program listens there: stop it, or let `leafcutter up --any-port` choose: %w", s.cfg.Addr, err)
	}
	if err != nil {
		return fmt.Errorf("listening for S3 clients: %w", err)
	}
	s.backend, err = posix.New(files, beside, posix.PosixOpts{
		Concurrency: 64, IOBufferSize: 256 << 10,
		ForceNoObjLockFile: true, // no other gateway writes here: the folder is locked
		DataIntegrityEtag:  true, // an ETag of the checksum that is reckoned in any case: MD5 would be a third of a large put
	})
	if err != nil {
		return errors.Join(fmt.Errorf("opening the object store: %w", err), listener.Close())
	}
	s.held, s.addr = listener, listener.Addr().String()
	return nil
}

// removeHalfMadeBucket clears what a kill in the middle of the first start leaves: a folder without the
// attributes that make it a bucket, which the gateway can neither use nor make again.
func removeHalfMadeBucket(folder, attributes string) error {
	if _, err := os.Stat(attributes); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(folder); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("a bucket without its attributes: %w", err)
	}
	return nil
}

// Addr is where clients connect, host:port.
func (s *Server) Addr() string { return s.addr }

// Ready is closed once the gateway answers.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	err := s.serve(ctx)
	return errors.Join(err, s.lock.Release())
}

func (s *Server) serve(ctx context.Context) error {
	if err := s.held.Close(); err != nil {
		return fmt.Errorf("serving objects: %w", err)
	}
	served := make(chan error, 1)
	gateway, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go func() {
		served <- embedgw.RunVersityGW(gateway, s.backend, &embedgw.Config{
			RootUserAccess: s.cfg.AccessKey, RootUserSecret: s.cfg.SecretKey, Region: Region,
			Ports: []string{s.addr}, MaxConnections: 512, MaxRequests: 256, MultipartMaxParts: 10_000,
			KeepAlive: true, Quiet: true, DisableACLs: true, HealthPath: HealthPath, LogLevel: debuglogger.LevelSilent,
		})
	}()
	err := s.awaitHealth(ctx, served)
	if err == nil && ctx.Err() == nil {
		err = s.makeBucket(ctx)
	}
	if ctx.Err() != nil {
		err = nil // an ordered stop before the start was over
	}
	if err == nil {
		close(s.ready)
		s.cfg.Logger.InfoContext(ctx, "object store is ready", slog.String("address", s.addr), slog.String("bucket", s.cfg.Bucket))
		select {
		case err = <-served:
			return fmt.Errorf("serving objects on %s: %w", s.addr, errOr(err, errors.New("the gateway stopped")))
		case <-ctx.Done():
		}
	}
	stop()
	return errors.Join(err, <-served)
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// awaitHealth waits for the gateway's first answer; it fails at once where the gateway has given up.
func (s *Server) awaitHealth(ctx context.Context, served chan error) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+HealthPath, nil)
		if err != nil {
			return fmt.Errorf("asking the object store for its health: %w", err)
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-served:
			served <- nil // for the caller that waits for the end
			return fmt.Errorf("serving objects on %s: %w", s.addr, errOr(err, errors.New("the gateway stopped")))
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// makeBucket asks the gateway itself, so that the bucket has what the gateway keeps of one.
func (s *Server) makeBucket(ctx context.Context) error {
	transport := &http.Transport{DisableKeepAlives: true}
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + s.addr), UsePathStyle: true, Region: Region, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.cfg.AccessKey, SecretAccessKey: s.cfg.SecretKey}, nil
		}),
		HTTPClient: &http.Client{Transport: transport, Timeout: 10 * time.Second},
	})
	_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &s.cfg.Bucket})
	var owned *types.BucketAlreadyOwnedByYou
	var exists *types.BucketAlreadyExists // made under another access key
	if err != nil && !errors.As(err, &owned) && !errors.As(err, &exists) {
		return fmt.Errorf("making bucket %s: %w", s.cfg.Bucket, err)
	}
	return nil
}
