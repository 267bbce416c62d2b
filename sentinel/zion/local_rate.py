"""What one process may ask of Zion while Redis, and with it the gate of the fleet, is away: its share of the rate.

Cannot fail and does no I/O; times are monotonic seconds. Where there are more processes than calls a second, a share is one
call in more than a second, so that the fleet keeps its rate over that time, and not in each second.
"""

from collections import deque
from typing import Final

# As in gate.lua: a second as Zion sees it.
_WINDOW_S: Final = 1.05


class Share:
    """The share of one of `processes`; calls for never-seen tokens get half of it, at least one call."""

    def __init__(self, requests_per_s: int, processes: int) -> None:
        self._calls_max = max(1, requests_per_s // processes)
        self._new_max = max(1, self._calls_max // 2)
        self._window_s = _WINDOW_S * max(1.0, processes / requests_per_s)
        self._calls: deque[float] = deque(maxlen=self._calls_max)
        self._new: deque[float] = deque(maxlen=self._new_max)

    def ask(self, kind: str, now_s: float) -> float:
        """0 where a call of `kind` may go now, and is counted; else the seconds until it may ask again."""
        counted = [self._calls, self._new] if kind == "new" else [self._calls]
        # Full, the oldest of each window says when there is room.
        wait_s = max((calls[0] + self._window_s - now_s for calls in counted if len(calls) == calls.maxlen), default=0.0)
        if wait_s > 0:
            return wait_s
        for calls in counted:
            calls.append(now_s)
        return 0.0
