"""How much is measured: the sizes of every table. `quick` takes some seven minutes, `full` several times that."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Profile:
    """The sizes. `seconds` is the measured time of one row, after `warm_up`; `events_per_s` are those of all streams."""

    seconds: float
    warm_up: float
    connections: tuple[int, ...]
    streams: tuple[int, ...]
    events_per_s: int
    bodies: tuple[int, ...]
    callers: tuple[int, ...]
    idle: int
    hanging: int
    unread: int
    slow: int
    crowd: tuple[int, ...]


KIB: Final = 1024
PROFILES: Final = {
    "quick": Profile(
        seconds=4,
        warm_up=1.5,
        connections=(1, 8, 64, 256),
        streams=(10, 100, 1000),
        events_per_s=2000,
        bodies=(KIB, 16 * KIB, 128 * KIB, 1024 * KIB),
        callers=(1, 100, 1000),
        idle=1000,
        hanging=100,
        unread=20,
        slow=200,
        crowd=(400, 1000),
    ),
    "full": Profile(
        seconds=8,
        warm_up=3,
        connections=(1, 8, 64, 256),
        streams=(10, 100, 1000, 5000),
        events_per_s=4000,
        bodies=(KIB, 4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 1024 * KIB),
        callers=(1, 100, 10_000, 100_000),
        idle=5000,
        hanging=1000,
        unread=50,
        slow=1000,
        crowd=(100, 400, 1000),
    ),
    # A minute, to see that all of it works; its figures say little.
    "smoke": Profile(
        seconds=1,
        warm_up=0.5,
        connections=(1, 8),
        streams=(10,),
        events_per_s=500,
        bodies=(KIB,),
        callers=(1, 10),
        idle=10,
        hanging=3,
        unread=2,
        slow=5,
        crowd=(50,),
    ),
}
