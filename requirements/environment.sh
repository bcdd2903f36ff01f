#!/bin/sh
# Creates or updates the virtual environment DIR: the packages of the lock files, and both distributions of this checkout, editable.
# Does nothing when DIR is up to date. Needs only Python 3.11 or newer with venv.
#
#     environment.sh DIR runtime|dev
set -eu

directory=$1
level=$2
root=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$root"

# A checksum of what the environment depends on. It includes the path: a moved checkout needs a new environment.
state_of() {
    {
        echo "$root"
        cat requirements/environment.sh requirements/runtime.txt pyproject.toml agent/pyproject.toml
        if [ "$1" = dev ]; then cat requirements/temporal.txt requirements/dev.txt; fi
    } | cksum
}

is_current() {
    [ "$(cat "$directory/.made-for-$level" 2>/dev/null)" = "$(state_of "$level")" ] && is_usable
}

is_usable() {
    [ "$(cat "$directory/.made-in" 2>/dev/null || echo "$root")" = "$root" ] &&
        "$directory/bin/python" -m pip --version >/dev/null 2>&1
}

# Sets `python`, or `reason` if no suitable Python is found.
find_python() {
    reason="no Python 3 was found"
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
            continue
        elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            reason="$python is Python $version, which is too old"
        elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            reason="$python (Python $version) lacks its venv or ensurepip module"
        else
            return 0
        fi
    done
    return 1
}

install() {
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
}

if is_current; then exit 0; fi

if ! is_usable; then
    if ! find_python; then
        echo "Waterflow needs Python 3.11 or newer with venv: $reason." >&2
        echo "On Debian and Ubuntu: apt install python3-venv. To name another Python: make PYTHON=/path/to/python3 ..." >&2
        exit 1
    fi
    echo "creating the virtual environment $directory with Python $version ..."
    "$python" -m venv --clear "$directory"
    echo "$root" >"$directory/.made-in"
fi

echo "installing dependencies into $directory; the first time takes about a minute ..."
rm -f "$directory"/.made-for-*
if [ "$level" = dev ]; then
    # temporal.txt contains everything in runtime.txt.
    install --require-hashes -r requirements/temporal.txt
    install --require-hashes -r requirements/dev.txt
else
    install --require-hashes -r requirements/runtime.txt
fi
# The lock files are complete and include the build backend, so nothing else is downloaded.
install --no-build-isolation --no-deps --editable ./agent --editable .
if [ "$level" = dev ]; then state_of dev >"$directory/.made-for-dev"; fi
state_of runtime >"$directory/.made-for-runtime"
