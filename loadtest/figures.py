"""Latencies as figures. Pure; of no latencies every figure is 0."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

# Buckets grow by a twentieth each, so that a percentile is off by 5 % at most, from a microsecond to hours.
_GROWTH: Final = math.log(1.05)
_LEAST_S: Final = 1e-6


class Histogram:
    """Latencies in seconds, in buckets of 5 %; adds up over processes."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})

    @classmethod
    def of(cls, latencies_s: Iterable[float]) -> "Histogram":
        """All of these; below a microsecond is a microsecond."""
        made = cls()
        for latency_s in latencies_s:
            made.add(latency_s)
        return made

    def add(self, latency_s: float) -> None:
        """One more."""
        self.buckets[math.ceil(math.log(max(latency_s, _LEAST_S) / _LEAST_S) / _GROWTH)] += 1

    def __len__(self) -> int:
        return sum(self.buckets.values())

    def percentile_ms(self, percent: float) -> float:
        """The latency that `percent` of all do not exceed: the upper end of its bucket, in ms."""
        wanted, seen = math.ceil(len(self) * percent / 100), 0
        for bucket, count in sorted(self.buckets.items()):
            seen += count
            if seen >= wanted:
                return _LEAST_S * math.exp(bucket * _GROWTH) * 1000
        return 0.0

    def percentiles_ms(self) -> dict[str, float]:
        """The ones a table shows."""
        return {f"p{percent:g}": self.percentile_ms(percent) for percent in (50, 90, 99, 99.9)}

    def bars(self) -> list[tuple[float, float]]:
        """(upper end in ms, share of all) by factors of two, for a plot."""
        shares: Counter[int] = Counter()
        for bucket, count in self.buckets.items():
            shares[max(0, math.ceil(bucket * _GROWTH / math.log(2)))] += count
        return [(_LEAST_S * 2**power * 1000, count / len(self)) for power, count in sorted(shares.items())]


def per(amount: float, count: float) -> float:
    """`amount` by `count`, 0 of nothing."""
    return amount / count if count else 0.0
