// Command server is one embedded server by itself, for package localtest: `server sql -addr … -dir …`. It says
// "ready host:port" on standard output and stops when standard input ends or SIGTERM comes.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"leafcutter/deploy/local/internal/broker"
	"leafcutter/deploy/local/internal/objects"
	"leafcutter/deploy/local/internal/sqlserver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// server is what the three have in common.
type server interface {
	Addr() string
	Run(ctx context.Context) error
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: server broker|objects|sql [flags]")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:0", "host:port to listen on")
	dir := flags.String("dir", "", "data directory")
	user := flags.String("user", "", "user or access key")
	password := flags.String("password", "", "password or secret key")
	bucket := flags.String("bucket", "", "bucket to create")
	library := flags.String("library", "", "libchdb.so")
	if err := flags.Parse(args[1:]); err != nil {
		return fmt.Errorf("reading flags: %w", err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var srv server
	var err error
	ready := alreadyReady()
	switch args[0] {
	case "broker":
		srv, err = broker.New(broker.Config{Addr: *addr, Dir: *dir, Logger: logger, Partitions: 4, AutoCreate: true})
	case "objects":
		var o *objects.Server
		o, err = objects.New(objects.Config{Addr: *addr, Dir: *dir, AccessKey: *user, SecretKey: *password, Bucket: *bucket, Logger: logger})
		if err == nil {
			srv, ready = o, o.Ready()
		}
	case "sql":
		srv, err = sqlserver.New(sqlserver.Config{Addr: *addr, Dir: *dir, Library: *library, User: *user, Password: *password, Logger: logger})
	default:
		err = fmt.Errorf("unknown server %q", args[0])
	}
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	go func() {
		<-ready
		fmt.Println("ready", srv.Addr())
	}()
	return srv.Run(ctx)
}

// alreadyReady is for servers that accept connections from New on.
func alreadyReady() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
