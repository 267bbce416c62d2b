"""turns.begin: who begins while the event loop is busy. Callers take turns, and few requests begin in each pass of the loop.

On a loop that keeps up a pass takes less than a millisecond, and so do waits. On a busy one begun requests and streams go on
before new ones begin, and who has many requests waits for its own. What comes behind a request that has waited for `wait_s_max`
is refused at once: OverLimitError (429) where its caller has more than its share, OverloadedError (503) where all callers
together have too many. Short answers that no limit counts have turns of their own (`brief`). Nothing is kept but who waits, and
those are no more than there are connections.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from sentinel.ops import metrics
from sentinel.ops.errors import OverLimitError, OverloadedError, SentinelError

# Who has waited for fewer passes was held up by the loop, which stood still for a moment, not by those before it.
_PASSES_MIN: Final = 8
_RETRY_AFTER_S: Final = 1
# A pass costs as much as a request, beside those that begin in it; a request needs some ten, and notices their length.
_BEGIN_A_PASS: Final = 16
# Of these, how many are one caller's while callers share the loop.
_SHARED_A_PASS: Final = 4
# For so many passes callers share the loop after two have asked in turn, or one was refused.
_SHARED_PASSES: Final = 64
# Of short answers, which cost a fifth of a request and more: so few that who comes again at once, whatever it is told, has
# little of the loop. After a while without, many may be given at once: clients that were told to come later come together.
_BRIEF_A_PASS: Final = 2
_BRIEF_AT_ONCE: Final = 512

_Turn = asyncio.Future[None]
# When a wait began, by the clock and by the count of passes.
_Since = tuple[float, int]


class _Line:
    """The requests of one caller that wait, each since when; and since when the caller waits for its turn."""

    __slots__ = ("since", "waiting")

    def __init__(self, since: _Since) -> None:
        self.waiting: deque[tuple[_Turn, _Since]] = deque()
        self.since = since


# By caller; the first of them is next.
_Lines = OrderedDict[str, _Line]


class Turns:
    """The order in which the requests of this worker begin: at most `a_pass` in a pass of the loop, and `shared` of those
    of one caller that wait, unless that one asks alone. Of short answers `brief` are given in each, and `brief_at_once` after a
    while without. `now_s` is monotonic.
    """

    def __init__(
        self,
        *,
        wait_s_max: float,
        a_pass: int = _BEGIN_A_PASS,
        shared: int = _SHARED_A_PASS,
        brief: int = _BRIEF_A_PASS,
        brief_at_once: int = _BRIEF_AT_ONCE,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._a_pass = a_pass
        # Fewer may begin without a look for the next pass: they count for the one in which more do.
        self._few = a_pass // 2
        self._shared = shared
        # Who asked last, and until which pass callers share.
        self._last = ""
        self._shared_until = 0
        self._wait_s_max = wait_s_max
        self._now_s = now_s
        self._soon = asyncio.get_running_loop().call_soon
        self._lines: _Lines = OrderedDict()
        self._brief: _Lines = OrderedDict()
        # How many began in this pass of the loop, and in those since the last one asked for.
        self._begun = 0
        # For how many short answers is room in this pass, and whether the next one is asked for.
        self._more_room = brief
        self._room = self._room_max = brief_at_once
        self._armed = False
        self._passes = 0

    def at_once(self, external_id: str) -> bool:
        """Whether a request of this caller may begin now, as nearly all may; else it waits for `begin`."""
        if external_id != self._last:
            self._last, self._shared_until = external_id, self._passes + _SHARED_PASSES
        if self._begun >= self._a_pass or self._lines:
            return False
        self._begun += 1
        if not self._armed and self._begun >= self._few:
            self._armed = True
            self._soon(self._pass)
        return True

    async def begin(self, external_id: str) -> None:
        """Return when a request of this caller may begin. Raises OverLimitError or OverloadedError."""
        if not self.at_once(external_id):
            await self._wait(external_id)

    async def brief(self, external_id: str = "") -> None:
        """Return when a short answer may be given that no limit counts, such as a refusal; "" is whoever is not known."""
        self._shared_until = self._passes + _SHARED_PASSES
        self._arm()
        if self._room > 0 and not self._brief:
            self._room -= 1
            return
        await self._join(self._brief, external_id, (self._now_s(), self._passes))

    async def _wait(self, external_id: str) -> None:
        now = now_s, _ = self._now_s(), self._passes
        refusal = self._refusal(self._lines.get(external_id), now)
        if refusal is not None:
            raise refusal
        turn = self._join(self._lines, external_id, now)
        self._arm()
        metrics.WAITING.inc()
        try:
            await turn
        finally:
            metrics.WAITING.dec()
            metrics.TURN.observe(self._now_s() - now_s)

    def _join(self, lines: _Lines, external_id: str, now: _Since) -> _Turn:
        """The turn of one more who waits."""
        line = lines.get(external_id)
        if line is None:
            line = lines[external_id] = _Line(now)
        turn: _Turn = asyncio.get_running_loop().create_future()
        line.waiting.append((turn, now))
        return turn

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
        if self._lines:
            rounds = self._shared if self._passes < self._shared_until else self._a_pass
            self._begun = self._give(self._lines, self._a_pass, rounds)
        else:
            self._begun = 0
        if self._room < self._room_max:
            room = min(self._room + self._more_room, self._room_max)
            self._room = room - (self._give(self._brief, room, room, newest=True) if self._brief else 0)
        self._armed = bool(self._begun or self._lines or self._brief or self._room < self._room_max)
        if self._armed:
            self._soon(self._pass)

    def _give(self, lines: _Lines, most: int, rounds: int, *, newest: bool = False) -> int:
        """Give the turns of this pass, at most so many, of each caller one in a round; how many. Who has left takes none.

        The oldest of each caller is next. With `newest` it is every fourth time, and else the newest: while more come than can
        be told, who comes seldom is told at once, and nobody waits for ever.
        """
        now = self._now_s(), self._passes
        given = 0
        while lines and given < most and rounds:
            rounds -= 1
            for _ in range(min(len(lines), most - given)):
                external_id, line = next(iter(lines.items()))
                turn, _since = line.waiting.pop() if newest and (given + self._passes) % 4 else line.waiting.popleft()
                if line.waiting:
                    line.since = now
                    lines.move_to_end(external_id)
                else:
                    del lines[external_id]
                if not turn.done():
                    turn.set_result(None)
                    given += 1
        return given
