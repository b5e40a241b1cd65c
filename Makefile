# Leafcutter. `make run` is the whole of it; `make help` lists the rest.
#
# Everything fetched or built lies below build/, laid out like the tarball of `make dist`.

.DEFAULT_GOAL := help
SHELL := /bin/sh

PDF      ?= docs/samples/leafcutter.pdf
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# The page on which gRPC can show its calls is made by a template, and a program with templates keeps every method of every
# type, since any may be called by its name. Without it the detector is 9 MB smaller, on disk and in memory.
TAGS     := grpcnotrace
MODULES   = $(shell go list -m -f '{{.Dir}}')

# Folder and binary. Only what binds MuPDF or ONNX Runtime needs a C compiler.
PURE := ./deploy/local/cmd/leafcutter ./ingest-api/cmd/ingest-api ./stages/annotator/cmd/annotator ./stages/recorder/cmd/recorder
CGO  := ./stages/page-splitter/cmd/page-splitter ./stages/detector/cmd/detector

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## fetch ONNX Runtime, the model and chDB into build/, once, digests checked
	@deploy/deps/fetch.sh

.PHONY: deps-real
deps-real: ## fetch Apache Kafka and SeaweedFS into build/test-servers, for make test-real
	@deploy/deps/fetch.sh seaweedfs
	@deploy/deps/kafka/fetch.sh

.PHONY: build
build: ## build every binary into build/bin
	@command -v go >/dev/null || { echo "build: Go 1.26 is needed: install it and run make again" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "build: a C compiler is needed: apt-get install gcc, or xcode-select --install" >&2; exit 1; }
	@mkdir -p build/bin
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o build/bin/ $(PURE)
	CGO_ENABLED=1 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o build/bin/ $(CGO)
	@# Linux maps a file in the pieces in which it was written: those of the linker are 7 MB of the detector's memory.
	@cp -p build/bin/detector build/bin/.detector && mv build/bin/.detector build/bin/detector

.PHONY: run
run: deps build ## start everything on this machine and put a document through: make run PDF=path
	@build/bin/leafcutter up --submit '$(PDF)'

.PHONY: test
test: deps build ## every test, with the race detector
	deploy/deps/deps_test.sh
	go test -race -timeout 20m work

.PHONY: full
full: deps build ## the long suites as well (faults, load, memory): some hours
	go test -race -tags full -timeout 240m work

.PHONY: test-real
test-real: deps deps-real build ## the pipeline on Apache Kafka and SeaweedFS, and on networks that fail
	go test -race -tags real -timeout 90m -v -run '^TestReal' ./e2e/reliability

.PHONY: bench
bench: deps build ## the whole pipeline against a straight line and a peer, one table: about 20 minutes
	go run ./bench/compare
	$(if $(TUTORIAL),go run ./bench/tutorial $(TUTORIAL))

.PHONY: bench-go
bench-go: ## Go benchmarks of the hot paths, for benchstat
	go test -run '^$$' -bench . -benchmem -timeout 60m work

.PHONY: accuracy
accuracy: deps build ## headings found in real PDFs, against their outlines and a peer
	go run ./bench/accuracy

.PHONY: lint
lint: build/tools/golangci-lint ## golangci-lint and gofmt in every module, hadolint on Dockerfiles
	@deploy/deps/fetch.sh hadolint
	@tools/lint.sh $(MODULES)

build/tools/golangci-lint: tools/go.mod
	@mkdir -p build/tools
	cd tools && GOWORK=off go build -o ../build/tools/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: tidy
tidy: ## one set of versions in every module: go work sync, go mod tidy
	go work sync
	@for m in $(MODULES) tools; do (cd "$$m" && GOWORK=off go mod tidy) || { echo "tidy: $$m" >&2; exit 1; }; done

.PHONY: generate
generate: ## rewrite generated files
	go generate work

.PHONY: dist
dist: deps build ## a tarball that runs with no network: build/dist/
	@deploy/dist/dist.sh '$(VERSION)'

.PHONY: clean
clean: ## remove what was built; what was fetched stays
	rm -rf build/bin build/dist build/tools

.PHONY: distclean
distclean: ## remove what was fetched as well
	rm -rf build
