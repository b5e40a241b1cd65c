//go:build !windows

package cli

import (
	"fmt"
	"slices"
	"strings"

	"leafcutter/deploy/local/internal/up"
)

// clusterEnviron is the environment of a command that works on servers themselves, on those whose variables it needs. A
// data directory that is named means the pipeline there; else the environment says where the servers are; where it does
// not, they are those of the pipeline that runs on this machine, if one does. Never some of one and some of the other: what
// an environment leaves out would be found at the usual ports, which are the pipeline's.
func (t *terminal) clusterEnviron(data string, needs ...string) ([]string, error) {
	named := data != ""
	if !named {
		usual, err := up.DefaultData(t.getenv)
		if err == nil {
			data = usual
		} // else there is no home, and nothing runs below it
	}
	s, err := up.ReadState(data)
	running := err == nil
	if named {
		if !running {
			return nil, fmt.Errorf("%s: %w", data, err)
		}
		return pipelineEnviron(t.environ, s), nil
	}
	var given, missing []string
	for _, name := range []string{kafkaVariable, sqlVariable, s3Variable} {
		switch {
		case t.getenv(name) != "":
			given = append(given, name)
		case slices.Contains(needs, name):
			missing = append(missing, name)
		}
	}
	switch {
	case !running:
		return t.environ, nil
	case len(given) == 0:
		return pipelineEnviron(t.environ, s), nil
	case len(missing) == 0, slices.Equal(missing, []string{s3Variable}): // Amazon's S3 needs no address
		return t.environ, nil
	}
	return nil, fmt.Errorf("a pipeline runs on %s, and the environment says where other servers are, but not all: %s without %s; name the rest, or give --data-dir %s to mean that pipeline",
		data, strings.Join(given, ", "), strings.Join(missing, ", "), data)
}

// pipelineEnviron is the environment of what works on the servers of a pipeline on this machine. Of the user's it has what
// tunes: a password or a session token for other servers would be sent along with the pipeline's own keys.
func pipelineEnviron(environ []string, s up.State) []string {
	return append(up.Tuning(environ), s.Env()...)
}
