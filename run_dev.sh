#!/usr/bin/env bash
# Runs Sentinel on this machine, with a Redis and simulators beside it. Needs Python 3.11 or newer, and nothing else.
# Options go on to `sentinel dev`: --port, --admin-port, --workers, --directory, --no-simulators.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=locks/venv.sh
. locks/venv.sh
prepare dev || exit 1
exec .venv/bin/python -m sentinel dev "$@"
