"""Requests that were sent to the ledger and have nobody who waits for them: whatever they hold is given back.

Never fails: what Redis does not take now is tried again each second. Past the bound the oldest is left to its lease, which
charges it by estimate.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sentinel.errors import LedgerUnavailableError

_RETRY_S: Final = 1.0
_WAITING_MAX: Final = 10_000


class Voids:
    """Gives back in the background, by `void(request_id, external_id)`."""

    def __init__(self, void: Callable[[str, str], Awaitable[object]]) -> None:
        self._void = void
        self._waiting: dict[str, str] = {}
        self._giving: asyncio.Task[None] | None = None

    def add(self, request_id: str, external_id: str) -> None:
        """Give back what this request may hold; its tombstone also forbids an admit that is still on its way."""
        self._waiting[request_id] = external_id
        if len(self._waiting) > _WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
        if self._giving is None or self._giving.done():
            self._giving = asyncio.create_task(self._give())

    async def settled(self) -> None:
        """Wait until nothing waits."""
        if self._giving is not None:
            await asyncio.wait([self._giving])

    async def close(self) -> None:
        """End what is under way; holds that could not be given back expire by themselves."""
        if self._giving is not None:
            self._giving.cancel()
            await asyncio.wait([self._giving])

    async def _give(self) -> None:
        while self._waiting:
            request_id, external_id = next(iter(self._waiting.items()))
            try:
                await self._void(request_id, external_id)
            except LedgerUnavailableError:
                await asyncio.sleep(_RETRY_S)
            else:
                self._waiting.pop(request_id, None)
