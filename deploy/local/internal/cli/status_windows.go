package cli

import "errors"

// pipelineStatus: no pipeline runs on Windows itself.
func (t *terminal) pipelineStatus(where, string) error {
	return errors.New("no pipeline runs on Windows itself; name a document, or ask in WSL2")
}
