"""What a worker has for the bodies of requests, as small or as ample as a test wants it."""

import math

from sentinel.downstream.body_budget import Bodies
from sentinel.downstream.fair_share import Shares


def bodies(
    room: float = math.inf,
    share: float = math.inf,
    *,
    arriving: float = math.inf,
    bytes_max: int = 2**40,
    small_bytes: int = 0,
    timeout_s: float = 1,
    bytes_per_s_min: int = 1,
) -> Bodies:
    """`room` bytes for all bodies, `share` of them for one caller, of whom `arriving` may be on their way."""
    return Bodies(
        Shares(room, share),
        Shares(math.inf, arriving),
        bytes_max=bytes_max,
        small_bytes=small_bytes,
        timeout_s=timeout_s,
        bytes_per_s_min=bytes_per_s_min,
    )
