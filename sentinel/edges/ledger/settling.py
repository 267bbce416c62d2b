"""What settle.lua is asked and answers, and where it remembers which requests are settled. Pure; cannot fail.

A request id is `req_<boot>_<sequence>`, both in hex. The truth of a request sets one bit in a bitmap of its worker's boot, one
key for every 65,536 requests: a long-lived worker's bitmaps then fall away by themselves, each two days after its last bit.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from sentinel.edges.ledger.keys import key
from sentinel.records import Caller

SETTLED_LIFE_MS: Final = 172_800_000
_TOMBSTONE_MS: Final = 600_000
_PLACES: Final = 65_536
_OUTCOMES: Final = {1: "ok", 2: "corrected", 0: "dup", -1: "unknown", 3: "held"}

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


def place(partition: int, request_id: str) -> tuple[str, int]:
    """Where a request's bit lies: (key, place in its bitmap); the place is -1 for an id that is not a worker's."""
    parts = _read_id(request_id)
    if parts is None:
        return key("t", partition), -1
    sequence = int(parts[2], 16)
    return key("t", partition, f"{parts[1]}:{sequence // _PLACES:x}"), sequence % _PLACES


def question(
    partition: int, caller: Caller, request_id: str, model: str, amounts: Iterable[int], kind: str, now_ms: int
) -> tuple[list[str], list[str | int]]:
    """KEYS and ARGV of settle.lua; `amounts` are input tokens, output tokens and requests."""
    at, who = partition, caller.external_id
    settled, position = place(at, request_id)
    keys = [key("q", at, who), key("r", at), key("z", at), key("d", at, request_id), key("a", at), settled, key("v", at, who)]
    lives = (_TOMBSTONE_MS, SETTLED_LIFE_MS)
    return keys, [now_ms, request_id, who, caller.email, model, *amounts, kind, *lives, position]


def answer(partition: int, reply: Any) -> Settled:
    """The reply of settle.lua, read."""
    return Settled(applied=reply[0] in {1, 2}, waiting=reply[1], partition=partition, why=_OUTCOMES[reply[0]])


def is_set(bitmap: bytes, position: int) -> bool:
    """Whether SETBIT has set this place; Redis counts from the highest bit of the first byte."""
    return position // 8 < len(bitmap) and bool(bitmap[position // 8] & 128 >> position % 8)
