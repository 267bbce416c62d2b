#!/usr/bin/env bash
# Renews every lock: dev.txt, test.txt and bench.txt from pyproject.toml, any other NAME.txt from the NAME.in beside it, and each
# package-lock.json from its package.json. Each is a closed set for every Python and platform, without a registry's address.
# What is pinned stays as long as it fits; arguments go on to uv: `--upgrade` takes the newest, `--upgrade-package NAME` one of it.
# Needs Python 3.11 or newer, npm and the package registries. Where it fails, `git checkout locks` brings back what was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=locks/venv.sh
. locks/venv.sh

UV_VERSION=0.13.9

python="$(find_python)" || exit 1
command -v npm >/dev/null 2>&1 || { say "the locks of Node are renewed by npm, and none is on PATH: install Node 20 or newer."; exit 1; }
tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
"$python" -m venv "$tools"
"$tools/bin/python" -m pip install --disable-pip-version-check --no-input --quiet "uv==$UV_VERSION"

# compile OUTPUT REQUIREMENTS [option of uv ...]
compile() {
    say "$1"
    "$tools/bin/uv" pip compile --quiet --output-file "$1" --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header "${@:2}"
}

compile locks/bench.txt pyproject.toml --extra dev --extra test --extra bench "$@"
# The smaller sets are parts of the largest, with the same versions.
compile locks/test.txt pyproject.toml --extra dev --extra test --constraint locks/bench.txt "$@"
compile locks/dev.txt pyproject.toml --extra dev --constraint locks/bench.txt "$@"
for file in locks/*.in locks/clients/*.in; do
    compile "${file%.in}.txt" "$file" "$@"
done

command=install
for argument in "$@"; do
    case "$argument" in -U | --upgrade) command=update ;; esac
done
for file in locks/clients/*/package.json; do
    say "${file%.json}-lock.json"
    (cd "$(dirname "$file")" && npm "$command" --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit \
        --no-fund --no-update-notifier --loglevel=error)
done
