"""Whether Redis is asked at all: after failures every call is decided at once, until a probe is answered.

Cannot fail, does no I/O, and knows no time but the one it is given. A Redis that is frozen costs one deadline, not one for each
call of a request: it opens at the first call that nothing, not even another's answer, came back for.
"""

from typing import Final

_FAILURES_MAX: Final = 3


class Breaker:
    """One a worker. Times in s of the caller's monotonic clock."""

    def __init__(self) -> None:
        self.is_open = False
        self._failures = 0
        self._heard_s = float("-inf")

    def failed(self, heard_s: float, silent_since_s: float | None) -> bool:
        """A call broke, or (`silent_since_s`) was late, and had waited since then at the latest. Whether this opens it.

        At `heard_s` something last came back from Redis. That does not close it: late answers of a slow Redis would open and
        close it in turn.
        """
        if heard_s > self._heard_s:
            self._heard_s, self._failures = heard_s, 0
        self._failures += 1
        silent = silent_since_s is not None and heard_s < silent_since_s
        if self.is_open or not (silent or self._failures >= _FAILURES_MAX):
            return False
        self.is_open = True
        return True

    def open(self) -> bool:
        """Redis was not there when it was first asked. Whether this opens it."""
        opens = not self.is_open
        self.is_open = True
        return opens

    def close(self) -> None:
        """A probe was answered in time."""
        self.is_open = False
        self._failures = 0
