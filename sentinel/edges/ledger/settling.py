"""What settle.lua answers, and where it remembers which requests are settled. Pure; cannot fail.

A request id is `req_<boot>_<sequence>`, both in hex. The truth of a request sets one bit in a bitmap of its worker's boot, one
key for every 65,536 requests: a long-lived worker's bitmaps then fall away by themselves, each two days after its last bit.
"""

import re
from typing import Final

import msgspec

from sentinel.edges.ledger.keys import Partition

SETTLED_LIFE_MS: Final = 172_800_000
OUTCOMES: Final = {1: "ok", 2: "corrected", 0: "dup", -1: "unknown", 3: "held"}
_PLACES: Final = 65_536

_read_id: Final = re.compile(r"req_([0-9a-f]{16})_([0-9a-f]{1,12})").fullmatch


class Settled(msgspec.Struct, frozen=True):
    """What settle.lua did: `why` is "ok", "corrected" (an expiry charge became the truth), "dup", "unknown" (no such hold) or
    "held" (a hold stands, whose lease will end).

    `waiting` is how many sums of `partition` are unreported now.
    """

    applied: bool
    waiting: int
    partition: int
    why: str


def place(partition: Partition, request_id: str) -> tuple[str, int]:
    """Where a request's bit lies: (key, place in its bitmap); the place is -1 for an id that is not a worker's."""
    parts = _read_id(request_id)
    if parts is None:
        return partition.settled, -1
    boot, digits = parts.groups()
    sequence = int(digits, 16)
    return f"{partition.settled}{boot}:{sequence // _PLACES:x}", sequence % _PLACES


def is_set(bitmap: bytes, position: int) -> bool:
    """Whether SETBIT has set this place; Redis counts from the highest bit of the first byte."""
    return position // 8 < len(bitmap) and bool(bitmap[position // 8] & 128 >> position % 8)
