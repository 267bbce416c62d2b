"""Work that goes on at the provider after its answer, so that any worker can find out what it has cost (docs/limits.md).

Fails as LedgerUnavailableError. A record stays until its request is settled, which happens once, however many look at it: a
claim only keeps them from all asking the provider.
"""

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from sentinel.ledger.keys import key, partition_of
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.ledger.redis.resp import pairs

_PAGE: Final = 100


class BackgroundJob(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A request whose cost is not known yet: `path` (below `/v1`) shows its state, it was answered at `since_ms` (Unix).

    `input_tokens` and `output_tokens` are what was held for it. `cost` is what it has cost, input and output, where that was
    seen before somebody deleted it.
    """

    request_id: str
    external_id: str
    email: str
    model: str
    input_tokens: int
    path: str
    since_ms: int
    output_tokens: int = 0
    cost: tuple[int, int] | None = None

    def lies_in(self, path: str) -> bool:
        """Whether what is deleted with `path` is this work, or holds it: a run lies in its thread."""
        return self.path == path or self.path.startswith(f"{path}/")


_read: Final = msgspec.json.Decoder(BackgroundJob).decode
_write: Final = msgspec.json.Encoder().encode


class BackgroundJobs:
    """The records, `g:{sPP}` by request id, and who looks after each, `c:{sPP}:<request id>`, for `claim_ms` at a time."""

    def __init__(self, pipeline: Pipeline, *, partitions: int, claim_ms: int) -> None:
        self._pipeline = pipeline
        self._partitions = partitions
        self._claim_ms = claim_ms

    async def add(self, work: BackgroundJob) -> None:
        """Note `work`; once more changes nothing."""
        await self._pipeline.command("hset", key("g", self._at(work)), work.request_id, _write(work))

    async def claim(self, work: BackgroundJob, worker: str, *, renew: bool) -> bool:
        """Whether `worker` is the one to look after it; `renew` takes it in any case."""
        only_new = () if renew else ("NX",)
        return bool(await self._pipeline.command("set", self._claim(work), worker, "PX", self._claim_ms, *only_new))

    async def remove(self, work: BackgroundJob) -> None:
        """`work` is settled."""
        await self._pipeline.command("hdel", key("g", self._at(work)), work.request_id)
        await self._pipeline.command("del", self._claim(work))

    async def find(self, work: BackgroundJob) -> BackgroundJob | None:
        """The record of `work` as it is now."""
        value = await self._pipeline.command("hget", key("g", self._at(work)), work.request_id)
        return _read(value) if isinstance(value, bytes) else None

    async def all(self) -> AsyncIterator[BackgroundJob]:
        """Every record, page by page; what moves meanwhile may be missing, or told twice."""
        for partition in range(self._partitions):
            async for work in self._in(partition):
                yield work

    async def of(self, external_id: str) -> list[BackgroundJob]:
        """The records of one caller."""
        found = self._in(partition_of(external_id, self._partitions))
        return [work async for work in found if work.external_id == external_id]

    async def _in(self, partition: int) -> AsyncIterator[BackgroundJob]:
        cursor = -1
        while cursor:
            reply = await self._pipeline.command("hscan", key("g", partition), max(cursor, 0), "COUNT", _PAGE)
            cursor = int(reply[0])
            for _, value in pairs(reply[1]):
                yield _read(value)

    def _at(self, work: BackgroundJob) -> int:
        return partition_of(work.external_id, self._partitions)

    def _claim(self, work: BackgroundJob) -> str:
        return key("c", self._at(work), work.request_id)
