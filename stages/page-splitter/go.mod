module leafcutter/stages/page-splitter

go 1.26.0

require (
	leafcutter/pkg v0.0.0
	leafcutter/schemas v0.0.0
)

require (
	github.com/ebitengine/purego v0.8.4 // indirect
	github.com/gen2brain/go-fitz v1.24.15 // indirect
	github.com/jupiterrider/ffi v0.5.0 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	leafcutter/pkg => ../../pkg
	leafcutter/schemas => ../../schemas
)
