"""Which fault comes when: the same seed is the same schedule. Pure.

Each lane has one fault at a time, and lanes overlap as they like, but for what is documented to lose bills: while the journals
are gone, neither Redis nor a worker dies (docs/operations.md).
"""

import random
from dataclasses import dataclass
from typing import Final

# By lane and kind: how long it lasts, in s.
LANES: Final = {
    "disk": {"journals moved away": (0.5, 2.0), "a file for a directory": (0.5, 2.0)},
    "redis": {"frozen": (0.1, 3.0), "killed": (0.0, 2.0), "loses moments": (0.1, 0.9)},
    "workers": {"one killed": (0.0, 0.0), "one frozen": (0.2, 7.0), "all killed": (0.0, 1.0)},
    "zion": {
        "fails": (0.3, 4.0),
        "is busy": (0.3, 2.0),
        "hangs": (0.3, 3.0),
        "drops answers": (0.3, 4.0),
        "applies and hangs": (0.3, 3.0),
        "is slow": (0.3, 4.0),
        "refuses a user": (0.3, 2.0),
        "frozen": (0.1, 2.0),
    },
    "provider": {"frozen": (0.1, 1.5)},
}
_PAUSE_S: Final = {"disk": (8.0, 40.0), "redis": (1.0, 8.0), "workers": (2.0, 8.0), "zion": (0.5, 5.0), "provider": (3.0, 15.0)}
# The server takes a second death within 5.5 s of the start of a worker for a crash loop, and ends.
_NEXT_KILL_S: Final = 11.0
_APART_S: Final = 3.0


@dataclass(frozen=True)
class Fault:
    """Something goes wrong `at_s` after the start, and is mended `length_s` later."""

    at_s: float
    lane: str
    kind: str
    length_s: float

    @property
    def end_s(self) -> float:
        """When it is mended."""
        return self.at_s + self.length_s


def plan(seed: int, seconds: float) -> list[Fault]:
    """The faults that begin within `seconds`, in order."""
    chance = random.Random(seed)
    lanes = {lane: list(_lane(chance, lane, seconds)) for lane in LANES}
    faults = [fault for lane in lanes.values() for fault in lane if lane is lanes["disk"] or _bearable(fault, lanes["disk"])]
    return sorted(faults, key=lambda fault: fault.at_s)


def _lane(chance: random.Random, lane: str, seconds: float) -> list[Fault]:
    faults: list[Fault] = []
    at_s = chance.uniform(0.5, sum(_PAUSE_S[lane]) / 2)
    killed_s = -_NEXT_KILL_S
    while at_s < seconds:
        kinds = [kind for kind in LANES[lane] if "killed" not in kind or lane == "redis" or at_s - killed_s >= _NEXT_KILL_S]
        kind = chance.choice(kinds)
        fault = Fault(at_s, lane, kind, chance.uniform(*LANES[lane][kind]))
        faults.append(fault)
        killed_s = fault.end_s if "killed" in kind else killed_s
        at_s = fault.end_s + chance.uniform(*_PAUSE_S[lane])
    return faults


def _bearable(fault: Fault, disk: list[Fault]) -> bool:
    """Whether it may happen at this time."""
    if fault.lane not in {"redis", "workers"} or fault.kind in {"frozen", "one frozen"}:
        return True
    return all(fault.end_s + _APART_S < gone.at_s or fault.at_s > gone.end_s + _APART_S for gone in disk)
