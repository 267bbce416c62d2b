"""The ledger's books, for those who look after them: what each caller has, what waits for Zion, what Zion has refused for good.

Reading changes nothing. A listing goes page by page through all partitions and is no snapshot: what moves meanwhile may be
missing, or be told twice. Fails as LedgerUnavailableError; whether a `requeue` or `drop` was done is then unknown; it
may be called again, since it happens once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from sentinel.ledger.keys import key, partition_of
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.ledger.redis.resp import pairs
from sentinel.ops.records import Metric, Remaining
from sentinel.zion.limits import read_remaining

# What one call asks Redis for: it answers nobody else meanwhile.
_PAGE: Final = 200
_ORDER: Final = (Metric.INPUT, Metric.OUTPUT, Metric.REQUESTS)


class Use(msgspec.Struct, frozen=True):
    """One metric of one caller in the period that runs now; `limit` is None when unlimited. Times in Unix ms, `end_ms` 0 never.

    `unreported` is what was settled here and Zion has not acknowledged; below zero where a correction waits to net with more.
    """

    limit: int | None
    used: int
    held: int
    unreported: int
    start_ms: int
    end_ms: int
    period: str

    @property
    def remaining(self) -> int | None:
        """What may still be held, None when unlimited."""
        return None if self.limit is None else max(0, self.limit - self.used - self.held)


class Account(msgspec.Struct, frozen=True):
    """One caller's account at `clock_ms` (Redis' own); `fetched_ms` 0 says that its limits are not known yet.

    `acked` (input, output, requests) and `clock_ms` are what `Ledger.install` wants if Zion is asked after this.
    """

    external_id: str
    clock_ms: int
    fetched_ms: int
    rate: Remaining
    acked: tuple[int, int, int]
    uses: dict[Metric, Use]


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """Usage of one caller, model and period that Zion has not acknowledged; as it lies in a sealed batch or a dead letter."""

    external_id: str
    email: str
    model: str
    start_ms: int
    input_tokens: int
    output_tokens: int
    requests: int


class Waiting(msgspec.Struct, frozen=True):
    """A sealed batch, times in Unix ms.

    `sealed_at_ms` is its time stamp: for usage of a day that was over when it was sealed, the end of that day.
    """

    id: str
    partition: int
    attempts: int
    sealed_at_ms: int
    next_at_ms: int
    sums: tuple[Sum, ...]


class DeadLetter(msgspec.Struct, frozen=True):
    """Usage that Zion has refused for good at `buried_at_ms` (Unix); it still counts against its caller here."""

    id: str
    partition: int
    reason: str
    buried_at_ms: int
    sum: Sum


_read_field: Final = msgspec.json.Decoder(tuple[str, str, str, int]).decode
_read_head: Final = msgspec.json.Decoder(list[Any]).decode
_read_sums: Final = msgspec.json.Decoder(tuple[Sum, ...]).decode
_read_letter: Final = msgspec.json.Decoder(tuple[str, int, Sum]).decode


class LedgerAdmin:
    """The books of one ledger, over its `pipeline`. `window` is (requests, or -1 for none, ms)."""

    def __init__(self, pipeline: Pipeline, *, partitions: int, window: tuple[int, int], now_ms: Callable[[], int]) -> None:
        self._pipeline = pipeline
        self._partitions = partitions
        self._window = window
        self._now_ms = now_ms

    async def account(self, external_id: str) -> Account:
        """What one caller has used and has left, as an admission would see it now: usage.lua."""
        return await self._account(external_id, partition_of(external_id, self._partitions))

    async def accounts(self) -> AsyncIterator[Account]:
        """Every caller whose account is alive (it was used within two days), in no order."""
        cursor = -1
        while cursor != 0:
            reply = await self._pipeline.command("scan", max(cursor, 0), "MATCH", "q:{s*}:*", "COUNT", _PAGE)
            cursor, names = int(reply[0]), reply[1]
            # One tick, so that a page of accounts is one round trip.
            for account in await asyncio.gather(*(self._account(*_whose(name)) for name in names)):
                if account.fetched_ms:
                    yield account

    async def sums(self) -> AsyncIterator[Sum]:
        """Every unreported sum that is not sealed yet."""
        for partition in range(self._partitions):
            async for field, amounts in self._fields(key("a", partition)):
                given, produced, requests = map(int, amounts.split(b"|"))
                yield Sum(*_read_field(field), given, produced, requests)

    async def waiting(self) -> AsyncIterator[Waiting]:
        """Every sealed batch that Zion has not acknowledged."""
        for partition in range(self._partitions):
            cursor = -1
            while cursor != 0:
                reply = await self._pipeline.command("zscan", key("s", partition), max(cursor, 0), "COUNT", _PAGE)
                cursor = int(reply[0])
                for name, score in pairs(reply[1]):
                    batch = await self._batch(partition, name.decode(), int(score))
                    if batch is not None:
                        yield batch

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Every dead letter."""
        for partition in range(self._partitions):
            async for field, letter in self._fields(key("x", partition)):
                reason, at_ms, item = _read_letter(letter)
                yield DeadLetter(field.decode(), partition, reason, at_ms, item)

    async def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """The dead letter of this id, None where there is none (any more)."""
        for partition in range(self._partitions):
            letter = await self._pipeline.command("hget", key("x", partition), letter_id)
            if letter is not None:
                reason, at_ms, item = _read_letter(letter)
                return DeadLetter(letter_id, partition, reason, at_ms, item)
        return None

    async def requeue_letter(self, letter: DeadLetter) -> bool:
        """Put a dead letter back among the unreported sums, for the next report: requeue_letter.lua. False where it is gone.

        Safe in any order and number: it leaves the dead letters in the same step, and Zion has not applied it. It is reported
        under the id of a new batch, since under the old one Zion would only repeat its refusal.
        """
        keys = [key("x", letter.partition), key("a", letter.partition)]
        return bool((await self._pipeline.script("requeue_letter", keys, (letter.id,)))[0])

    async def discard_letter(self, letter: DeadLetter) -> bool:
        """Give a dead letter up, and take it off its caller's account where its period still runs: discard_letter.lua. False
        if gone.

        Whoever booked it in Zion by hand finds it in the account again as soon as the limits are fetched anew.
        """
        keys = [key("x", letter.partition), key("q", letter.partition, letter.sum.external_id)]
        return bool((await self._pipeline.script("discard_letter", keys, (self._now_ms(), letter.id)))[0])

    async def clock_ms(self) -> int:
        """The ledger's own clock, Unix ms: what ages are measured by."""
        seconds, microseconds = await self._pipeline.command("time")
        return self._now_ms() or int(seconds) * 1000 + int(microseconds) // 1000

    async def close(self) -> None:
        """Close the connections, for books that have a pipeline of their own."""
        await self._pipeline.close()

    async def _account(self, external_id: str, partition: int) -> Account:
        keys = [key("q", partition, external_id)]
        reply = await self._pipeline.script("usage", keys, (self._now_ms(), *self._window))
        figures = [reply[at : at + 8] for at in range(4, len(reply), 8)]
        return Account(
            external_id=external_id,
            clock_ms=reply[0],
            fetched_ms=reply[1],
            rate=read_remaining((self._window[0], reply[2], reply[3])),
            acked=(figures[0][3], figures[1][3], figures[2][3]),
            uses={metric: _use(row) for metric, row in zip(_ORDER, figures, strict=True)},
        )

    async def _batch(self, partition: int, batch_id: str, next_at_ms: int) -> Waiting | None:
        """A sealed batch; None where it was acknowledged since it was listed."""
        fields = (batch_id, f"{batch_id}:head", f"{batch_id}:attempt")
        items, head, attempts = await self._pipeline.command("hmget", key("b", partition), *fields)
        if items is None or head is None:
            return None
        return Waiting(batch_id, partition, int(attempts or 0), int(_read_head(head)[0]), next_at_ms, _read_sums(items))

    async def _fields(self, name: str) -> AsyncIterator[tuple[bytes, bytes]]:
        """Field and value of a hash, page by page."""
        cursor = -1
        while cursor != 0:
            reply = await self._pipeline.command("hscan", name, max(cursor, 0), "COUNT", _PAGE)
            cursor = int(reply[0])
            for field, value in pairs(reply[1]):
                yield field, value


def _whose(name: bytes) -> tuple[str, int]:
    """(external id, partition) of the account at a key."""
    _, tag, external_id = name.decode("utf-8", "replace").split(":", 2)
    return external_id, int(tag[2:-1])


def _use(row: list[Any]) -> Use:
    limit, elsewhere, settled, acknowledged, held, start_ms, end_ms, period = row
    return Use(
        limit=None if limit < 0 else limit,
        used=elsewhere + settled,
        held=held,
        unreported=settled - acknowledged,
        start_ms=start_ms,
        end_ms=end_ms,
        period=period.decode(),
    )
