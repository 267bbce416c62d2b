"""The ledger's outbox: what waits in Redis until Zion has it. The half of Ledger that reports use.

Every method raises LedgerUnavailableError, and may then be called again: a batch is done, buried or in part answered once,
however often that is told. A worker that dies with a batch leaves it to whoever asks when its claim is over. A batch that Redis
loses is sealed again as it was by whoever has its seal in a journal.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from sentinel.ledger.keys import key
from sentinel.ledger.ledger_admin import Sum
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.ledger.settlements import is_set
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.zion.gate import Gate
from sentinel.zion.increments import Item, Refusal, Seal

CLAIM_MS: Final = 60_000
# Sealed batches of one partition. While Zion is away usage waits as sums, which grow with users and not with requests.
BATCHES_MAX: Final = 8
_PLACES: Final = 65_536


class _Row(Sum, frozen=True, array_like=True):
    """An item as claim_batch.lua writes it, with the names that Zion has for the caller by then, where these are others."""

    reported_as: tuple[str, str] | None = None

    def item(self) -> Item:
        amounts = (self.input_tokens, self.output_tokens, self.requests)
        return Item(self.external_id, self.email, self.model, *amounts, self.reported_as)


_read_items: Final = msgspec.json.Decoder(tuple[_Row, ...]).decode
_read_sealed: Final = re.compile(r"([0-9a-f]{16})_([0-9a-f]{1,12})_[0-9]+").fullmatch
_read_parts: Final = msgspec.json.Decoder(dict[str, str] | list[tuple[int, str]]).decode


class Batch(msgspec.Struct, frozen=True):
    """A sealed report: the same id, items and format however often it is taken.

    `sealed_at_ms` (Unix) lies in the period of every item. `parts` are the increments that were answered one by one, by
    position, with the reason where Zion refused them; `singly` says that it has begun to go so. `lost`: nobody knows how an
    earlier attempt ended.
    """

    id: str
    partition: int
    attempts: int
    sealed_at_ms: int
    items: tuple[Item, ...]
    usage_format: str = "unified"
    parts: tuple[tuple[int, str], ...] = ()
    lost: bool = False
    singly: bool = False
    # The items as they lie in Redis.
    json: bytes = b""

    def seal(self, at_ms: int) -> Seal:
        """What a journal keeps of it."""
        return Seal("sealed", at_ms, self.id, self.partition, self.sealed_at_ms, self.usage_format, msgspec.Raw(self.json))


class Queue(msgspec.Struct, frozen=True):
    """What of one partition waits: unreported sums, sealed batches, how many of these are due, and the oldest one's age.

    `wait_ms`: for how long nothing new is sealed, since Redis was started again.
    """

    sums: int
    batches: int
    due: int
    oldest_ms: int
    wait_ms: int = 0

    @property
    def wait_s(self) -> float:
        """The same in s."""
        return self.wait_ms / 1000

    @property
    def ready(self) -> bool:
        """Whether `take` may give a batch now."""
        return self.due > 0 or (self.sums > 0 and self.batches < BATCHES_MAX and not self.wait_ms)


class Outbox:
    """What Ledger does for reports; `_pipeline`, `_now_ms`, `_calls` (ids of takes: who calls, and a number, in hex) and
    `_unanswered` (takes, by partition) are Ledger's.
    """

    _pipeline: Pipeline
    _now_ms: Callable[[], int]
    _calls: Iterator[str]
    _unanswered: dict[int, str]

    def gate(
        self,
        *,
        requests_per_s: int,
        failures_max: int,
        open_s: float,
        zion_timeout_s: float,
        waiting_max: int,
        processes: int,
    ) -> Gate:
        """The gate to Zion that all workers share. A probe that says nothing in twice the time of a call is given up."""
        return Gate(
            self._pipeline,
            self._now_ms,
            requests_per_s=requests_per_s,
            failures_max=failures_max,
            open_s=open_s,
            probe_s=2 * zion_timeout_s,
            turn_s=zion_timeout_s,
            waiting_max=waiting_max,
            processes=processes,
        )

    async def peek(self, partition: int) -> Queue:
        """What of a partition waits for Zion: peek.lua."""
        keys = [key("a", partition), key("b", partition), key("s", partition), key("p", partition)]
        return Queue(*await self._pipeline.script("peek", keys, (self._now_ms(), BATCHES_MAX, self._pipeline.first_run_id)))

    async def claim_batch(
        self, partition: int, items_max: int = 100, claim_ms: int = CLAIM_MS, *, usage_format: str = "unified"
    ) -> Batch | None:
        """The next batch for Zion, nobody else's for `claim_ms`, or None: claim_batch.lua. `ack_batch`,
        `dead_letter` or `retry_batch` ends the claim.

        A new batch is sealed with the present names of its callers and with `usage_format` (per limit, where these have no
        e-mail), and keeps both, so that its bytes stay the same.
        """
        keys = [key(kind, partition) for kind in "absnp"]
        # A call whose reply was lost may have claimed a batch: asked again under the same id, it comes at once.
        call = self._unanswered.pop(partition, "") or next(self._calls)
        arguments = (self._now_ms(), call, claim_ms, items_max, BATCHES_MAX, usage_format, self._pipeline.first_run_id)
        try:
            reply = await self._pipeline.script("claim_batch", keys, arguments)
        except LedgerUnavailableError:
            self._unanswered[partition] = call
            raise
        batch_id, attempts, sealed_at_ms, _, items, sealed_format, parts, lost = reply
        if not batch_id:
            return None
        answered = _read_parts(parts or b"{}")  # Lua writes an empty list as an empty object
        return Batch(
            id=batch_id.decode(),
            partition=partition,
            attempts=attempts,
            sealed_at_ms=sealed_at_ms,
            items=tuple(row.item() for row in _read_items(items)),
            usage_format=sealed_format.decode(),
            parts=() if isinstance(answered, dict) else tuple(answered),
            lost=bool(lost),
            singly=parts != b"",
            json=items,
        )

    async def unsealed(self, seals: Sequence[Seal]) -> list[Seal]:
        """Those of `seals` that Zion is not known to have, by a few reads."""
        places = [_known(seal.partition, seal.batch_id) for seal in seals]
        names = list({name for name, place in places if place >= 0})
        bitmaps = dict(zip(names, await asyncio.gather(*(self._pipeline.command("get", name) for name in names)), strict=True))
        return [
            seal
            for seal, (name, place) in zip(seals, places, strict=True)
            if place >= 0 and not is_set(bitmaps[name] or b"", place)
        ]

    async def reseal(self, seal: Seal) -> bool:
        """Seal a batch again that Redis has lost: reseal.lua. False where it is there, or Zion is known to have it."""
        at = seal.partition
        known, place = _known(at, seal.batch_id)
        callers = list(dict.fromkeys(row.external_id for row in _read_items(seal.items)))
        keys = [key("a", at), key("b", at), key("s", at), known, key("p", at), *(key("q", at, caller) for caller in callers)]
        head = msgspec.json.encode([seal.stamp_ms, seal.usage_format])
        arguments: tuple[str | bytes | int, ...]
        arguments = (self._now_ms(), seal.batch_id, place, head, bytes(seal.items), self._pipeline.first_run_id, *callers)
        return bool((await self._pipeline.script("reseal", keys, arguments))[0])

    async def ack_batch(self, batch: Batch) -> bool:
        """Zion has it whole: ack_batch.lua. False where that was known."""
        callers = _callers(batch)
        at = batch.partition
        known, place = _known(at, batch.id)
        keys = [key("b", at), key("s", at), known, *(key("q", at, caller) for caller in callers)]
        return bool((await self._pipeline.script("ack_batch", keys, (self._now_ms(), batch.id, place, *callers)))[0])

    async def dead_letter(self, batch: Batch, refusals: Mapping[int, str | Refusal]) -> bool:
        """Zion has it except for what it refused for good of the items at these positions: dead_letter.lua.

        A reason alone stands for the whole item. False where that was known.
        """
        callers = _callers(batch)
        at = batch.partition
        known, place = _known(at, batch.id)
        keys = [key("b", at), key("s", at), key("x", at), known, *(key("q", at, caller) for caller in callers)]
        refused = {
            str(position): [refusal] if isinstance(refusal, str) else [refusal.reason, *refusal.amounts]
            for position, refusal in refusals.items()
        }
        shown = msgspec.json.encode(refused).decode()
        return bool((await self._pipeline.script("dead_letter", keys, (self._now_ms(), batch.id, shown, place, *callers)))[0])

    async def ack_items(self, batch: Batch, answers: Mapping[int, str], claim_ms: int = CLAIM_MS) -> bool:
        """Zion has answered the increments at these positions ("": booked, else why not); keep the claim: ack_items.lua. With
        none of them: the batch is about to go one by one.

        False where the batch is gone: somebody else got it through.
        """
        keys = [key("b", batch.partition), key("s", batch.partition)]
        arguments = (self._now_ms(), batch.id, claim_ms, msgspec.json.encode(list(answers.items())).decode())
        return bool((await self._pipeline.script("ack_items", keys, arguments))[0])

    async def retry_batch(self, batch: Batch, retry_ms: int, *, lost: bool = False) -> bool:
        """It did not get through; the same batch again in `retry_ms`: retry_batch.lua. False where somebody else got it
        through.

        `lost`: Zion may have booked it, and its reply is lost.
        """
        keys = [key("s", batch.partition), key("b", batch.partition)]
        return bool(
            (await self._pipeline.script("retry_batch", keys, (self._now_ms(), batch.id, retry_ms, 0 if lost else 1)))[0]
        )


def _known(partition: int, batch_id: str) -> tuple[str, int]:
    """Where the bit of a batch that Zion has lies: (key, place in its bitmap); -1 for one that an older Sentinel has sealed."""
    parts = _read_sealed(batch_id)
    if parts is None:
        return key("y", partition), -1
    number = int(parts[2], 16)
    return key("y", partition, f"{parts[1]}:{number // _PLACES:x}"), number % _PLACES


def _callers(batch: Batch) -> list[str]:
    return list(dict.fromkeys(item.external_id for item in batch.items))
