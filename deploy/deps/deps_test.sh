#!/bin/sh
# What fetch.sh promises when something is wrong: one clear line, a non-zero exit, and nothing half-written.
# Run by `make test`; needs no network: pip and npm are stood in for, or sent to a closed port.
set -u

here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=0

sum() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1; }

# A wheel and a package of our own, and a table that names them.
mkdir -p "$tmp/src/package" "$tmp/index"
echo weights >"$tmp/src/model.onnx"
echo library >"$tmp/src/package/lib.so"
(cd "$tmp/src" && python3 -m zipfile -c "$tmp/index/leafy-1.0-py3-none-any.whl" model.onnx && tar -czf "$tmp/index/leafy-lib-1.0.tgz" package)
sha=$(sum "$tmp/src/model.onnx")
lib_sha=$(sum "$tmp/src/package/lib.so")
pip_row="leafy 1.0 any pip leafy any model.onnx models/leafy/leafy.onnx 1000 8 $sha yes"
npm_row="lib 1.0 any npm @leafy/lib - package/lib.so lib/lib.so 1000 8 $lib_sha yes"

# Stand-ins that answer with those archives and count how often they were asked.
mkdir "$tmp/bin"
cat >"$tmp/bin/python3" <<STUB
#!/bin/sh
case "\$*" in
*--version*) exit 0 ;;
*download*) echo pip >>"$tmp/asked"; while [ \$# -gt 0 ]; do [ "\$1" = --dest ] && cp "$tmp/index/leafy-1.0-py3-none-any.whl" "\$2"; shift; done ;;
*) exec "$(command -v python3)" "\$@" ;;
esac
STUB
cat >"$tmp/bin/npm" <<STUB
#!/bin/sh
case "\$*" in *pack*) echo npm >>"$tmp/asked"; cp "$tmp/index/leafy-lib-1.0.tgz" . ;; esac
STUB
chmod +x "$tmp/bin/python3" "$tmp/bin/npm"

# Every tool that the script uses except pip's python and npm, for a PATH that lacks those.
mkdir "$tmp/bare"
for tool in sh uname grep sed cut wc tr find df awk mkdir mktemp mv cp rm chmod cat tar date du sleep cmp dirname basename sha256sum shasum gzip kill; do
	path=$(command -v "$tool") && [ -x "$path" ] && ln -s "$path" "$tmp/bare/$tool"
done

table() { printf '%s\n' "# test" "$@" >"$tmp/table"; }

# run [VAR=value...]: runs fetch.sh on the table into $tmp/build; leaves rc, out
run() {
	out=$(env PATH="$tmp/bin:$PATH" BUILD_DIR="$tmp/build" DEPS_TABLE="$tmp/table" DEPS_PLATFORM=linux/amd64 "$@" \
		sh "$here/fetch.sh" 2>&1 >"$tmp/stdout")
	rc=$?
}

check() { # NAME CONDITION...
	name=$1
	shift
	if "$@"; then passed=$((passed + 1)); else
		failed=$((failed + 1))
		printf 'FAIL: %s (exit %s)\n%s\n' "$name" "$rc" "$out"
	fi
}

# refused PATTERN FILE: non-zero, exactly one line, which matches, FILE not there and nothing left behind
refused() {
	[ "$rc" -ne 0 ] && [ "$(printf '%s\n' "$out" | wc -l)" -eq 1 ] && printf '%s\n' "$out" | grep -q -E "$1" &&
		[ ! -e "$tmp/build/$2" ] && nothing_left
}
nothing_left() { [ -z "$(find "$tmp/build" -name 'fetch.*' 2>/dev/null)" ]; }
fetched() { [ "$rc" -eq 0 ] && [ "$(sum "$tmp/build/$1")" = "$2" ] && nothing_left; }
asked() { [ "$(grep -c "$1" "$tmp/asked")" -eq "$2" ]; }
fresh() { rm -rf "$tmp/build"; : >"$tmp/asked"; }

fresh
table "$pip_row" "$npm_row"
run
check "fetches by pip" fetched models/leafy/leafy.onnx "$sha"
check "fetches by npm" fetched lib/lib.so "$lib_sha"
run
check "a second run succeeds" [ "$rc" -eq 0 ]
check "a second run fetches nothing" asked . 2
check "a second run says nothing" [ ! -s "$tmp/stdout" ]

