"""What tells a child process to count its lines: a variable of coverage, kept from most of them (tests/conftest.py)."""

from typing import Final

VARIABLE: Final = "COVERAGE_PROCESS_CONFIG"
told: Final[dict[str, str]] = {}
