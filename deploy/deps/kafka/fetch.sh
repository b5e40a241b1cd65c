#!/bin/sh
# Fetches Apache Kafka by Maven into build/test-servers/kafka, for the tests on real servers (make deps-real).
#
# The file sha256 names every jar with its digest: what it does not name is not installed, and one that is missing or
# another is an error. A second run checks the digests and fetches nothing. The folder appears whole or not at all.
#
# Environment: BUILD_DIR; Maven's own settings (~/.m2/settings.xml, MAVEN_OPTS, MAVEN_ARGS) are honoured.
set -u

here=$(cd "$(dirname "$0")" && pwd)
build=${BUILD_DIR:-$(cd "$here/../../.." && pwd)/build}
to=$build/test-servers/kafka

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }

if command -v sha256sum >/dev/null 2>&1; then sums=sha256sum; else sums="shasum -a 256"; fi

# as_named FOLDER: does it hold the jars that the list names, and no other?
as_named() {
	[ "$(find "$1" -name '*.jar' 2>/dev/null | wc -l)" -eq "$(wc -l <"$here/sha256")" ] &&
		(cd "$1" && $sums -c "$here/sha256") >/dev/null 2>&1
}

# Kafka 4 needs 17 or newer. The version is the first number in quotes that java prints.
command -v java >/dev/null 2>&1 ||
	die "Java is needed for Apache Kafka: install a JRE, 17 or newer (Debian: apt-get install default-jre-headless), then run make deps-real again"
version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
[ "${version:-0}" -ge 17 ] || die "Apache Kafka needs Java 17 or newer, java is ${version:-of an unknown version}: install a newer one, then run make deps-real again"

as_named "$to" && exit 0
command -v mvn >/dev/null 2>&1 ||
	die "Maven is needed to fetch Apache Kafka: install it (Debian: apt-get install maven), then run make deps-real again"
mkdir -p "$build/test-servers" 2>/dev/null || die "cannot write below $build: check its permissions, then run make deps-real again"
work=$(mktemp -d "$build/test-servers/fetch.XXXXXX") || die "cannot write below $build: check its permissions, then run make deps-real again"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

say "kafka: fetching Apache Kafka 4.1.1 by mvn (43 MB)"
mvn -B -q -f "$here/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
	-DincludeScope=runtime -DoutputDirectory="$work/kafka" >"$work/log" 2>&1 ||
	die "mvn cannot fetch Apache Kafka ($(grep -m1 ERROR "$work/log" | cut -c1-200)): check the network, the proxy or ~/.m2/settings.xml, then run make deps-real again"
as_named "$work/kafka" || die "what mvn fetched is not what $here/sha256 names: not installed; if ~/.m2/settings.xml names a mirror try without it, else report this"
rm -rf "$to" && mv "$work/kafka" "$to" || die "cannot write $to: check its permissions, then run make deps-real again"
say "kafka: $to (43 MB)"
