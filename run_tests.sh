#!/usr/bin/env bash
# Everything a change must pass: set-up, lint, format, types, tests with coverage. Needs Python 3.11 or newer, and nothing else;
# with Node 20 or newer on PATH the clients of Node are tried too. The first run installs the clients (tests/clients).
# Arguments go on to pytest; where they choose some of the tests, the bound on coverage does not count.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=locks/venv.sh
. locks/venv.sh
prepare test || exit 1

bound=()
for argument in "$@"; do
    case "$argument" in
        -k* | -m* | --lf | --last-failed | --ff | --sw* | --stepwise* | --ignore* | --deselect* | --co | --collect-only | [!-]*)
            bound=(--cov-fail-under=0)
            ;;
    esac
done

say "ruff check"
.venv/bin/python -m ruff check .
say "ruff format --check"
.venv/bin/python -m ruff format --check .
say "mypy"
.venv/bin/python -m mypy
say "pytest"
# Two at a time: most of what process tests do is wait. A file stays together, and with it the stack it starts. The order is that
# of tests/conftest.py: xdist's own begins with the files of many tests, and ends with one worker waiting for the other's long ones.
exec .venv/bin/python -m pytest -n "${SENTINEL_TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder --cov=sentinel --cov-branch "${bound[@]+"${bound[@]}"}" "$@"
