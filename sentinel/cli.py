"""The command line: `sentinel serve`, `dev`, `config`, `usage` and `--version`.

Exit codes: 0 done, 1 it could not (start, reach Redis, find what was asked for), 2 wrong usage or settings (every problem at
once, by variable name).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sentinel import __version__
from sentinel.ops.settings import Settings, SettingsError, read, shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "serve":
            return _serve(read())
        if chosen.command == "config":
            return _config(read())
        if chosen.command == "usage":
            return _usage(chosen)
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
    usage = commands.add_parser(
        "usage",
        usage="sentinel usage [CALLER | requeue ID | drop ID] [--rows N] [--json]",
        help="show what callers have used and what waits for Zion; requeue or drop what Zion refused",
    )
    usage.add_argument("words", nargs="*", help="one caller's external id, or what to do with a dead letter; without it, all")
    usage.add_argument("--rows", type=_rows, default=1000, help="rows of each list at most (default 1000)")
    usage.add_argument("--json", action="store_true", help="one JSON object (docs/usage.md)")
    dev = commands.add_parser("dev", help="serve with a Redis and simulators of Zion and the provider beside it")
    dev.add_argument("--port", type=_port, default=8080, help="the port Sentinel listens on (default 8080)")
    dev.add_argument("--admin-port", type=_port, help="the port of metrics and health (default: --port and one)")
    dev.add_argument("--workers", type=_count, default=2, help="worker processes (default 2)")
    dev.add_argument("--directory", type=Path, default=Path(".sentinel"), help="data, logs and lock (default .sentinel)")
    dev.add_argument("--no-simulators", action="store_true", help="take Redis, Zion and the provider from the environment")
    return parser


def _serve(settings: Settings) -> int:
    # Here and not above: Granian is slow to import, and `config` and `--version` do without it.
    from sentinel.ops.vocab import VocabError  # noqa: PLC0415
    from sentinel.serve import AddressError, serve  # noqa: PLC0415

    try:
        serve(settings)
    except (AddressError, VocabError) as error:
        print(f"sentinel: {error}", file=sys.stderr)
        return 1
    return 0


def _config(settings: Settings) -> int:
    rows = shown(settings)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


def _usage(chosen: argparse.Namespace) -> int:
    from sentinel.admin import usage_report  # noqa: PLC0415 - as above
    from sentinel.ops import logs  # noqa: PLC0415 - as above
    from sentinel.ops.errors import LedgerUnavailableError  # noqa: PLC0415

    words = chosen.words
    changes = bool(words) and words[0] in {"requeue", "drop"}
    if len(words) != 2 if changes else len(words) > 1:
        print("sentinel: usage takes nothing, one CALLER, requeue ID or drop ID", file=sys.stderr)
        return 2
    settings = read()
    logs.start("error")
    try:
        if changes:
            print(usage_report.change(settings, *words))
        else:
            caller = words[0] if words else None
            print(usage_report.report(settings, caller, rows_max=chosen.rows, as_json=chosen.json))
    except LedgerUnavailableError as error:
        print(f"sentinel: Redis does not answer: {error.__cause__ or error}", file=sys.stderr)
        return 1
    except usage_report.NotFoundError as error:
        print(f"sentinel: {error}", file=sys.stderr)
        return 1
    return 0


def _dev(chosen: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415 - as above

    from sentinel.devstack.develop import develop  # noqa: PLC0415

    return asyncio.run(
        develop(
            port=chosen.port,
            admin_port=chosen.admin_port or chosen.port % 65535 + 1,
            workers=chosen.workers,
            simulators=not chosen.no_simulators,
            directory=chosen.directory,
        )
    )


def _port(text: str) -> int:
    return _whole(text, 1, 65535)


def _count(text: str) -> int:
    return _whole(text, 1, 1024)


def _rows(text: str) -> int:
    return _whole(text, 1, 1_000_000)


def _whole(text: str, low: int, high: int) -> int:
    if not text.isdigit() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
    return int(text)
