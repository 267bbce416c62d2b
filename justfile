# The same few verbs as the scripts.

# Redis, simulators and Sentinel on ports 8080 and 8081.
dev *options:
    ./run_dev.sh {{options}}

# Everything that CI checks; with arguments, what pytest is given.
test *options:
    ./run_tests.sh {{options}}

# Format, lint, types and the rules of the house.
check:
    .venv/bin/python -m ruff format .
    .venv/bin/python -m ruff check .
    .venv/bin/python -m mypy
    .venv/bin/python -m pytest -q tests/rules

# The documents that follow from code.
documents:
    .venv/bin/python -m tests.support.documents

# The parts, measured.
bench *options:
    ./run_bench.sh {{options}}

# A whole worker under load.
load *options:
    .venv/bin/python -m loadtest.run {{options}}
