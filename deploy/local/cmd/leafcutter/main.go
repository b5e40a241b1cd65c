// Command leafcutter is the command line: it runs the whole pipeline on one machine (up), prepares any cluster (topics
// apply, migrate), and submits documents to and asks questions of a running pipeline.
package main

import (
	"os"

	"leafcutter/deploy/local/internal/cli"
)

// version is set by the linker.
var version string

func main() { os.Exit(cli.Main(version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
