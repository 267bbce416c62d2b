"""`python -m tests.chaos [--seed N] [--seconds S] [--runs N] [--mode MODE]`: exit code 1 where something does not hold.

Logs, journals and what was asked (`asked.jsonl`) stay in the directory of each run, which is named.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import run, shown


def main() -> int:
    """The command; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="which schedule; a random one by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long things go wrong")
    parser.add_argument("--runs", type=int, default=1, help="so many, each with the next seed")
    parser.add_argument("--mode", choices=("closed", "sliced", "open"), default="closed", help="SENTINEL_ON_REDIS_DOWN")
    parser.add_argument("--directory", type=Path, default=None, help="where runs leave what they wrote")
    chosen = parser.parse_args()
    within = chosen.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    wrong = 0
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        directory = within / f"seed-{seed}"
        print(f"seed {seed}, {chosen.seconds:g} s, in {directory}", flush=True)
        result = asyncio.run(run(directory, seed, chosen.seconds, chosen.mode))
        (directory / "asked.jsonl").write_text(shown(result))
        print(result.said(), flush=True)
        wrong += bool(result.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
