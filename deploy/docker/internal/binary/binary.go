// Package binary knows the programs that are deployed and asks them what they read. The reference of docs/ is written
// from it, and the tests of the images and of docker-compose.yml compare with it.
package binary

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Binary is a program of this repository.
type Binary struct {
	Name string
	Dir  string   // of its module, from the root of the repository
	Cgo  bool     // binds a C library
	List []string // arguments that make it list its variables
}

// All are the programs, in the order of a document's way; the command line is the last.
func All() []Binary {
	list := []string{"-config.list"}
	return []Binary{
		{Name: "ingest-api", Dir: "ingest-api", List: list},
		{Name: "page-splitter", Dir: "stages/page-splitter", Cgo: true, List: list},
		{Name: "detector", Dir: "stages/detector", Cgo: true, List: list},
		{Name: "annotator", Dir: "stages/annotator", List: list},
		{Name: "recorder", Dir: "stages/recorder", List: list},
		{Name: "leafcutter", Dir: "deploy/local", List: []string{"init", "--config.list"}},
	}
}

// Variable is one variable as a program lists it: the JSON of leafcutter/pkg/config.Variable.
type Variable struct {
	Name        string `json:"name"`
	Flag        string `json:"flag"`
	Type        string `json:"type"`
	Default     string `json:"default"`
	Description string `json:"description"`
	Required    bool   `json:"required"`
	Secret      bool   `json:"secret"`
}

// Variables asks the executable, which is b built, for its variables.
func (b Binary) Variables(ctx context.Context, executable string) ([]Variable, error) {
	out, err := exec.CommandContext(ctx, executable, b.List...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("ask %s for its variables: %w: %s", b.Name, err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for its variables: %w", b.Name, err)
	}
	var variables []Variable
	if err := json.Unmarshal(out, &variables); err != nil {
		return nil, fmt.Errorf("read the variables of %s: %w", b.Name, err)
	}
	if len(variables) == 0 {
		return nil, fmt.Errorf("%s lists no variables", b.Name)
	}
	return variables, nil
}

// Build builds b from the working tree below root into the folder dir, as `make build` does, and gives the executable.
func (b Binary) Build(ctx context.Context, root, dir string) (string, error) {
	executable := filepath.Join(dir, b.Name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", executable, "./cmd/"+b.Name)
	cmd.Dir = filepath.Join(root, b.Dir)
	cgo := "CGO_ENABLED=0"
	if b.Cgo {
		cgo = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", b.Name, err, out)
	}
	return executable, nil
}

// Root is the root of the repository: the nearest folder above dir that has a go.work.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find the repository: no go.work above %s", dir)
		}
	}
}
