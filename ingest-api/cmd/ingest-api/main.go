// Command ingest-api takes documents by HTTP and shows what became of them. See package ingestapi.
package main

import (
	"os"

	ingestapi "leafcutter/ingest-api"
	"leafcutter/pkg/program"
)

// version is set by the linker.
var version string

func main() {
	os.Exit(program.Main(program.Spec[ingestapi.Config]{
		Name:      "ingest-api",
		Purpose:   "takes documents by HTTP and shows what became of them",
		Version:   version,
		AdminAddr: "127.0.0.1:8091",
		Run:       ingestapi.Run,
	}))
}
