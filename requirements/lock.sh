#!/bin/sh
# Writes runtime.txt, temporal.txt, dev.txt and packaging.txt: exact versions with hashes, for all supported Python versions and platforms.
# Keeps pinned versions that still fit. `lock.sh --upgrade` takes the newest versions.
set -eu

cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM

"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv

# The files name no package index: each machine uses its configured one.
compile() {
    output=$1
    shift
    "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-package waterflow --no-emit-package waterflow-agent \
        --output-file "$output" "$@" >"$scratch/out"
}

compile requirements/runtime.txt "$@" requirements/runtime.in
compile requirements/temporal.txt "$@" --constraints requirements/runtime.txt requirements/temporal.in
compile requirements/dev.txt "$@" --constraints requirements/temporal.txt --group pyproject.toml:dev
compile requirements/packaging.txt "$@" requirements/packaging.in
