package program

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"leafcutter/pkg/config"
)

// memoryConfig is how much memory Go may use before it collects harder. C libraries are not in it.
type memoryConfig struct {
	Limit string `env:"LEAFCUTTER_MEMORY_LIMIT" envDefault:"auto" desc:"soft limit of Go's own memory, such as 200MiB; auto for nine tenths of the container's limit, off for none; GOMEMLIMIT wins"`
}

// Validate tells an amount that is none.
func (c memoryConfig) Validate() error {
	if c.Limit == "auto" || c.Limit == off {
		return nil
	}
	var limit config.Bytes
	if err := limit.UnmarshalText([]byte(c.Limit)); err != nil || limit < 4<<20 {
		return fmt.Errorf("LEAFCUTTER_MEMORY_LIMIT: %q is neither auto, off, nor an amount of at least 4MiB", c.Limit)
	}
	return nil
}

// apply sets the limit.
func (c memoryConfig) apply(environ []string, logger *slog.Logger) {
	given := slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, "GOMEMLIMIT=") })
	if given || c.Limit == off {
		return
	}
	var limit config.Bytes
	if c.Limit == "auto" {
		limit = containerLimit("/sys/fs/cgroup") / 10 * 9
	} else if err := limit.UnmarshalText([]byte(c.Limit)); err != nil {
		return // validated before
	}
	if limit <= 0 {
		return
	}
	debug.SetMemoryLimit(int64(limit))
	logger.Info("memory limit set", slog.String("limit", limit.String()))
}

// containerLimit is the memory limit of this control group, as a container sees its own at root: version 2, else 1; 0 if
// there is none. Version 1 says "none" by a number of about 2^63.
func containerLimit(root string) config.Bytes {
	for _, name := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(root + "/" + name)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && limit > 0 && limit < 1<<60 {
			return config.Bytes(limit)
		}
	}
	return 0
}
