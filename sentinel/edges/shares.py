"""What all callers of a worker share, counted by caller, so that none of them can take all of it.

Cannot fail: whether there was room is the answer, and what it means to have none is for who asked to say.
"""


class Shares:
    """At most `total` in all, and `share` of it for one caller; `taken` is in use. Both may change at any time.

    A caller who has taken nothing is not remembered.
    """

    __slots__ = ("_by_caller", "share", "taken", "total")

    def __init__(self, total: float, share: float) -> None:
        self.total = total
        self.share = share
        self.taken = 0
        self._by_caller: dict[str, int] = {}

    def take(self, caller: str, count: int = 1) -> bool:
        """Take `count` for `caller`, all or none. Whether there was room."""
        own = self._by_caller.get(caller, 0) + count
        if own > self.share or self.taken + count > self.total:
            return False
        self._by_caller[caller] = own
        self.taken += count
        return True

    def give(self, caller: str, count: int = 1) -> None:
        """Give `count` back that were taken for `caller`."""
        left = self._by_caller[caller] - count
        assert left >= 0
        if left:
            self._by_caller[caller] = left
        else:
            del self._by_caller[caller]
        self.taken -= count
