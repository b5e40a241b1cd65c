package cli

import "github.com/spf13/cobra"

// serverCommands: the embedded servers do not run on Windows; use WSL2.
func (t *terminal) serverCommands() []*cobra.Command { return nil }
