"""A simulator as a child process: its port, and its control endpoints over HTTP.

Raises what `Child` raises where it does not come up, and aiohttp's errors where a control endpoint refuses.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from sentinel.devstack.child import Child
from sentinel.devstack.claims import free_port

_START_S: Final = 30.0
_STATE_S: Final = 5.0


class Simulator:
    """`name` is zion or provider. Its port is a free one at the first start and the same ever after."""

    def __init__(self, name: str, options: Sequence[str], *, log: Path, environ: Mapping[str, str]) -> None:
        self._name = name
        self._options = options
        self._log = log
        self._environ = environ
        self.port = 0
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it listens. StackError if it does not."""
        self.port = self.port or free_port()
        module = f"sentinel.devstack.{self._name}_simulator"
        command = [sys.executable, "-m", module, "--port", str(self.port), *self._options]
        child = Child(f"The {self._name} simulator", command, log=self._log, environ=self._environ)
        self.child = child

        async def listens() -> bool:
            return f"listening on {self.url}\n" in child.output()

        await child.start(listens, timeout_s=_START_S)

    async def control(self, path: str, body: Any = None) -> Any:
        """The JSON answer of its endpoint `/simulator/{path}`: GET, or POST where there is a body."""
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.request("GET" if body is None else "POST", f"{self.url}/simulator/{path}", json=body) as response,
        ):
            return await response.json()


async def is_ok(url: str) -> bool:
    """Whether `url` answers 200 within 5 s."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_STATE_S)) as session,
            session.get(url) as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
