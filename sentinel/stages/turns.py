"""turns.begin: who begins while the event loop is busy. Callers take turns, and few requests begin in each pass of the loop.

On a loop that keeps up a pass takes less than a millisecond, and so do waits. On a busy one begun requests and streams go on
before new ones begin, and who has many requests waits for its own. What comes behind a request that has waited for `wait_s_max`
is refused at once: OverLimitError (429) where its caller has more than its share, OverloadedError (503) where all callers
together have too many. Short answers that no limit counts have turns too (`brief`). Nothing is kept but who waits, and those
are no more than there are connections.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from sentinel import metrics
from sentinel.errors import OverLimitError, OverloadedError, SentinelError

# Who has waited for fewer passes was held up by the loop, which stood still for a moment, not by those before it.
_PASSES_MIN: Final = 8
_RETRY_AFTER_S: Final = 1
# So few that a pass stays short, and so many that passes cost little beside what they begin.
_BEGIN_A_PASS: Final = 16

_Turn = asyncio.Future[None]
# When a wait began, by the clock and by the count of passes.
_Since = tuple[float, int]


class _Line:
    """The requests of one caller that wait, each since when; and since when the caller waits for its turn."""

    __slots__ = ("since", "waiting")

    def __init__(self, since: _Since) -> None:
        self.waiting: deque[tuple[_Turn, _Since]] = deque()
        self.since = since


class Turns:
    """The order in which the requests of this worker begin, at most `a_pass` in each pass of the loop. `now_s` is monotonic."""

    def __init__(self, *, wait_s_max: float, a_pass: int = _BEGIN_A_PASS, now_s: Callable[[], float] = time.monotonic) -> None:
        self._a_pass = a_pass
        self._wait_s_max = wait_s_max
        self._now_s = now_s
        self._soon = asyncio.get_running_loop().call_soon
        # By caller; the first of them is next.
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._brief: deque[_Turn] = deque()
        # In this pass of the loop: how many began, whether a short answer was given, and whether the next one is asked for.
        self._begun = 0
        self._given = False
        self._armed = False
        self._passes = 0

    def at_once(self) -> bool:
        """Whether a request may begin now, as nearly all may; else it waits for `begin`."""
        if self._begun >= self._a_pass or self._lines:
            return False
        self._begun += 1
        if not self._armed:
            self._armed = True
            self._soon(self._pass)
        return True

    async def begin(self, external_id: str) -> None:
        """Return when a request of this caller may begin. Raises OverLimitError or OverloadedError."""
        if not self.at_once():
            await self._wait(external_id)

    async def brief(self) -> None:
        """Return when a short answer may be given that no limit counts, such as a refusal."""
        self._arm()
        if not self._given and not self._brief:
            self._given = True
            return
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._brief.append(turn)
        await turn

    async def _wait(self, external_id: str) -> None:
        now = now_s, _ = self._now_s(), self._passes
        line = self._lines.get(external_id)
        refusal = self._refusal(line, now)
        if refusal is not None:
            raise refusal
        if line is None:
            line = self._lines[external_id] = _Line(now)
        turn: _Turn = asyncio.get_running_loop().create_future()
        line.waiting.append((turn, now))
        self._arm()
        metrics.WAITING.inc()
        try:
            await turn
        finally:
            metrics.WAITING.dec()
            metrics.TURN.observe(self._now_s() - now_s)

    def _refusal(self, line: _Line | None, now: _Since) -> SentinelError | None:
        """Why a request is refused that would wait in `line`, or in a new one."""
        if line is not None:
            if not self._is_long(line.waiting[0][1], now):
                return None
            metrics.REFUSALS["share"] += 1
            text = "This gateway is busy, and other requests of this account wait already. Please try again later."
            return OverLimitError(text, code="share_exceeded", retry_after_s=_RETRY_AFTER_S)
        # The first in line was the last once: so long it takes until each caller had its turn.
        first = next(iter(self._lines.values()), None)
        if first is None or not self._is_long(first.since, now):
            return None
        metrics.REFUSALS["load"] += 1
        return OverloadedError("This gateway is busy. Please try again later.", retry_after_s=_RETRY_AFTER_S)

    def _is_long(self, since: _Since, now: _Since) -> bool:
        return now[0] - since[0] > self._wait_s_max and now[1] - since[1] >= _PASSES_MIN

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._soon(self._pass)

    def _pass(self) -> None:
        """A new pass of the loop."""
        self._passes += 1
        self._begun = 0
        while self._lines and self._begun < self._a_pass:
            self._begun += self._begin_next()
        self._given = bool(self._brief)
        if self._brief:
            _give(self._brief.popleft())
        self._armed = self._begun > 0 or self._given
        if self._armed:
            self._soon(self._pass)

    def _begin_next(self) -> bool:
        """Let the next one begin; False where it has left."""
        external_id, line = next(iter(self._lines.items()))
        turn, _ = line.waiting.popleft()
        if line.waiting:
            line.since = self._now_s(), self._passes
            self._lines.move_to_end(external_id)
        else:
            del self._lines[external_id]
        return _give(turn)


def _give(turn: _Turn) -> bool:
    if turn.done():
        return False
    turn.set_result(None)
    return True
