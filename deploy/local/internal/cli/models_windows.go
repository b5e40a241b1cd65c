package cli

import (
	"context"
	"errors"
	"io"
)

var errNoTool = errors.New("model-tool-missing: detector and page-splitter run on Linux and macOS, and here in WSL2: use leafcutter there")

func (t *terminal) modelsAt(p modelPlace) (location string, environ []string, err error) {
	return p.location, t.environ, nil
}

func (t *terminal) tool(context.Context, io.Writer, []string, string, ...string) error {
	return errNoTool
}

func (t *terminal) modelTopics(context.Context, string, string, string) (bool, error) {
	return false, nil
}
