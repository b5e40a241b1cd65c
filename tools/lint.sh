#!/bin/sh
# Lints every module given, then the Dockerfiles. All is looked at before it fails.
#
#   tools/lint.sh MODULE...        run by `make lint`, from the root
set -u

root=$(pwd)
failed=
for module in "$@"; do
	# Modules without cgo are linted without it, and all with -trimpath: so the compiler's work is that of `make build`.
	case $module in */page-splitter | */detector | */bench) cgo=1 ;; *) cgo=0 ;; esac
	[ -n "$(find "$module" -name '*.go' -print -quit)" ] || continue
	echo "lint: ${module#"$root"/}"
	(cd "$module" && CGO_ENABLED=$cgo GOFLAGS="${GOFLAGS:-} -trimpath" "$root/build/tools/golangci-lint" run --allow-serial-runners) || failed=1
done

dockerfiles=$(find . -name '*Dockerfile*' -not -path './build/*' -not -path '*/node_modules/*')
if [ -n "$dockerfiles" ]; then
	echo "lint: Dockerfiles"
	# shellcheck disable=SC2086 # a list of paths without spaces
	build/tools/hadolint $dockerfiles || failed=1
fi
[ -z "$failed" ]
