"""owners and unfinished work: what a real Redis remembers of objects at the provider."""

from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest
from redis.asyncio import Redis

from sentinel.ledger import Ledger, open_redis
from sentinel.ledger.background_jobs import BackgroundJob, BackgroundJobs
from sentinel.ledger.object_owners import Owners
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.openai import routes
from sentinel.ops.errors import NotFoundError
from sentinel.ops.records import Call, Caller, Ids
from sentinel.stages.ownership import Owners as Guard
from tests.support.ledgers import redis
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis", "redis_server"]


@pytest.fixture
async def pipeline(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Pipeline]:
    """A way to it."""
    opened = Pipeline(open_redis(redis_server.url, 5.0), 5.0)
    await opened.open()
    yield opened
    await opened.close()


async def test_the_first_owner_stays(pipeline: Pipeline) -> None:
    """An object belongs to who made it; nobody can claim it afterwards, and what nobody made belongs to nobody."""
    owners = Owners(pipeline, partitions=16)
    await owners.keep("anna", [("file-1", 100), ("file-2", 100)])
    await owners.keep("bert", [("file-2", 100), ("file-3", 100)])
    assert await owners.find([(f"file-{number}", 100) for number in range(1, 5)]) == ["anna", "anna", "bert", None]


async def test_an_owner_is_known_as_long_as_the_object_is_used(pipeline: Pipeline, redis: Redis) -> None:
    """A life begins anew with every use, so that only forgotten objects lose their owner."""
    owners = Owners(pipeline, partitions=1)
    await owners.keep("anna", [("file-1", 100)])
    assert 0 < await redis.ttl("o:{s00}:file-1") <= 100
    await owners.find([("file-1", 5000)])
    assert 4000 < await redis.ttl("o:{s00}:file-1") <= 5000


async def test_owners_of_many_are_known_at_once(pipeline: Pipeline, redis: Redis) -> None:
    """Whatever its partition, each is told with its owner; who has none is not told, and no life is prolonged."""
    owners = Owners(pipeline, partitions=16)
    assert await owners.known([]) == {}
    names = [f"file-{number}" for number in range(100)]
    await owners.keep("anna", [(name, 100) for name in names[:40]])
    await owners.keep("bert", [(name, 100) for name in names[40:60]])
    assert await owners.known(names) == {name: "anna" if name in names[:40] else "bert" for name in names[:60]}
    for kept in await redis.keys("o:*"):
        assert 0 < await redis.ttl(kept) <= 100


class _Keeps:
    """A ledger whose objects are anna's, but for `berts`; it remembers how many were asked for at once."""

    def __init__(self, berts: str = "") -> None:
        self.owners = self
        self.asked: list[int] = []
        self._berts = berts

    async def find(self, named: Sequence[tuple[str, int]]) -> list[str | None]:
        self.asked.append(len(named))
        return [None if name == self._berts else "anna" for name, _ in named]


async def test_many_objects_are_looked_up_in_rounds() -> None:
    """So that others are served in between; a single one that is not the caller's is found among all."""
    batches = routes.match("POST", "/v1/batches")
    call = Call("batches", "POST", "/batches", referenced_ids=Ids(frozenset(f"file-{number}" for number in range(1025))))
    caller, ledger = Caller("anna", "a@b"), _Keeps()
    assert await Guard(cast("Ledger", ledger), mode="owned", life_s=5).check(caller, batches, call) == call
    assert ledger.asked == [512, 512, 1]
    for berts in ("file-0", "file-1024"):
        with pytest.raises(NotFoundError, match=berts):
            await Guard(cast("Ledger", _Keeps(berts)), mode="owned", life_s=5).check(caller, batches, call)


async def test_unfinished_work_is_kept_until_it_is_settled(pipeline: Pipeline, redis: Redis) -> None:
    """A record is told to every worker, claimed by one, taken over only when the claim has ended, and gone when it is done."""
    unfinished = BackgroundJobs(pipeline, partitions=4, claim_ms=60_000)
    works = [
        BackgroundJob(f"req_{number}", f"user-{number}", "a@b", "gpt-4o", 7, "/responses/resp_1", 5) for number in range(250)
    ]
    for work in works:
        await unfinished.add(work)
        await unfinished.add(work)
    assert sorted([work async for work in unfinished.all()]) == sorted(works)
    work = works[0]
    assert await unfinished.claim(work, "one", renew=False)
    assert not await unfinished.claim(work, "two", renew=False)
    assert await unfinished.claim(work, "one", renew=True)
    (claim,) = [name async for name in redis.scan_iter("c:*")]
    assert 0 < await redis.pttl(claim) <= 60_000
    await unfinished.remove(work)
    assert sorted([left async for left in unfinished.all()]) == sorted(works[1:])
    assert await unfinished.claim(work, "two", renew=False)