echo tampered >"$tmp/build/lib/lib.so"
run
check "a file that was changed is fetched again" fetched lib/lib.so "$lib_sha"
check "and only that one" asked pip 1

fresh
table "$(echo "$pip_row" | sed "s/$sha/0000/")" "$npm_row"
run
check "wrong digest" refused "leafy 1.0: model.onnx has sha256 $sha, the table says 0000: not installed" models/leafy/leafy.onnx

fresh
table "$(echo "$pip_row" | sed "s/$sha/unknown/")"
run
check "no digest known" refused 'make deps DEPS_UNVERIFIED=1' models/leafy/leafy.onnx
run DEPS_UNVERIFIED=1
check "no digest known, asked for" fetched models/leafy/leafy.onnx "$sha"

fresh
table "$(echo "$pip_row" | sed "s/$sha/none/")"
run
check "no build for the platform" refused 'has no build for linux/amd64: use docker compose' models/leafy/leafy.onnx

fresh
table "$(echo "$pip_row" | sed 's# models/leafy/leafy.onnx # tools/leafy #')"
run
check "a tool is not fetched unless named" asked . 0
out=$(env PATH="$tmp/bin:$PATH" BUILD_DIR="$tmp/build" DEPS_TABLE="$tmp/table" DEPS_PLATFORM=linux/amd64 sh "$here/fetch.sh" leafy 2>&1)
rc=$?
check "a tool that is named" fetched tools/leafy "$sha"
check "a tool that is named can be run" [ -x "$tmp/build/tools/leafy" ]

fresh
table "$(echo "$pip_row" | sed 's/ model.onnx / other.onnx /')"
run
check "file missing in the archive" refused 'has no other.onnx inside: correct' models/leafy/leafy.onnx

fresh
table "$pip_row"
run PATH="$tmp/bare"
check "no pip" refused 'pip is needed for leafy: install' models/leafy/leafy.onnx

fresh
table "$npm_row"
run PATH="$tmp/bare"
check "no npm" refused 'npm is needed for @leafy/lib: install' lib/lib.so

fresh
table "$(echo "$pip_row" | sed 's/ 1000 8 / 1000 900000000000000000 /')"
run
check "no room" refused 'not enough space below .* needs .* MB.*free some' models/leafy/leafy.onnx

# The disk fills up in the middle of it: /dev/full is where every write fails.
if [ -e /dev/full ]; then
	fresh
	table "$npm_row"
	mkdir "$tmp/full" && printf '#!/bin/sh\nexec cat /dev/zero >/dev/full\n' >"$tmp/full/tar" && chmod +x "$tmp/full/tar"
	run PATH="$tmp/full:$tmp/bin:$PATH"
	check "disk full while unpacking" refused 'no space left below' lib/lib.so
fi

# Real pip and npm against a closed port of this machine.
nowhere=http://127.0.0.1:9
fresh
table "$pip_row"
run PATH="$PATH" PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_RETRIES=0 PIP_INDEX_URL=$nowhere
check "no network: pip" refused 'pip cannot reach its registry for leafy .*PIP_INDEX_URL' models/leafy/leafy.onnx

fresh
table "$npm_row"
run PATH="$PATH" NPM_CONFIG_REGISTRY=$nowhere NPM_CONFIG_USERCONFIG=/dev/null
check "no network: npm" refused 'npm cannot reach its registry for @leafy/lib .*NPM_CONFIG_REGISTRY' lib/lib.so

fresh
table "$pip_row"
mkdir -p "$tmp/build" && : >"$tmp/build/.deps"
run
check "build cannot be written" [ "$rc" -ne 0 ]
check "build cannot be written: one line" [ "$(printf '%s\n' "$out" | wc -l)" -eq 1 ]

# The real table: every row whole, every digest a digest.
bad=$(awk '!/^#/ && NF && (NF != 12 || ($11 !~ /^[0-9a-f]+$/ && $11 != "unknown" && $11 != "none") || ($11 ~ /^[0-9a-f]+$/ && length($11) != 64))' "$here/deps.table")
out=$bad
check "deps.table is well formed" [ -z "$bad" ]

# No trailing newline games for the summary: one plain closing line.
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
