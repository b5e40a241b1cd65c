// Command reference rewrites the tables of docs/configuration.md from what the programs of the working tree read. Run it
// by `make generate`.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"leafcutter/deploy/docker/internal/binary"
	"leafcutter/deploy/docker/internal/reference"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "reference: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := binary.Root(".")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "leafcutter-reference")
	if err != nil {
		return fmt.Errorf("make a folder for binaries: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var programs []reference.Program
	for _, b := range binary.All() {
		executable, err := b.Build(ctx, root, dir)
		if err != nil {
			return err
		}
		variables, err := b.Variables(ctx, executable)
		if err != nil {
			return err
		}
		programs = append(programs, reference.Program{Name: b.Name, Variables: variables})
	}
	name := filepath.Join(root, "docs", "configuration.md")
	page, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	written, err := reference.Replace(string(page), programs)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if written == string(page) {
		return nil
	}
	if err := os.WriteFile(name, []byte(written), 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}
