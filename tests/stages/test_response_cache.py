"""answer_cache: answers that are given again, over a real Redis, a real edge and a liar."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sentinel.ledger import Ledger
from sentinel.ops.records import Call, Ending, Hold, Origin, Outcome, Produced, Usage
from sentinel.stages.response_cache import AnswerCache, unpriced
from sentinel.upstream.provider import OpenAI, Reply
from tests.ledger.test_ledger import Clock, new_ledger
from tests.stages.test_forward import hold
from tests.support.liar import HELLO, Liar
from tests.support.redis_server import RedisServer, redis_server
from tests.upstream.test_provider import ask, edge, read

__all__ = ["redis_server"]

CALL = Call(
    "chat_completions", "POST", "/chat/completions", model="gpt-4o", body=b'{"model":"gpt-4o","messages":[],"temperature":0}'
)


@pytest.fixture
async def ledger(redis_server: RedisServer) -> AsyncIterator[Ledger]:
    """A ledger over a Redis without a memory of other tests."""
    one = new_ledger(redis_server.url, Clock())
    await one._pipeline._redis.flushall()
    yield one
    await one.close()


async def answered(cache: AnswerCache, one: OpenAI, act: str = "well", held: Hold | None = None) -> Reply:
    """What a request gets: a kept answer, or the liar's, which is then watched."""
    name = cache.name(held or hold(), CALL)
    kept = await cache.find(name)
    return kept or cache.watch(name, await ask(one, act))


async def test_an_answer_is_given_again(ledger: Ledger) -> None:
    """Design §5: the first is a miss, the second a hit with the same bytes, content type and length, asked of nobody."""
    cache = AnswerCache(ledger, ttl_s=60, bytes_max=1000)
    async with Liar() as liar, edge(liar.url) as one:
        first = await answered(cache, one)
        assert first.origin == Origin(cache="miss")
        assert await read(first) == HELLO
        await cache.close()
        again = await answered(cache, one)
        assert (again.status, again.origin) == (200, Origin(cache="hit"))
        assert dict(again.headers) == {b"content-type": b"application/json", b"content-length": b"%d" % len(HELLO)}
        assert await read(again) == HELLO
        await again.drain(1)
        assert len(liar.asked) == 1
        other = msgspec.structs.replace(hold(), caller=msgspec.structs.replace(hold().caller, external_id="other"))
        assert (await answered(cache, one, held=other)).origin.cache == "miss"


@pytest.mark.parametrize(
    "act", ["missing", "bad request", "stream", "gzip download", "short", "broken", "html", "silent in the middle"]
)
async def test_only_whole_json_answers_are_kept(ledger: Ledger, act: str) -> None:
    """Design §5: errors, streams, downloads and what breaks off are not given again."""
    cache = AnswerCache(ledger, ttl_s=60, bytes_max=1000)
    async with Liar() as liar, edge(liar.url, idle_s=0.2) as one:
        reply = await answered(cache, one, act)
        await asyncio.gather(read(reply), return_exceptions=True)
        await cache.close()
        assert await cache.find(cache.name(hold(), CALL)) is None


async def test_what_is_too_large_or_was_not_read_to_its_end_is_not_kept(ledger: Ledger) -> None:
    """Design §5: a byte more than the bound, a client that left, and a fallback's answer leave nothing behind."""
    async with Liar() as liar, edge(liar.url) as one:
        small = AnswerCache(ledger, ttl_s=60, bytes_max=len(HELLO) - 1)
        assert await read(await answered(small, one)) == HELLO
        cache = AnswerCache(ledger, ttl_s=60, bytes_max=len(HELLO))
        left = await answered(cache, one)
        await left.read()
        left.close()
        name = cache.name(hold(), CALL)
        other = await ask(one, "well")
        other.origin = Origin(model="second")
        fallback = cache.watch(name, other)
        assert fallback.origin == Origin(model="second", cache="miss")
        assert await read(fallback) == HELLO
        await small.close()
        await cache.close()
        assert await cache.find(name) is None
        await read(await answered(cache, one))
        await cache.close()
        assert await cache.find(name) is not None


async def test_no_cache_where_none_is_set_or_fits(ledger: Ledger) -> None:
    """Design §5: off by default; an output that was capped by what remained is not the answer of a caller with more."""
    assert AnswerCache(ledger, ttl_s=0, bytes_max=1000).name(hold(), CALL) == ""
    cache = AnswerCache(ledger, ttl_s=60, bytes_max=1000)
    assert cache.name(hold(output_capped=True), CALL) == ""
    assert cache.name(hold(), msgspec.structs.replace(CALL, stream=True)) == ""
    assert cache.name(hold(), CALL) != ""


async def test_without_redis_there_is_no_cache(tmp_path: Path) -> None:
    """Design §5, §7: a Redis that is away costs the cache, not the answer."""
    away = new_ledger(f"unix://{tmp_path}/none.sock", Clock())
    cache = AnswerCache(away, ttl_s=60, bytes_max=1000)
    async with Liar() as liar, edge(liar.url) as one:
        for _ in range(2):
            assert await read(await answered(cache, one)) == HELLO
            await cache.close()
        assert len(liar.asked) == 2
    await away.close()


@pytest.mark.parametrize("ending", [Ending.SUCCESS, Ending.CLIENT_CLOSED])
def test_a_kept_answer_costs_no_tokens(ending: Ending) -> None:
    """Design §5: the truth of a hit is nought, however much of it the client took."""
    outcome = Outcome(ending, 200, started=True, usage=None, produced=Produced(("text",), 7))
    free = unpriced(outcome)
    assert (free.usage, free.produced, free.ending) == (Usage(0, 0), Produced(), ending)
