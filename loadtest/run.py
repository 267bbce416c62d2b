"""The runner: `python -m loadtest.run [--profile quick] [--only connections,streams] [--publish] [--note TEXT]`.

Starts everything itself, measures, reconciles, and keeps the run as .loadtest/TIME.json. With `--publish` it writes
docs/performance.md and its plots. Exit codes: 0; 1 for a run with failures, which is never published; 2 where something does
not start. Linux only, since it reads /proc and chooses cores.
"""

import argparse
import asyncio
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench import machine
from loadtest import interpreters, nginx, page, peers, processes, wrk
from loadtest.crowd import crowd
from loadtest.profiles import PROFILES, Profile
from loadtest.rig import Rig
from loadtest.slow import slow
from loadtest.stream_table import streams
from loadtest.tables import Table, beside, bodies, callers, connections, half_load, logging, refusals
from sentinel.devstack.child import StackError

_ROOT: Final = Path(__file__).parents[1]
_TABLES: Final = {
    "connections": connections,
    "logging": logging,
    "streams": streams,
    "bodies": bodies,
    "callers": callers,
    "refusals": refusals,
    "beside": beside,
    "crowd": crowd,
    "slow": slow,
    "interpreters": interpreters.interpreters,
    "peers": peers.peers,
}


async def measure(profile: Profile, only: list[str]) -> tuple[list[Table], dict[str, Any]]:
    """The tables that were chosen, one after the other, and how served and booked compare after them."""
    tables: list[Table] = []
    with tempfile.TemporaryDirectory(prefix="load-") as directory:
        async with Rig(Path(directory)) as rig:
            for name in only:
                tables.append(await _TABLES[name](rig, profile))
                _tell(tables[-1])
                if name == "connections":
                    tables.append(await half_load(rig, profile, tables[-1].figures["rate Sentinel"]))
                    _tell(tables[-1])
            reconciled = await rig.reconciled()
    return tables, reconciled


def _tell(table: Table) -> None:
    print(f"\n{table.title}\n{page.grid(table.columns, table.rows)}", flush=True)
    print("\n".join(f"FAILED: {failure}" for failure in table.failures), flush=True)


def _notes(profile: str, said: list[str], busy: int) -> list[str]:
    """What a reader must know first."""
    notes = [*said]
    if profile != "full":
        notes.append(f"The profile is `{profile}`: seconds a row, and not all sizes.")
    if busy > 1:
        notes.append(f"The machine was busy: {busy} threads wanted to run before anything was started.")
    if nginx.find() is None:
        notes.append("nginx is not installed here, so there is no yardstick.")
    elif wrk.find() is None:
        notes.append("wrk is not installed here: nginx was asked by Python, which is slower than nginx.")
    return notes


def _keep(run: dict[str, Any]) -> Path:
    directory = _ROOT / ".loadtest"
    directory.mkdir(exist_ok=True)
    file = directory / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    file.write_text(json.dumps(run, indent=1), encoding="utf-8")
    return file


def _publish(run: dict[str, Any]) -> int:
    try:
        files = page.render(run)
    except page.NotPublishedError as error:
        print(f"not published, since the run has failures:\n{error}", file=sys.stderr)
        return 1
    for name, text in files.items():
        file = _ROOT / "docs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"written: docs/{name}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.run")
    parser.add_argument("--profile", choices=PROFILES, default="quick", help="how much is measured (default quick)")
    parser.add_argument("--quick", dest="profile", action="store_const", const="quick", help="the same as --profile quick")
    parser.add_argument("--only", default=",".join(_TABLES), help=f"some of {','.join(_TABLES)}, in this order")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.md, unless the run has failures")
    parser.add_argument("--note", action="append", default=[], help="a sentence that the page begins with; may be repeated")
    parser.add_argument("--render", type=Path, metavar="FILE", help="publish a run that was kept, without measuring anew")
    chosen = parser.parse_args()
    if unknown := set(chosen.only.split(",")) - set(_TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    return chosen


def main() -> int:
    """The command; the result is the exit code."""
    chosen = _arguments()
    if platform.system() != "Linux":
        print("loadtest: the runner reads /proc and chooses cores, which only Linux has", file=sys.stderr)
        return 2
    if chosen.render:
        return _publish(json.loads(chosen.render.read_text(encoding="utf-8")))
    notes = _notes(chosen.profile, chosen.note, processes.running() - 1)
    described = machine.describe()
    begun_s = time.monotonic()
    try:
        peers.find()  # a wrong path is told now, not after all other tables
        tables, reconciled = asyncio.run(measure(PROFILES[chosen.profile], chosen.only.split(",")))
    except StackError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    described["took"] = f"{time.monotonic() - begun_s:.0f} s, until {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}"
    described["load after"] = machine.load()
    run = {
        "profile": chosen.profile,
        "notes": notes,
        "machine": described,
        "tables": [asdict(table) for table in tables],
        "reconciled": reconciled,
    }
    print(f"\nserved and booked: {json.dumps(reconciled)}\nkept as {_keep(run)}")
    if chosen.publish:
        return _publish(run)
    return 1 if any(table.failures for table in tables) or not reconciled["equal"] else 0


if __name__ == "__main__":
    sys.exit(main())
