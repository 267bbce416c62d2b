"""The load generator, a process of its own: `python -m loadtest.client` takes a job (JSON) on stdin and prints what it saw.

A job has `mode` (loadtest.asking: `ask`; loadtest.streaming: `stream`; loadtest.odd: `odd`), `url` (with port), and what
that module says. With `watch` (process ids by name) the answer tells the processor time these took while it measured.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

from loadtest.asking import ask
from loadtest.odd import misbehave
from loadtest.streaming import stream

MODES: Final[dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]]] = {
    "ask": ask,
    "stream": stream,
    "odd": misbehave,
}


def main() -> None:
    """Do one job."""
    job = json.loads(sys.stdin.readline())

    async def work() -> dict[str, Any]:
        return await MODES[job["mode"]](job)

    print(json.dumps(uvloop.run(work())), flush=True)


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """`job` in a process of its own; what it saw. RuntimeError where it fails."""
    child = await start(job)
    return await finished(child)


async def start(job: dict[str, Any]) -> asyncio.subprocess.Process:
    """The process of a job, begun."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.client", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(job).encode() + b"\n")
    await child.stdin.drain()
    return child


async def finished(child: asyncio.subprocess.Process) -> dict[str, Any]:
    """What the process of a job saw. RuntimeError where it failed."""
    assert child.stdout is not None
    said = await child.stdout.read()
    if await child.wait() != 0:
        raise RuntimeError("the load generator failed, see above")
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main()
