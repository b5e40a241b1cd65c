// Package clickhouse reads and writes the results of the pipeline. The recorder inserts by it, ingest-api queries by it
// and `leafcutter migrate` creates its tables; clickhouse-go over the HTTP interface is the only client, against a
// server, a cluster and the embedded server alike.
//
// Errors are classed here, once (see [leafcutter/pkg/fault]): rows and statements that the server refuses are permanent;
// a server that is away, overloaded, out of memory or behind in its migrations, and a user that it does not accept, are
// Unavailable("clickhouse"); a cancelled context stays context.Canceled.
package clickhouse

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/pkg/outbound"
)

// Dependency is the name under which the database's probe is registered and its absence is classed.
const Dependency = "clickhouse"

const probeTimeout = 3 * time.Second

// DB is one database. It is safe for any number of goroutines; rows and batches are not.
type DB struct {
	cfg        Config
	conn       driver.Conn
	transport  *outbound.Transport
	probing    *outbound.Transport
	probeQuery string
	columns    columns
}

// Option changes how a database is opened.
type Option func(*settings)

type settings struct {
	outbound.Settings
	probeQuery string
}

// WithTelemetry sends spans and metrics of requests to these providers.
func WithTelemetry(tracers trace.TracerProvider, meters metric.MeterProvider) Option {
	return func(s *settings) { s.Tracers, s.Meters = tracers, meters }
}

// WithPatience gives up a statement after a silence of d already, and not after [Config.Timeout], from a server that has not
// lately been slow; one that has is given up to that. It is for callers that ask again, with the same rows.
func WithPatience(d time.Duration) Option {
	return func(s *settings) { s.Patience = d }
}

// WithProbeQuery changes what [DB.Probe] asks; "SELECT 1" where not given. One that reads a table that is written to
// also sees migrations that have not been applied; only one that writes sees a server that answers and takes no writes.
func WithProbeQuery(query string) Option {
	return func(s *settings) { s.probeQuery = query }
}

// Open makes a database without touching the network: a server that is away shows at the first use, and in [DB.Probe].
// The context is not kept.
func Open(_ context.Context, cfg Config, options ...Option) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	s := settings{probeQuery: "SELECT 1"}
	s.Connections, s.Stall = 8, cfg.Timeout
	for _, option := range options {
		option(&s)
	}
	db := &DB{cfg: cfg, transport: outbound.New(s.Settings), probeQuery: s.probeQuery}
	var err error
	if db.conn, err = chgo.Open(cfg.options(cfg.Database, db.transport)); err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	// The probe shares nothing with the traffic that it judges: no pooled connection and no driver.
	s.Connections, s.DialTimeout, s.Stall = 1, probeTimeout, probeTimeout
	db.probing = outbound.New(s.Settings)
	return db, nil
}

// options are those of clickhouse-go. Its connections are shells around one shared transport: each would keep a pool of
// its own, and the number of sockets would follow the number of goroutines.
func (c Config) options(database string, transport http.RoundTripper) *chgo.Options {
	hosts, secure, _ := c.addresses() // validated by every caller
	o := &chgo.Options{
		Protocol:      chgo.HTTP,
		Addr:          hosts,
		Auth:          chgo.Auth{Database: database, Username: c.User, Password: c.Password},
		DialTimeout:   10 * time.Second, // also how long to wait for a free connection
		MaxOpenConns:  16,
		MaxIdleConns:  8,
		ClientInfo:    chgo.ClientInfo{Products: []struct{ Name, Version string }{{Name: "leafcutter"}}},
		TransportFunc: func(*http.Transport) (http.RoundTripper, error) { return transport, nil },
	}
	if secure {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return o
}

// Close gives back connections. Rows and batches still in use fail.
func (db *DB) Close() error {
	err := db.conn.Close()
	db.transport.CloseIdleConnections()
	db.probing.CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("clickhouse: close: %w", err)
	}
	return nil
}

// Database is the name of the database.
func (db *DB) Database() string { return db.cfg.Database }

// Exec runs a statement that returns no rows.
func (db *DB) Exec(ctx context.Context, query string, args ...any) error {
	return classed(ctx, "exec", db.conn.Exec(ctx, query, args...))
}

// Select reads all rows of a query into dest, a pointer to a slice of structs with `ch` tags. It is for results whose
// size is bounded by the query.
func (db *DB) Select(ctx context.Context, dest any, query string, args ...any) error {
	return classed(ctx, "select", db.conn.Select(ctx, dest, query, args...))
}

// Query starts to read a query's rows. The caller closes them and asks Err, which is classed.
func (db *DB) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	r, err := db.conn.Query(ctx, query, args...)
	if err != nil {
		return nil, classed(ctx, "query", err)
	}
	return &rows{Rows: r, ctx: ctx}, nil
}

// QueryRow reads one row; its Scan gives sql.ErrNoRows, unclassed, where there is none.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) driver.Row {
	return &row{Row: db.conn.QueryRow(ctx, query, args...), ctx: ctx}
}

// PrepareBatch begins an INSERT, given up to "INSERT INTO table (columns)". Its Append refuses rows that do not fit the
// columns with a permanent fault; Send inserts all rows or none into each partition. A batch is used once. Of the same
// query the server is asked every two minutes which types its columns have, and again after a row or a batch that failed: a
// program has few. A row that was refused by types that have changed since is taken when it is appended to the next batch.
func (db *DB) PrepareBatch(ctx context.Context, query string, options ...driver.PrepareBatchOption) (driver.Batch, error) {
	asked, now := ctx, time.Now()
	known := db.columns.of(query, now)
	if known != nil {
		asked = chgo.Context(ctx, chgo.WithColumnNamesAndTypes(known))
	}
	b, err := db.conn.PrepareBatch(asked, query, options...)
	if err != nil {
		return nil, classed(ctx, "prepare batch", err)
	}
	if known == nil {
		db.columns.learn(query, b, now)
	}
	return &batch{Batch: b, ctx: ctx, refused: func() { db.columns.forget(query) }}, nil
}

// QueryFormat streams a query's result in one of the server's formats, such as JSONEachRow. The caller closes it.
func (db *DB) QueryFormat(ctx context.Context, format, query string, args ...any) (io.ReadCloser, error) {
	stream, err := db.conn.QueryFormat(ctx, format, query, args...)
	if err != nil {
		return nil, classed(ctx, "query", err)
	}
	return stream, nil
}

// Probe tells within three seconds whether one of the servers answers a query on the database. It shares no connection
// with other requests, so it may contradict them.
func (db *DB) Probe(ctx context.Context) error {
	probe, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	defer db.probing.CloseIdleConnections()
	hosts, secure, err := db.cfg.addresses()
	if err != nil {
		return err
	}
	for _, host := range hosts {
		if err = db.probe(probe, host, secure); err == nil {
			return nil
		}
	}
	return unreachable(ctx, "probe", err)
}

func (db *DB) probe(ctx context.Context, host string, secure bool) error {
	u := url.URL{Scheme: "http", Host: host, Path: "/", RawQuery: url.Values{"database": {db.cfg.Database}}.Encode()}
	if secure {
		u.Scheme = "https"
	}
	// POST: what comes by GET may not write.
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(db.probeQuery))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("X-ClickHouse-User", db.cfg.User)
	if db.cfg.Password != "" {
		request.Header.Set("X-ClickHouse-Key", db.cfg.Password)
	}
	response, err := (&http.Client{Transport: db.probing}).Do(request)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	err = errors.Join(err, response.Body.Close())
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %.500s", host, response.Status, bytes.TrimSpace(answer))
	}
	return err
}
