package cli

import "runtime"

// machine: the servers run under WSL2, the commands that talk to them anywhere.
func (t *terminal) machine(string) []finding {
	return []finding{errorOr("version", t.version+" on "+runtime.GOOS+"/"+runtime.GOARCH+"; run leafcutter up in WSL2")}
}
