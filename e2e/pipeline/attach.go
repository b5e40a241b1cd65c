package pipeline

import (
	"context"
	"net/http"
	"os"
	"os/exec"

	"leafcutter/pkg/kafka"
)

// Attach makes the clients of a pipeline whose processes the test has started itself, on other servers than up's own. What
// concerns up and its children is not for such a one; Detach closes what this opened.
func Attach(ctx context.Context, s State, cluster kafka.Config) (*Pipeline, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	p := &Pipeline{State: s, Root: root, bin: os.Getenv(binDir), cluster: cluster,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, done: make(chan struct{})}
	if err := p.checkBinaries(); err != nil {
		return nil, err
	}
	return p, p.clients(ctx)
}

// Detach closes the connections of a pipeline made by Attach.
func (p *Pipeline) Detach() {
	if p.Objects != nil {
		p.Objects.Close()
	}
	p.http.CloseIdleConnections()
}

// StartTied starts a process of the test's own, in a process group of its own, that ends with the test's process whatever
// ends that. ended is to be closed once the process has been waited for.
func StartTied(cmd *exec.Cmd, ended <-chan struct{}) error { return startTied(cmd, ended) }
