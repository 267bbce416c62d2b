"""The ledger's settlements: how a request ends there, and where Redis remembers that it did. The half of Ledger for bills.

A request id is `req_<boot>_<sequence>`, both in hex. The truth of a request sets one bit in a bitmap of its worker's boot, one
key for every 65,536 requests: a long-lived worker's bitmaps then fall away by themselves, each two days after its last bit.
Every method raises LedgerUnavailableError, and may be called again: a request is settled once, however often that is told.
"""

import asyncio
import re
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from sentinel.ledger.keys import Partition, account_keys
from sentinel.ledger.payer import who
from sentinel.ledger.redis.connection import Call
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.ops.records import Bill, Caller, Entry, Hold

SETTLED_LIFE_MS: Final = 172_800_000
OUTCOMES: Final = {1: "ok", 2: "corrected", 0: "dup", -1: "unknown", 3: "held"}
_PLACES: Final = 65_536
# Told in one call: Redis does nothing else meanwhile, and Lua takes no more than some thousand arguments.
_TOGETHER_MAX: Final = 128
_APPLIED: Final = ord("1")

_read_id: Final = re.compile(r"(req_([0-9a-f]{16})_)([0-9a-f]{1,12})").fullmatch
_pack: Final = struct.Struct("<4d").pack


class Settled(msgspec.Struct, frozen=True):
    """What settle.lua did: `why` is "ok", "corrected" (an expiry charge became the truth), "dup", "unknown" (no such hold) or
    "held" (a hold stands, whose lease will end).

    `waiting` is how many sums of `partition` are unreported now.
    """

    applied: bool
    waiting: int
    partition: int
    why: str


class Together(msgspec.Struct, eq=False):
    """Requests that are settled by one `call` of settle_all.lua: `positions` are theirs in what Ledger.settle_all was given."""

    partition: int
    positions: list[int]
    call: Call


class _Group(msgspec.Struct, eq=False):
    """What one call of settle_all.lua is to be told: requests of one partition, and of one key of settled ones (`block`)."""

    partition: Partition
    block: int
    positions: list[int]
    packed: bytes
    payers: dict[str, int]
    accounts: list[str]


class Settlements:
    """Needs what Ledger has: a pipeline, the number of partitions, and the clock that scripts are told."""

    partitions: int
    _pipeline: Pipeline
    _now_ms: Callable[[], int]

    def settle(self, hold: Hold, bill: Bill, *, blind: bool = False) -> Coroutine[Any, Any, Settled]:
        """Free the hold and charge the bill, once, whatever happened before: settle.lua.

        `blind` charges it even where Redis knows neither the hold nor that it was settled (it lost the hold).
        """
        amounts = (bill.input_tokens, bill.output_tokens, bill.requests)
        return self._settle(hold.caller, hold.request_id, hold.model, amounts, "blind" if blind else "truth")

    def settle_all(self, ended: Sequence[tuple[Hold, Bill]]) -> list[Together]:
        """Ask Redis to settle requests of one worker, of which each bill is of one request, by partition: settle_all.lua.

        Never fails: what became of a call says `settled_all`, once its reply is there. What has no hold is left for `settle`.
        """
        open_groups: dict[tuple[Partition, int], _Group] = {}
        groups: list[_Group] = []
        boot = ""
        for position, (hold, bill) in enumerate(ended):
            seat = account_keys(hold.caller.external_id, self.partitions)
            _, boot, sequence = hold.request_id.split("_")
            block, bit = divmod(int(sequence, 16), _PLACES)
            group = open_groups.get((seat.partition, block))
            if group is None or len(group.positions) >= _TOGETHER_MAX:
                open_groups[seat.partition, block] = group = _Group(seat.partition, block, [], b"", {}, [])
                groups.append(group)
            payer = who(hold.caller, hold.model)
            if payer not in group.payers:
                group.accounts.append(seat.account)
                group.payers[payer] = len(group.accounts)
            group.positions.append(position)
            group.packed += _pack(group.payers[payer], bit, bill.input_tokens, bill.output_tokens)
        asked = []
        for group in groups:
            at = group.partition
            keys = (at.holds, at.deadlines, at.unreported, f"{at.settled}{boot}:{group.block:x}", *group.accounts)
            begin, first = f"req_{boot}_", group.block * _PLACES
            arguments = (len(keys), *keys, self._now_ms(), begin, first, group.packed, *group.payers)
            asked.append(Together(at.number, group.positions, self._pipeline.ask("settle_all", arguments)))
        return asked

    def settled_all(self, together: Together) -> tuple[set[int], Settled]:
        """The positions of those that were left for `settle`, and how their partition is now. Raises LedgerUnavailableError."""
        said, waiting = self._pipeline.answer(together.call)
        left: set[int] = set()
        applied = said.count(_APPLIED)
        if applied < len(said):
            left.update(at for at, how in zip(together.positions, said, strict=True) if how != _APPLIED)
        return left, Settled(applied > 0, waiting, together.partition, "ok")

    async def replay(self, entry: Entry) -> Settled:
        """Settle what a journal tells, once, however often it is told: settle.lua.

        A `settled` entry is the truth; one of nothing gives back what the request may hold, and forbids an admit that is still
        on its way. A `started` one was lost with its worker, and is charged by estimate unless its hold stands ("held").
        """
        amounts = (entry.input_tokens, entry.output_tokens, entry.requests)
        kind = "lost" if entry.kind != "settled" else "blind" if any(amounts) else "void"
        return await self._settle(Caller(entry.external_id, entry.email), entry.request_id, entry.model, amounts, kind)

    async def unsettled(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` whose truth the ledger may not have, by a few reads."""
        seats = [account_keys(entry.external_id, self.partitions) for entry in entries]
        places = [place(seat.partition, entry.request_id) for seat, entry in zip(seats, entries, strict=True)]
        names = list({name for name, _ in places})
        bitmaps = dict(zip(names, await asyncio.gather(*(self._pipeline.command("get", name) for name in names)), strict=True))
        return [
            entry
            for entry, (name, position) in zip(entries, places, strict=True)
            if position < 0 or not is_set(bitmaps[name] or b"", position)
        ]

    async def _settle(self, caller: Caller, request_id: str, model: str, amounts: tuple[int, int, int], kind: str) -> Settled:
        seat = account_keys(caller.external_id, self.partitions)
        at = seat.partition
        settled, position = place(at, request_id)
        keys = (seat.account, at.holds, at.deadlines, at.tombstones + request_id, at.unreported, settled)
        arguments = (self._now_ms(), request_id, who(caller, model), *amounts, kind, position)
        status, waiting = await self._pipeline.script("settle", keys, arguments)
        return Settled(status in {1, 2}, waiting, at.number, OUTCOMES[status])


def place(partition: Partition, request_id: str) -> tuple[str, int]:
    """Where a request's bit lies: (key, place in its bitmap); the place is -1 for an id that is not a worker's."""
    parts = _read_id(request_id)
    if parts is None:
        return partition.settled, -1
    sequence = int(parts[3], 16)
    return f"{partition.settled}{parts[2]}:{sequence // _PLACES:x}", sequence % _PLACES


def is_set(bitmap: bytes, position: int) -> bool:
    """Whether SETBIT has set this place; Redis counts from the highest bit of the first byte."""
    return position // 8 < len(bitmap) and bool(bitmap[position // 8] & 128 >> position % 8)
