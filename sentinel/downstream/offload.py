"""Work that takes long, done beside the event loop: one at a time in a worker, of one caller after the other; or, where it
lets go of the interpreter by itself, one at a time of each caller.

A thread that computes and the loop take the interpreter from each other; several threads would keep it from the loop for as
many turns. Fails by what the work itself raises. What waits here is bounded by the memory that its bodies may take.
"""

import asyncio
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

# While such work is done, it gives the interpreter to the loop after so long; usually Python waits ten times as long.
_SWITCH_S: Final = 0.0005

_Turn = asyncio.Future[None]


class Offload:
    """Whose turn it is. To be used by one loop. `on_busy` is called when work begins after none, `on_idle` when all has ended;
    by default they see to it that the loop gets the interpreter sooner meanwhile.
    """

    def __init__(self, on_busy: Callable[[], object] | None = None, on_idle: Callable[[], object] | None = None) -> None:
        self._busy = False
        self._on_busy = on_busy or partial(sys.setswitchinterval, _SWITCH_S)
        self._on_idle = on_idle or partial(sys.setswitchinterval, sys.getswitchinterval())
        self._lines: OrderedDict[str, deque[_Turn]] = OrderedDict()

    async def do(self, caller: str, work: Callable[..., _T], *arguments: Any) -> _T:
        """What `work` returns, done in a thread when it is this caller's turn."""
        await self._begin(caller)
        # Shielded: whoever is told to stop waiting cannot stop a thread, and nobody else may begin before it has ended.
        running = asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))
        running.add_done_callback(self._ended)
        return await asyncio.shield(running)

    async def _begin(self, caller: str) -> None:
        if not self._busy:
            self._busy = True
            self._on_busy()
            return
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()
            raise

    def _ended(self, running: asyncio.Future[Any]) -> None:
        if not running.cancelled():
            running.exception()  # read here, so that one whose asker has left is not reported as unread
        self._next()

    def _next(self) -> None:
        """The next begins, of the caller whose last turn is longest ago."""
        while self._lines:
            caller, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[caller] = line
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False
        self._on_idle()


class OneOfEach:
    """Work in threads of which one caller has one at a time, and others have theirs beside it. To be used by one loop."""

    def __init__(self) -> None:
        # Of each caller that has work: whose turn it is.
        self._asides: dict[str, Offload] = {}

    async def do(self, caller: str, work: Callable[..., _T], *arguments: Any) -> _T:
        """What `work` returns, done in a thread when nothing else of this caller is."""
        aside = self._asides.get(caller)
        if aside is None:
            aside = self._asides[caller] = Offload(on_busy=_nothing, on_idle=partial(self._asides.pop, caller))
        return await aside.do(caller, work, *arguments)


def _nothing() -> None:
    """What lets go of the interpreter by itself needs no help."""
