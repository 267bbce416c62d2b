"""What a request costs, counted: no change makes the path of every request longer without saying so (bench/README.md)."""

import asyncio
import json
import sys

import pytest

from bench import guard

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


async def test_no_count_has_grown() -> None:
    """A plain request, an agent's, a stream and a refusal cost what guard.json says, or less. If you meant it: `--write`."""
    known = json.loads(guard.FILE.read_text())["versions"]
    known["python"] = known["python"].rpartition(".")[0]
    now = guard.versions()
    now["python"] = now["python"].rpartition(".")[0]
    if differing := guard.differing(known, now):
        pytest.skip(f"counted with other versions: {', '.join(differing)}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.guard"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
