#!/usr/bin/env bash
# environment.sh PYTHON DIRECTORY: an environment in DIRECTORY with the oldest pip that this Python came with.
# environment.sh PYTHON DIRECTORY LOCK [option of pip ...]: and in it what LOCK pins, installed by that pip as run_dev.sh does it.
set -euo pipefail
locks="$(dirname "${BASH_SOURCE[0]}")/../../locks"
# shellcheck source=locks/venv.sh
. "$locks/venv.sh"
"$1" -m venv --without-pip "$2"
"$1" -m pip --python "$2/bin/python" install --disable-pip-version-check --no-input --quiet --no-deps --no-compile \
    --require-hashes --requirement "$locks/oldest-pip.txt"
if [ $# -gt 2 ]; then
    install_lock "$2/bin/python" "${@:3}"
    "$2/bin/python" -m pip check --disable-pip-version-check
fi
