#!/bin/sh
# Packs build/ into a tarball that needs nothing but the machine's C library, and proves it: unpacks the tarball
# elsewhere and puts the sample through the binaries there.
#
#   deploy/dist/dist.sh VERSION        run by `make dist`, from the root, after deps and build
#
# DIST_LEVEL is gzip's level (6): libchdb is most of the size; 1 is for trying it out.
set -eu

version=$1
name=leafcutter-$version-$(go env GOOS)-$(go env GOARCH)
out=build/dist
stage=$out/$name

die() { echo "dist: $*" >&2; exit 1; }

deploy/deps/fetch.sh --verify
rm -rf "$stage" && mkdir -p "$stage"
trap 'rm -rf "$stage" "$out/unpacked" "$out"/*.part' EXIT

for dir in bin lib models licenses; do cp -R "build/$dir" "$stage/"; done
cp LICENSE CHANGELOG.md "$stage/"
sed "s/@VERSION@/$version/" deploy/dist/README.txt >"$stage/README.txt"
mkdir -p "$stage/samples" && cp docs/samples/leafcutter.pdf "$stage/samples/"
cp schemas/LICENSE "$stage/licenses/Apache-2.0"
mkdir -p "$stage/licenses/chdb" && cp schemas/LICENSE "$stage/licenses/chdb/LICENSE"

# The licence of every module that is linked into a binary, under its path. Go's own is under "go".
mkdir -p "$stage/licenses/go" && cp "$(go env GOROOT)/LICENSE" "$stage/licenses/go/"
for bin in build/bin/*; do
	go version -m "$bin" | awk '$1 == "dep" && $2 !~ /^leafcutter/ { print $2, $3 } $1 == "=>" && $2 !~ /^\./ { print $2, $3 }'
done | sort -u | while read -r module v; do
	# The module cache writes a capital as ! and its small letter.
	dir=$(go env GOMODCACHE)/$(printf '%s@%s' "$module" "$v" | sed 's/\([A-Z]\)/!\1/g' | tr '[:upper:]' '[:lower:]')
	mkdir -p "$stage/licenses/go/$module"
	found=
	for text in "$dir"/LICEN[SC]E* "$dir"/UNLICENSE* "$dir"/COPYING* "$dir"/NOTICE* "$dir"/PATENTS*; do
		[ -f "$text" ] || continue
		cp "$text" "$stage/licenses/go/$module/" && found=1
	done
	[ -n "$found" ] || die "no licence text in $dir: name it in deploy/dist/dist.sh or drop the module"
done
chmod -R u+w "$stage"

echo "dist: packing $out/$name.tar.gz"
tar -C "$out" -cf - "$name" | gzip -"${DIST_LEVEL:-6}" >"$out/$name.tar.gz.part"
mv "$out/$name.tar.gz.part" "$out/$name.tar.gz"

mkdir -p "$out/unpacked"
tar -C "$out/unpacked" -xzf "$out/$name.tar.gz"
clean="env -i PATH=/usr/bin:/bin HOME=$out/unpacked"
$clean "$out/unpacked/$name/bin/leafcutter" version || die "the unpacked bin/leafcutter does not run"
$clean "$out/unpacked/$name/bin/leafcutter" up --ephemeral --any-port --exit --submit docs/samples/leafcutter.pdf \
	>"$out/unpacked/log" 2>&1 || { cat "$out/unpacked/log"; die "the unpacked bin/leafcutter does not get the sample through"; }
for bin in build/bin/*; do
	[ -x "$out/unpacked/$name/bin/$(basename "$bin")" ] || die "$(basename "$bin") is missing in the tarball"
done
echo "dist: $out/$name.tar.gz ($(($(wc -c <"$out/$name.tar.gz") / 1000000)) MB)"
