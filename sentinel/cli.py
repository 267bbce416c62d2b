"""The command line: `sentinel serve`, `dev`, `config` and `--version`.

Exit codes: 0 done, 1 it could not start, 2 wrong usage or settings (every problem at once, by variable name).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sentinel import __version__
from sentinel.settings import Settings, SettingsError, read, shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "serve":
            return _serve(read())
        if chosen.command == "config":
            return _config(read())
    except SettingsError as error:
        for problem in error.problems:
            print(f"sentinel: {problem}", file=sys.stderr)
        return 2
    return _dev(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sentinel", description="An OpenAI-compatible proxy with limits held in advance.")
    parser.add_argument("--version", action="version", version=f"sentinel {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve, with all settings from the environment or .env")
    commands.add_parser("config", help="print the effective settings, secrets hidden")
    dev = commands.add_parser("dev", help="serve with a Redis and simulators of Zion and the provider beside it")
    dev.add_argument("--port", type=_port, default=8080, help="the port Sentinel listens on (default 8080)")
    dev.add_argument("--workers", type=_count, default=2, help="worker processes (default 2)")
    dev.add_argument("--directory", type=Path, default=Path(".sentinel"), help="data, logs and lock (default .sentinel)")
    dev.add_argument("--no-simulators", action="store_true", help="take Redis, Zion and the provider from the environment")
    return parser


def _serve(settings: Settings) -> int:
    # Here and not above: Granian is slow to import, and `config` and `--version` do without it.
    from sentinel.serve import PortInUseError, serve  # noqa: PLC0415

    try:
        serve(settings)
    except PortInUseError as error:
        print(f"sentinel: {error}; choose another with SENTINEL_PORT", file=sys.stderr)
        return 1
    return 0


def _config(settings: Settings) -> int:
    rows = shown(settings)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


def _dev(chosen: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415 - as above

    from sentinel.devstack.stack import develop  # noqa: PLC0415

    simulators = not chosen.no_simulators
    return asyncio.run(develop(port=chosen.port, workers=chosen.workers, simulators=simulators, directory=chosen.directory))


def _port(text: str) -> int:
    return _whole(text, 1, 65535)


def _count(text: str) -> int:
    return _whole(text, 1, 1024)


def _whole(text: str, low: int, high: int) -> int:
    if not text.isdigit() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
    return int(text)
