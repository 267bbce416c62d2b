"""What well-behaved callers notice of slowhttptest: heads, bodies and reads that hardly move, by a tool that others use too.

Where no slowhttptest is on PATH, the table says so. RuntimeError where it ends by itself with an error.
"""

import asyncio
import shutil
from typing import Final

from bench.zion import token
from loadtest.profiles import Profile
from loadtest.rig import Rig
from loadtest.tables import BESIDE, OTHERS_CONNECTIONS, Table, ask_beside

_LEAD_S: Final = 2.0
_SLACK_S: Final = 30
_PATH: Final = "/v1/chat/completions"
# By what is slow: its options. Reads are 8 answers asked for in a row, of which a byte is taken each second.
_MODES: Final = {
    "heads": ["-H", "-i", "5"],
    "bodies": ["-B", "-i", "5", "-s", "1000000", "-f", "application/json"],
    "reads": ["-X", "-n", "1", "-z", "1", "-w", "1", "-y", "2", "-k", "8"],
}


def find() -> str | None:
    """The slowhttptest of this machine."""
    return shutil.which("slowhttptest")


async def slow(rig: Rig, profile: Profile) -> Table:
    """Plain completions alone, and beside each kind."""
    table = Table(
        "slow",
        "Beside slowhttptest",
        f"{OTHERS_CONNECTIONS} connections with plain completions, alone and beside so many of slowhttptest, of one caller.",
        BESIDE,
    )
    executable = find()
    for kind, options in {"": [], **_MODES}.items():
        row = f"{profile.slow} slow {kind}" if kind else "nobody"
        if kind and executable is None:
            table.rows.append([row, "not installed here", "", "", "", "", ""])
            continue
        child = None if not kind else await _start(str(executable), rig.sentinel.url, options, profile)
        try:
            await ask_beside(rig, profile, table, row)
            if child is not None and child.returncode:
                raise RuntimeError(f"slowhttptest ended with {child.returncode}")
        finally:
            if child is not None and child.returncode is None:
                child.kill()
                await child.wait()
    return table


async def _start(executable: str, url: str, options: list[str], profile: Profile) -> asyncio.subprocess.Process:
    """slowhttptest with most of its connections made; it would stop long after the row."""
    rate = max(1, round(profile.slow / _LEAD_S))
    length_s = str(round(profile.warm_up + profile.seconds + _SLACK_S))
    # It has no option for a header of ours, and writes what it is told to accept as it is.
    accepts = f"*/*\r\nAuthorization: Bearer {token('odd-slow')}"
    given = ["-c", str(profile.slow), "-r", str(rate), "-l", length_s, "-m", accepts, "-u", url + _PATH, "-v", "0"]
    child = await asyncio.create_subprocess_exec(
        executable, *options, *given, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await asyncio.sleep(_LEAD_S)
    return child
