"""Who waits in this worker for a call to Zion: a bounded line for each kind of call, let go one by one.

One task for each line asks the gate, however many wait, so that a crowd costs Redis no more than a few. Fails as
ZionUnavailableError: where the line is full, where no turn comes in time, and where Zion wants no call.
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from sentinel.ops.errors import ZionUnavailableError

_BUSY: Final = "The governance service is asked too much right now."
# When who was turned away may come again: by then the line has moved.
_RETRY_AFTER_S: Final = 1.0
# Workers that wait for the same place do not ask for it at the same time.
_JITTER_S: Final = 0.02


class Pass(msgspec.Struct, frozen=True):
    """What the gate says to one call: `why` is go, probe, or why not: rate, open (the breaker), shut (Zion said 429)."""

    id: str
    why: str
    wait_s: float

    @property
    def granted(self) -> bool:
        """Whether the call may be made; a report's result must then be told."""
        return self.why in {"go", "probe"}


class Line:
    """Calls of one kind. `ask` asks the gate for a place under an id; `waiting_max` may wait first, and as many behind them.

    `shared`: those who are first leave every second place to those behind them.
    """

    def __init__(self, ask: Callable[[str], Awaitable[Pass]], *, waiting_max: int, turn_s: float, shared: bool = False) -> None:
        self._ask = ask
        self._waiting_max = waiting_max
        self._turn_s = turn_s
        self._first: deque[asyncio.Future[None]] = deque()
        self._behind: deque[asyncio.Future[None]] = deque()
        self._shared = shared
        self._was_first = False
        self._serving: asyncio.Task[None] | None = None

    async def wait(self, *, first: bool) -> None:
        """Wait for a turn, `first` before those that are not. Raises ZionUnavailableError."""
        waiting = self._first if first else self._behind
        if len(waiting) >= self._waiting_max:
            raise ZionUnavailableError(_BUSY, retry_after_s=_RETRY_AFTER_S)
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        try:
            async with asyncio.timeout(self._turn_s):
                await turn
        except TimeoutError:
            raise ZionUnavailableError(_BUSY, retry_after_s=_RETRY_AFTER_S) from None
        finally:
            if turn in waiting:
                waiting.remove(turn)

    def close(self) -> None:
        """Ask for nobody any more."""
        if self._serving is not None:
            self._serving.cancel()

    async def _serve(self) -> None:
        """Ask the gate until nobody waits any more."""
        call_id = secrets.token_hex(8)
        try:
            while self._first or self._behind:
                said = await self._ask(call_id)
                if said.granted:
                    call_id = secrets.token_hex(8)
                    self._let_go()
                elif said.why == "shut":
                    self._send_away(said.wait_s)
                else:
                    await asyncio.sleep(said.wait_s + random.uniform(0, _JITTER_S))
        finally:
            self._serving = None

    def _let_go(self) -> None:
        """The first one goes. A place that nobody waits for any more stays unused."""
        lines = (self._first, self._behind)
        for waiting in reversed(lines) if self._shared and self._was_first else lines:
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    self._was_first = waiting is self._first
                    return

    def _send_away(self, wait_s: float) -> None:
        for waiting in (self._first, self._behind):
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_exception(ZionUnavailableError(_BUSY, retry_after_s=wait_s))
