"""One timer for the waits of one connection, which come one after the other. Cannot fail."""

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Calls `on_late` where the loop's time gets to `when_s`, `math.inf` for never.

    It may be moved by assignment, which costs nothing, where that is not before `rings_s`: a timer that rings too early is
    wound up again then.
    """

    __slots__ = ("_loop", "_on_late", "_timer", "rings_s", "when_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_late: Callable[[], None]) -> None:
        self.when_s = math.inf
        self._loop = loop
        self._on_late = on_late
        self._timer: asyncio.TimerHandle | None = None
        self.rings_s = math.inf

    def put(self, when_s: float) -> None:
        """Move it, earlier or later."""
        self.when_s = when_s
        if when_s < self.rings_s:
            if self._timer is not None:
                self._timer.cancel()
            self.rings_s = when_s
            self._timer = self._loop.call_at(when_s, self._ring)

    def close(self) -> None:
        """Nobody waits any more, and whoever did is let go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._on_late = _nobody

    def _ring(self) -> None:
        self._timer = None
        self.rings_s = math.inf
        if self._loop.time() < self.when_s:
            self.put(self.when_s)
        else:
            self._on_late()


def _nobody() -> None:
    """Whom nobody calls any more."""
