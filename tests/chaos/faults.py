"""The faults, done to a real stack and mended again.

Processes die by SIGKILL and freeze by SIGSTOP; Redis comes back with what it wrote, or with what it had a moment before; Zion
fails as its simulator can; the journals' directory goes away. Raises what the stack raises: a run whose faults cannot be mended
says nothing about Sentinel.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp

from sentinel.devstack.stack import Stack
from tests.chaos.schedule import Fault
from tests.process.test_lifecycle import _children
from tests.support import older
from tests.support.running import kill_workers

_WORKERS: Final = 2
_UP_S: Final = 30.0
_LOOK_S: Final = 0.2
# In which connections to it break.
_BREAKS_S: Final = 1.0
_ZION: Final[Mapping[str, Mapping[str, Any]]] = {
    "fails": {"status": 500},
    "is busy": {"status": 429, "retry_after": 0.5},
    "hangs": {"hang": True},
    "drops answers": {"apply_then_drop": True, "call": "batch"},
    "applies and hangs": {"apply_then_hang": True, "call": "batch"},
    "is slow": {"latency_ms": 400, "jitter_ms": 300},
}


async def all_up(stack: Stack) -> None:
    """Wait until both workers take connections: while one starts, the death of the other leaves nobody. TimeoutError."""
    async with asyncio.timeout(_UP_S), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{stack.admin_url}/health/live") as answer:
                states = [worker["status"] for worker in (await answer.json())["workers"]]
            if len(states) == _WORKERS and "starting" not in states:
                return
            await asyncio.sleep(_LOOK_S)


class Faults:
    """Does what a schedule says. `kills` are the spans of time (of the loop) in which connections to Sentinel may break."""

    def __init__(self, stack: Stack, emails: Sequence[str], seed: int) -> None:
        self._stack = stack
        self._emails = emails
        self._chance = random.Random(seed)
        self.kills: list[tuple[float, float]] = []

    async def run(self, faults: Sequence[Fault]) -> None:
        """All of them, each in its time; when this returns they are mended."""
        began_s = asyncio.get_running_loop().time()
        lanes = {fault.lane for fault in faults}
        await asyncio.gather(
            *(self._lane([fault for fault in faults if fault.lane == lane], began_s) for lane in sorted(lanes))
        )

    async def _lane(self, faults: Sequence[Fault], began_s: float) -> None:
        for fault in faults:
            await asyncio.sleep(began_s + fault.at_s - asyncio.get_running_loop().time())
            async with getattr(self, f"_{fault.lane}")(fault.kind):
                await asyncio.sleep(fault.length_s)

    @asynccontextmanager
    async def _disk(self, kind: str) -> AsyncIterator[None]:
        folder, aside = self._stack.directory / "journal", self._stack.directory / "aside"
        folder.rename(aside)
        if kind == "a file for a directory":
            with suppress(FileExistsError):
                folder.touch(exist_ok=False)
        yield
        if folder.is_file():
            folder.unlink()
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in aside.iterdir():
            path.rename(folder / path.name)
        aside.rmdir()

    @asynccontextmanager
    async def _redis(self, kind: str) -> AsyncIterator[None]:
        if kind == "frozen":
            await self._stack.kill("redis", signal.SIGSTOP)
            yield
            await self._stack.kill("redis", signal.SIGCONT)
        elif kind == "killed":
            await self._stack.kill("redis")
            yield
            await self._stack.start("redis")
        else:
            before = await older.copy(self._stack)
            yield
            await self._stack.kill("redis")
            await older.bring_back(self._stack, before)

    @asynccontextmanager
    async def _workers(self, kind: str) -> AsyncIterator[None]:
        if kind == "all killed":
            async with self._killing():
                await kill_workers(self._stack)
                yield
                await self._stack.start("sentinel")
            await all_up(self._stack)
            return
        if kind == "one killed":
            await all_up(self._stack)
        workers = _children(self._stack.child("sentinel").pid)
        worker = self._chance.choice(workers)
        if kind == "one killed":
            async with self._killing():
                os.kill(worker, signal.SIGKILL)
                yield
                await asyncio.sleep(_BREAKS_S)
            await all_up(self._stack)
        else:
            os.kill(worker, signal.SIGSTOP)
            yield
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)

    @asynccontextmanager
    async def _zion(self, kind: str) -> AsyncIterator[None]:
        if kind == "frozen":
            await self._stack.kill("zion", signal.SIGSTOP)
            yield
            await self._stack.kill("zion", signal.SIGCONT)
            return
        fault = _ZION.get(kind) or {"fail_emails": [self._chance.choice(self._emails)]}
        await self._stack.control("zion", "faults", fault)
        yield
        await self._stack.control("zion", "reset", {"faults": True})

    @asynccontextmanager
    async def _provider(self, _kind: str) -> AsyncIterator[None]:
        await self._stack.kill("provider", signal.SIGSTOP)
        yield
        await self._stack.kill("provider", signal.SIGCONT)

    @asynccontextmanager
    async def _killing(self) -> AsyncIterator[None]:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        self.kills.append((began_s, float("inf")))
        yield
        self.kills[-1] = (began_s, clock())
