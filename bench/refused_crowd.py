"""How soon a refusal is sent, from when the application is called: `python -m bench.refused_crowd [--connections N]`.

One caller with so many connections that never rest, in this process (`bench.in_process`), without a server before the
application: what a client waits beside it, it waits for the server and the kernel. Asked twice: by a crowd that obeys
`Retry-After`, and by one that comes again at once. An answer that is neither 200 nor 429 raises AssertionError.
"""

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.in_process import BODY, InProcess, call, token_of
from loadtest.figures import Histogram, per

_SECONDS: Final = 5.0
_WARM_UP_S: Final = 2.0
# Shorter than usual, so that fewer connections are too many.
_MORE: Final = {"SENTINEL_TURN_WAIT_SECONDS": "0.05"}


class Crowd:
    """So many connections of one caller."""

    def __init__(self, sentinel: InProcess, *, obeys: bool) -> None:
        self._sentinel = sentinel
        self._obeys = obeys
        self.over = False
        self.served = 0
        self.refusals = Histogram()

    async def ask(self) -> None:
        """One connection."""
        while not self.over:
            if await self._once() == 429 and self._obeys:
                await asyncio.sleep(1)

    async def _once(self) -> int:
        begun_s, status = time.perf_counter(), 0

        async def timed(scope: Any, receive: Any, send: Any) -> None:
            async def noted(message: MutableMapping[str, Any]) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    assert status in {200, 429}, message
                    if status == 429:
                        self.refusals.add(time.perf_counter() - begun_s)
                    message = {**message, "status": 200}
                await send(message)

            await self._sentinel.application(scope, receive, noted)

        await call(timed, BODY, token_of("crowd"), b"")
        self.served += status == 200
        return status


async def measure(connections: int) -> None:
    """Print a line for each crowd."""
    with tempfile.TemporaryDirectory(prefix="crowd-") as directory:
        sentinel = InProcess(Path(directory), _MORE)
        await sentinel.open()
        try:
            await sentinel.chat(name="crowd")
            for obeys in (True, False):
                crowd = Crowd(sentinel, obeys=obeys)
                asking = [asyncio.create_task(crowd.ask()) for _ in range(connections)]
                await asyncio.sleep(_WARM_UP_S)
                crowd.served, crowd.refusals, begun_s = 0, Histogram(), time.perf_counter()
                await asyncio.sleep(_SECONDS)
                seconds = time.perf_counter() - begun_s
                crowd.over = True
                refused = len(crowd.refusals)
                p50, p99 = (crowd.refusals.percentile_ms(percent) for percent in (50, 99))
                rates = f"{per(crowd.served, seconds):.0f} served/s, {per(refused, seconds):.0f} refused/s"
                sent = f"a refusal is sent after {p50:.2f} ms (p50), {p99:.2f} ms (p99)"
                print(f"{connections} that {'obey' if obeys else 'come again at once'}: {rates}, {sent}")
                await asyncio.gather(*asking)
        finally:
            await sentinel.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.refused_crowd")
    parser.add_argument("--connections", type=int, default=400)
    # What `call` leaves waiting for the end of its client is told when it is collected, line by line.
    gc.disable()
    uvloop.run(measure(parser.parse_args().connections))


if __name__ == "__main__":
    main()
