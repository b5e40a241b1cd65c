//go:build !windows

package cli

import (
	"fmt"
	"strings"

	"leafcutter/deploy/local/internal/up"
)

// pipelineStatus repeats what up printed.
func (t *terminal) pipelineStatus(w where, output string) error {
	data := w.data
	if data == "" {
		var err error
		if data, err = up.DefaultData(t.getenv); err != nil {
			return err
		}
	}
	s, err := up.ReadState(data)
	if err != nil {
		return fmt.Errorf("%s: %w", data, err)
	}
	switch output {
	case "json":
		return t.printJSON(s)
	case "env":
		for _, v := range append(s.Env(), s.WebhookEnv()) {
			name, value, _ := strings.Cut(v, "=")
			if err := t.print("export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`)); err != nil {
				return err
			}
		}
		return nil
	case "text":
		return t.block(s)
	default:
		return usageError{fmt.Errorf("-o %s: text, env or json", output)}
	}
}
