"""Figures counted in plain memory, and handed to prometheus-client a few times a second (`hand_over`).

Its own counters write to a file under a lock each time: a fifth of what a request cost. What a worker counted since it last
handed over is lost where it is killed. To be counted on one thread only. Cannot fail a request.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import prometheus_client


class _Tally(Protocol):
    def hand_over(self) -> None:
        """Give prometheus-client what was counted since the last time."""


_tallies: Final[list[_Tally]] = []


def hand_over() -> None:
    """Bring what prometheus-client knows up to date."""
    for tally in _tallies:
        tally.hand_over()


class Rows:
    """What `count` takes for several figures at once: rows are kept as they are, and counted when all is handed over."""

    __slots__ = ("_count", "_rows", "add")

    def __init__(self, count: Callable[..., None]) -> None:
        self._count = count
        self._rows: list[tuple[Any, ...]] = []
        self.add: Final = self._rows.append
        # First, so that what a row counts is handed over with it.
        _tallies.insert(0, self)

    def hand_over(self) -> None:
        """See `hand_over`."""
        rows = self._rows.copy()
        self._rows.clear()
        for row in rows:
            self._count(*row)


class Count:
    """A number that only grows."""

    __slots__ = ("_child", "_since")

    def __init__(self, child: prometheus_client.Counter) -> None:
        self._child = child
        self._since: float = 0
        _tallies.append(self)

    def inc(self, amount: float = 1) -> None:
        """Count."""
        self._since += amount

    def hand_over(self) -> None:
        """See `hand_over`."""
        if self._since:
            self._child.inc(self._since)
            self._since = 0


class Level:
    """A number that rises and falls."""

    __slots__ = ("_changed", "_child", "_now")

    def __init__(self, child: prometheus_client.Gauge) -> None:
        self._child = child
        self._now: float = 0
        self._changed = False
        _tallies.append(self)

    def inc(self) -> None:
        """One more."""
        self._now += 1
        self._changed = True

    def dec(self) -> None:
        """One less."""
        self._now -= 1
        self._changed = True

    def set(self, value: float) -> None:
        """So many now: told at once, since what is set is set rarely, and says how things stand."""
        self._now = value
        self._changed = False
        self._child.set(value)

    def hand_over(self) -> None:
        """See `hand_over`."""
        if self._changed:
            self._child.set(self._now)
            self._changed = False


class Spread:
    """How large values are, in buckets: one holds what is no more than its bound."""

    __slots__ = ("_bucket_of", "_child", "_values", "observe")

    def __init__(self, child: prometheus_client.Histogram, bounds: Sequence[float]) -> None:
        self._child: Any = child
        self._bucket_of = partial(bisect_left, bounds)
        self._values: list[float] = []
        # Counts a value: kept as it is, and put into its bucket when all are, many at a time.
        self.observe: Final = self._values.append
        _tallies.append(self)

    def hand_over(self) -> None:
        """See `hand_over`. The library takes values one at a time, so its buckets are filled by hand."""
        if not self._values:
            return
        self._child._sum.inc(sum(self._values))
        for bucket, count in Counter(map(self._bucket_of, self._values)).items():
            self._child._buckets[bucket].inc(count)
        self._values.clear()


class Counts(defaultdict[str | tuple[str, ...], float]):
    """Numbers that only grow, by label values: the one value of a family with one label, a tuple where it has several.

    What a key holds is what was counted since the last handing over; one that was only set to 0 is shown from then on.
    """

    def __init__(self, family: prometheus_client.Counter) -> None:
        super().__init__(float)
        self.family = family
        _tallies.append(self)

    def hand_over(self) -> None:
        """See `hand_over`."""
        for values, since in self.items():
            (self.family.labels(values) if isinstance(values, str) else self.family.labels(*values)).inc(since)
        self.clear()


class Spreads(dict[str, Spread]):
    """A Spread for each value of the one label, made when it is first asked for."""

    def __init__(self, family: prometheus_client.Histogram, bounds: Sequence[float]) -> None:
        super().__init__()
        self._family = family
        self._bounds = bounds

    def __missing__(self, value: str) -> Spread:
        self[value] = spread = Spread(self._family.labels(value), self._bounds)
        return spread
