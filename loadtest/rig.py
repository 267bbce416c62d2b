"""What is measured, and all it needs: Sentinel alone on the first core, everything else on the others.

Sentinel runs as in production (`sentinel serve`, one worker), with everything on (`bench.in_process.everything_on`). What does
not come up raises `StackError`, and nothing is left running.
"""

import asyncio
import os
import resource
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp

from bench.in_process import everything_on, start_stand_in
from loadtest import nginx, processes
from sentinel.devstack import reconcile
from sentinel.devstack.child import Child
from sentinel.devstack.claims import free_port
from sentinel.devstack.comparison import NOTHING
from sentinel.devstack.redis_server import RedisServer
from sentinel.devstack.simulator import is_ok

_ROOT: Final = Path(__file__).parents[1]
_START_S: Final = 30.0
_SETTLED_S: Final = 60.0
_FILES: Final = 32_768


@dataclass(frozen=True)
class Target:
    """Something that is asked: where plain requests go, where those that stream go, and the processes behind it."""

    name: str
    url: str
    url_paced: str
    pids: tuple[int, ...]


class Rig:
    """All processes of a run, in `directory`."""

    def __init__(self, directory: Path) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.core, self.others = {cores[0]}, set(cores[1:]) or {cores[0]}
        self.directory = directory
        self._redis = RedisServer(directory / "redis")
        self._open = AsyncExitStack()
        self._zion_url = self._provider_url = ""
        self._gateway: Child | None = None
        self._gateway_url = ""
        self._nginx: nginx.Nginx | None = None

    @property
    def sentinel(self) -> Target:
        """Sentinel."""
        assert self._gateway is not None
        pids = tuple(processes.of_group(self._gateway.pid))
        return Target("Sentinel", self._gateway_url, self._gateway_url, pids)

    @property
    def nginx(self) -> Target | None:
        """The yardstick, where it is installed."""
        if self._nginx is None:
            return None
        return Target("nginx", self._nginx.url, self._nginx.url_paced, tuple(processes.of_group(self._nginx.group)))

    @property
    def direct(self) -> Target:
        """The provider itself, with nothing before it."""
        url = self._provider_url.removesuffix("/v1")
        return Target("provider itself", url, url, ())

    @property
    def redis_pids(self) -> list[int]:
        """The processes of Redis."""
        assert self._redis.child is not None
        return processes.of_group(self._redis.child.pid)

    async def __aenter__(self) -> Self:
        # Before anything starts: what is started inherits both.
        os.sched_setaffinity(0, self.others)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, most) if most > 0 else _FILES, most))
        try:
            await self._redis.start()
            self._open.push_async_callback(self._redis.stop)
            zion, self._zion_url = await start_stand_in("zion", self.directory)
            self._open.push_async_callback(zion.stop, timeout_s=5)
            provider, self._provider_url = await start_stand_in("provider", self.directory)
            self._open.push_async_callback(provider.stop, timeout_s=5)
            self._open.push_async_callback(self.stop_gateway)
            await self.start_gateway()
            await self._start_nginx()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._open.aclose()

    async def start_gateway(self, log_level: str = "error", python: str = sys.executable, **more: str) -> None:
        """Sentinel, anew, on its core, with `more` settings; on another interpreter, which needs no Sentinel."""
        await self.stop_gateway()
        port = free_port()
        self._gateway_url = f"http://127.0.0.1:{port}"
        settings = everything_on(self._redis.url, self._zion_url, self._provider_url, self.directory)
        settings |= {"SENTINEL_HOST": "127.0.0.1", "SENTINEL_PORT": str(port), "SENTINEL_LOG_LEVEL": log_level}
        settings |= {"SENTINEL_ADMIN_PORT": str(free_port()), **more}
        settings |= {} if python == sys.executable else {"PYTHONPATH": str(_ROOT)}
        command = [python, "-m", "sentinel", "serve"]
        self._gateway = Child("Sentinel", command, log=self.directory / "sentinel.log", environ={**os.environ, **settings})
        await self._gateway.start(lambda: is_ok(f"{self._gateway_url}/health/ready"), timeout_s=_START_S)
        processes.pin(self._gateway.pid, self.core)

    async def stop_gateway(self) -> None:
        """Let it drain and end."""
        if self._gateway is not None:
            await self._gateway.stop(timeout_s=40)

    async def reconciled(self) -> dict[str, Any]:
        """What was served beside what was booked, once nothing waits any more, or as it is after a minute."""
        until_s = asyncio.get_running_loop().time() + _SETTLED_S
        async with aiohttp.ClientSession(raise_for_status=True) as http:
            while True:
                # In the order of the reconcile command: what moves in between counts twice then, not as lost.
                served = await _read(http, f"{self.direct.url}/served")
                waiting = await reconcile.read_waiting(self._redis.url)
                booked = await _read(http, f"{self._zion_url}/booked")
                waits = any(
                    amounts != NOTHING for sums in (waiting.unreported, waiting.dead) for amounts in sums.values()
                ) or bool(waiting.batches)
                answer = judged(served, booked, waits=waits)
                if answer["equal"] or asyncio.get_running_loop().time() > until_s:
                    return answer
                await asyncio.sleep(0.5)

    async def _start_nginx(self) -> None:
        executable = nginx.find()
        if executable is not None:
            port = urlsplit(self._provider_url).port
            assert port is not None
            self._nginx = nginx.Nginx(executable, self.directory / "nginx", port)
            self._open.push_async_callback(self._nginx.stop)
            await self._nginx.start()
            processes.pin(self._nginx.group, self.core)


def judged(served: dict[str, int], booked: dict[str, Any], *, waits: bool) -> dict[str, Any]:
    """Served and booked side by side; `equal` where they are, nothing came twice, broke, or still waits."""
    names = ("requests", "input_tokens", "output_tokens")
    sums = {name: {"served": served[name], "booked": booked["plain"][name]} for name in names}
    twice = served["twice"]
    same = all(one["served"] == one["booked"] for one in sums.values())
    return {"equal": same and not (twice or served["broken"] or waits), "sums": sums, "served_twice": twice, "waits": waits}


async def _read(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url) as response:
        answer: dict[str, Any] = await response.json()
        return answer
