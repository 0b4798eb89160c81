#!/usr/bin/env bash
# Build a free-threaded CPython 3.13 from Debian's source package and print the interpreter's path.
#
#   tools/build_python.sh [free-threaded | thread-sanitizer]
#
# The first call takes about five minutes. The interpreter is kept in ${XDG_CACHE_HOME:-~/.cache}/fastserverstate.
# Debian's own patches are not applied, because they move site-packages. Requires apt, gcc, make and the headers of the
# libraries in `needed`.
set -euo pipefail

variant=${1:-free-threaded}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fastserverstate
prefix=$cache/python3.13-$variant
python=$prefix/bin/python3.13
needed="bz2, ctypes, lzma, sqlite3, ssl, zlib"

options=(--disable-gil --disable-test-modules)
case $variant in
free-threaded) ;;
# -O1 and frame pointers give reports complete stacks. CPython's own suppressions are copied next to the interpreter.
thread-sanitizer) options+=(--with-thread-sanitizer OPT="-DNDEBUG -g -O1 -fno-omit-frame-pointer") ;;
*) echo "Unknown variant: $variant. Choose free-threaded or thread-sanitizer." >&2 && exit 2 ;;
esac

if [ -e "$prefix/.ready" ]; then
    echo "$python"
    exit
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cd "$build"
mkdir -p "$cache" lists/partial archives/partial

# Separate sources and lists leave the configuration of the system unchanged.
cat >trixie.sources <<'END'
Types: deb-src
URIs: http://deb.debian.org/debian
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
apt=(apt-get -qq -o "Dir::Etc::SourceList=$build/trixie.sources" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$build/lists" -o "Dir::Cache=$build" -o APT::Sandbox::User=root)
"${apt[@]}" update
"${apt[@]}" source --download-only python3.13
tar -xf python3.13_*.orig.tar.xz
cd Python-3.13.*/

log=$cache/python3.13-$variant.log
echo "Building CPython ($variant). The log is in $log." >&2
# The build runs the sanitized interpreter, whose own races do not matter here.
export TSAN_OPTIONS="report_bugs=0 exitcode=0"
rm -rf "$prefix"
if ! { ./configure --prefix="$prefix" "${options[@]}" && make -j"$(nproc)" && make install; } >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    exit 1
fi
if ! "$python" -c "import sys, $needed; sys.exit(sys._is_gil_enabled())"; then
    echo "The standard library is incomplete. It requires the headers for: $needed." >&2
    exit 1
fi
cp Tools/tsan/suppressions_free_threading.txt "$prefix"
touch "$prefix/.ready"
echo "$python"
