"""How slowly a request body may arrive. Pure: the clock is the caller's. Cannot fail."""

from typing import Final

# Before anything is asked of a body: a client may have to be told to go on, or to make up what it sends.
GRACE_S: Final = 5.0


class Pace:
    """At least `bytes_per_s` on the whole, after the first GRACE_S, and never nothing for `idle_s`; 0: the latter alone.

    `due_s` is when the next bytes must be here. What came early is good for later, up to `idle_s`.
    """

    __slots__ = ("_idle_s", "_s_per_byte", "due_s")

    def __init__(self, bytes_per_s: float, idle_s: float, now_s: float) -> None:
        self._idle_s = idle_s
        self._s_per_byte = 1 / bytes_per_s if bytes_per_s else idle_s
        self.due_s = now_s + (min(GRACE_S, idle_s) if bytes_per_s else idle_s)

    def arrived(self, count: int, now_s: float) -> None:
        """`count` bytes are here."""
        self.due_s = min(self.due_s + count * self._s_per_byte, now_s + self._idle_s)

    def paused(self, seconds: float) -> None:
        """Nobody has waited for the body for so long, so that it was not late."""
        self.due_s += seconds
