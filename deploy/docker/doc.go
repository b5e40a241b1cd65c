// Package docker has no code of its own: its tests hold Dockerfile, docker-compose.yml and docs/configuration.md to what
// the binaries really read and really need. They run the Dockerfile's own build commands on just the folders that it
// copies, and ask what comes out.
package docker

//go:generate go run ./cmd/reference
