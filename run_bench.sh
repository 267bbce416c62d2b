#!/usr/bin/env bash
# Measures the parts of Sentinel on this machine (bench/README.md) and writes .bench/TIME-COMMIT.json. Needs Python 3.11 or 3.12,
# or a Redis on PATH. Nothing is asserted of a time, and nothing of this runs in CI. Arguments go on to pytest: -k, a file,
# --benchmark-compare FILE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=locks/venv.sh
. locks/venv.sh
prepare bench || exit 1

mkdir -p .bench
json=".bench/$(date -u +%Y%m%dT%H%M%SZ)-$(git rev-parse --short HEAD 2>/dev/null || echo none).json"
say "writing $json"
chosen=bench
for argument in "$@"; do
    case "$argument" in bench/*) chosen="" ;; esac
done
# shellcheck disable=SC2086 - nothing is no argument
exec .venv/bin/python -m pytest -c bench/pytest.ini --rootdir . --benchmark-json="$json" $chosen "$@"
