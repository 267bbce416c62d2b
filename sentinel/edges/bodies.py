"""The memory that one worker gives to request bodies, so that many large ones at a time cannot end it (wire.md H13).

Fails by OverloadedError (503) where there is no room; nothing waits for room, since whoever waits holds a body too.
"""

from sentinel.errors import OverloadedError

_RETRY_AFTER_S = 1


class BodyBudget:
    """At most `bytes_max` bytes of request bodies at a time; `bytes_taken` are in use."""

    __slots__ = ("_bytes_max", "bytes_taken")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes_taken = 0

    def take(self, count: int) -> None:
        """Take `count` bytes, all or none. Raises OverloadedError where fewer are left."""
        if self.bytes_taken + count > self._bytes_max:
            raise OverloadedError("This gateway is busy with other large requests.", retry_after_s=_RETRY_AFTER_S)
        self.bytes_taken += count

    def give(self, count: int) -> None:
        """Give `count` bytes back that were taken."""
        assert 0 <= count <= self.bytes_taken
        self.bytes_taken -= count
