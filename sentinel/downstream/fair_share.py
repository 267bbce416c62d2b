"""What all callers of a worker share, counted by caller, so that none of them can take all of it.

Cannot fail: whether there was room is the answer, and what it means to have none is for who asked to say.
"""


class Shares:
    """At most `total` in all, and `share` of it for one caller; `taken` is in use. Both may change at any time.

    Beside others a caller takes no more than stays free: at most half of what they leave. So callers who take all they can
    leave room, however many they are: each further one half as much. A caller who has taken nothing is not remembered.
    """

    __slots__ = ("_by_caller", "share", "taken", "total")

    def __init__(self, total: float, share: float) -> None:
        self.total = total
        self.share = share
        self.taken = 0
        self._by_caller: dict[str, int] = {}

    def take(self, caller: str, count: int = 1) -> bool:
        """Take `count` for `caller`, all or none. Whether there was room."""
        own, taken = self.of(caller) + count, self.taken + count
        if own > self.share or own > self.total or (own < taken and own > self.total - taken):
            return False
        self._by_caller[caller] = own
        self.taken = taken
        return True

    def of(self, caller: str) -> int:
        """What this caller has taken."""
        return self._by_caller.get(caller, 0)

    def give(self, caller: str, count: int = 1) -> None:
        """Give `count` back that were taken for `caller`."""
        left = self._by_caller[caller] - count
        assert left >= 0
        if left:
            self._by_caller[caller] = left
        else:
            del self._by_caller[caller]
        self.taken -= count
