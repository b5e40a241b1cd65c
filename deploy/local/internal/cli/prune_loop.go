//go:build !windows

package cli

import (
	"context"
	"log/slog"
	"time"

	"leafcutter/pkg/prune"
)

// Bounds of how often a pipeline on this machine is pruned: often enough that little is kept for too long, and no oftener.
const (
	pruneOften  = 10 * time.Second
	pruneSeldom = time.Hour
)

// pruneEvery prunes until ctx ends. What fails is tried again at the next turn.
func pruneEvery(ctx context.Context, pruner *prune.Pruner, keep prune.Keep, log *slog.Logger) {
	shortest := pruneSeldom * 10
	for _, age := range []prune.Age{keep.Images, keep.Annotated, keep.Crops, keep.Sources, keep.Rows, keep.Documents, keep.Traces} {
		if age > 0 {
			shortest = min(shortest, time.Duration(age))
		}
	}
	turn := time.NewTicker(min(max(shortest/10, pruneOften), pruneSeldom))
	defer turn.Stop()
	for {
		report, err := pruner.Run(ctx, keep, false)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn("pruning failed; it is tried again", slog.Any("error", err))
		default:
			log.Info("pruned", slog.Any("report", report))
		}
		select {
		case <-turn.C:
		case <-ctx.Done():
			return
		}
	}
}
