// Command write writes the JSON Schemas of all records into the folder given.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"leafcutter/pkg/recordschema"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "write:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: write FOLDER")
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	for _, r := range recordschema.Records() {
		name, content, err := recordschema.File(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[0], name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
