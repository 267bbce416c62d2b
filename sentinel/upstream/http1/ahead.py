"""One connection that is made before it is needed, since each stream keeps its own for as long as it lasts.

Never fails: where it cannot be made there is none, and whoever needs one makes it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from sentinel.upstream.http1.connection import Connection
from sentinel.upstream.http1.failures import UnreachableError


class Ahead:
    """Made by `dial` for whoever comes next within `kept_s`, and then given up."""

    def __init__(self, dial: Callable[[], Awaitable[Connection]], kept_s: float) -> None:
        self._dial = dial
        self._kept_s = kept_s
        self._made: Connection | None = None
        self._making: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Make the next one, unless it is there or being made."""
        if self._made is None and self._making is None:
            self._making = asyncio.create_task(self._make())

    def take(self) -> Connection | None:
        """The one that is there and of use, and begin the next one; None where there is none."""
        made, self._made = self._made, None
        if made is None:
            return None
        if self._expiry is not None:
            self._expiry.cancel()
        if made.lost or made.closes() or made.stirs(0):
            made.abort()
            return None
        self.begin()
        return made

    def close(self) -> None:
        """Make none any more. The one that is there is closed with all others."""
        if self._making is not None:
            self._making.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        self._made = None

    async def _make(self) -> None:
        try:
            self._made = await self._dial()
            self._expiry = asyncio.get_running_loop().call_later(self._kept_s, self._give_up)
        except UnreachableError:
            return
        finally:
            self._making = None

    def _give_up(self) -> None:
        if self._made is not None:
            self._made.abort()
            self._made = None
