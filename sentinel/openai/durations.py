"""Durations as Go writes them, which is how OpenAI's headers have them (rule I4). Pure; cannot fail."""

from functools import lru_cache
from typing import Final

_MINUTES_MAX: Final = 512


def go_duration(ms: int) -> str:
    """`ms` as Go writes a duration: 0s, 120ms, 8.64s, 6m0s, 1h0m0.5s (rule I4); below zero is zero."""
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    # At most five digits, which `g` writes exactly, and without zeros behind them.
    return f"{_minutes(ms // 60_000)}{ms % 60_000 / 1000:g}s"


@lru_cache(maxsize=_MINUTES_MAX)
def _minutes(minutes: int) -> str:
    """The whole minutes of a duration as Go writes them; many requests in a row are told the same."""
    if minutes < 60:
        return f"{minutes}m" if minutes else ""
    return f"{minutes // 60}h{minutes % 60}m"
