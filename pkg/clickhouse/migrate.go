package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/pressly/goose/v3"

	"leafcutter/pkg/outbound"
)

// Migrate creates the database where it is missing and applies the goose migrations in migrations that it has not seen
// yet, in the order of their numbers. It is safe to repeat. Statements of one migration are not atomic, so each has to
// be one that can be repeated (IF NOT EXISTS); the same holds for two Migrates at once.
//
// The versions lie in the table goose_db_version of the same database. logger may be nil.
func Migrate(ctx context.Context, cfg Config, migrations fs.FS, logger *slog.Logger) (err error) {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	transport := outbound.New(outbound.Settings{Connections: 2, Stall: cfg.Timeout})
	defer transport.CloseIdleConnections()

	server, err := chgo.Open(cfg.options("default", transport))
	if err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	err = server.Exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+cfg.Database+"`")
	if err = errors.Join(err, server.Close()); err != nil {
		return classed(ctx, "create database "+cfg.Database, err)
	}

	db := chgo.OpenDB(cfg.options(cfg.Database, transport))
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectClickHouse, db, migrations,
		goose.WithSlog(logger), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("clickhouse: read migrations: %w", err)
	}
	applied, err := provider.Up(ctx)
	for _, m := range applied {
		logger.Info("migration applied", slog.String("database", cfg.Database), slog.String("file", m.Source.Path),
			slog.Duration("took", m.Duration))
	}
	return classed(ctx, "migrate "+cfg.Database, err)
}
