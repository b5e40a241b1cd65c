// Command ingest-api takes documents by HTTP and shows what became of them. See package ingestapi.
package main

import (
	"os"

	ingestapi "leafcutter/ingest-api"
	"leafcutter/pkg/program"
)

func main() {
	os.Exit(program.Main(program.Spec[ingestapi.Config]{
		Name:      "ingest-api",
		Purpose:   "takes documents by HTTP and shows what became of them",
		AdminAddr: "127.0.0.1:8091",
		Run:       ingestapi.Run,
	}))
}
