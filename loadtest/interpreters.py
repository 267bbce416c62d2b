"""Sentinel on the interpreter of production beside the machine's own: images have one with profile-guided optimisation.

SENTINEL_BENCH_PYTHON names it; else it is the system's, as Debian's is built so. It gets an environment of its own by the lock,
below .loadtest/, which git ignores; that is made once. What does not work raises StackError.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bench import machine
from loadtest import processes
from loadtest.profiles import Profile
from loadtest.rig import Rig
from loadtest.stream_table import stream, summed
from loadtest.tables import Table, ask
from sentinel.devstack.child import StackError

_ROOT: Final = Path(__file__).parents[1]
_LOCK: Final = _ROOT / "locks" / "dev.txt"
_OF_THE_SYSTEM: Final = Path("/usr/bin/python3")
_STREAMS: Final = 100
_INSTALL_S: Final = 600


def find(named: str) -> Path | None:
    """The interpreter that is named, else the system's, where that is another than this one and new enough."""
    if named:
        return Path(named)
    if not _OF_THE_SYSTEM.exists() or _OF_THE_SYSTEM.resolve() == Path(sys.executable).resolve():
        return None
    words = machine.interpreter(str(_OF_THE_SYSTEM)).partition(",")[0].split()
    version = tuple(int(part) for part in words[-1].split(".")[:2] if part.isdigit())
    return _OF_THE_SYSTEM if version >= (3, 11) else None


def prepare(python: Path) -> Path:
    """The interpreter of an environment that `python` made, with what the lock pins."""
    described = machine.interpreter(str(python))
    stamp = hashlib.sha256(_LOCK.read_bytes() + described.encode()).hexdigest()[:16]
    directory = _ROOT / ".loadtest" / "python" / stamp
    made, done = directory / "bin" / "python", directory / ".done"
    if done.exists():
        return made
    # A Python of Debian has no pip unless it is asked for: this one's installs there.
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(made),
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
    )
    for command in (
        (str(python), "-m", "venv", "--clear", "--without-pip", str(directory)),
        (*pip, "--no-deps", "--require-hashes", "--requirement", str(_LOCK)),
    ):
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
        if said.returncode:
            raise StackError(f"{described}: no environment: {said.stderr.strip()[-400:]}")
    done.touch()
    return made


async def interpreters(rig: Rig, profile: Profile) -> Table:
    """The same of both: a column each."""
    table = Table(
        "interpreters",
        "By interpreter",
        f"The same Sentinel on both; streams are {_STREAMS} at a time. Every other table is of the first, the machine's own. "
        "`first event` is from the request on a new connection.",
        ["", machine.interpreter()],
    )
    columns = [await _column(table, rig, profile, "machine")]
    if (other := find(os.environ.get("SENTINEL_BENCH_PYTHON", ""))) is not None:
        made = await asyncio.to_thread(prepare, other)
        await rig.start_gateway(python=str(made))
        table.columns += [machine.interpreter(str(other)), "by the first"]
        columns.append(await _column(table, rig, profile, "production"))
        await rig.start_gateway()
    for name, value in columns[0].items():
        others = [column[name] for column in columns[1:]]
        table.rows.append([name, value, *others, *(other / value if value else "" for other in others)])
    return table


async def _column(table: Table, rig: Rig, profile: Profile, kind: str) -> dict[str, float]:
    """What was seen of one, by the name of the row; also as figures, with whose they are."""
    target = rig.sentinel
    idle = processes.rss_bytes(list(target.pids)) / 2**20
    alone = await ask(rig, target, profile, connections=1)
    many = await ask(rig, target, profile, connections=64)
    seen: dict[str, Any] = await stream(target, profile, _STREAMS)
    for row, answers in (("1 connection", alone), ("64 connections", many), ("streams", seen)):
        table.failed(f"{row}, {kind}", answers)
    events = summed(seen)
    table.figures |= {f"cpu {kind}": many["cpu_us"], f"redis {kind}": many["redis_us"], f"idle {kind}": idle}
    return {
        "plain, 1 connection: p50 ms": alone["ms"]["p50"],
        "plain, 1 connection: CPU µs/request": alone["cpu_us"],
        "plain, 64 connections: requests/s": many["rate"],
        "plain, 64 connections: CPU µs/request": many["cpu_us"],
        "plain, 64 connections: Redis µs/request": many["redis_us"],
        "streams: CPU µs/event": events.cpu_us,
        "streams: first event p50 ms": events.opened.percentile_ms(50),
        "idle worker: MiB": idle,
    }
