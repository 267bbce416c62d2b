"""The ledger as tests want it: over a real Redis of their own, without windows, with limits that stay fresh for minutes.

Fails as `Ledger` does. Import `redis` (an empty one, over `redis_server`) where it is used.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from sentinel.ledger import Ledger, open_redis
from sentinel.ops.records import Bill, Hold
from sentinel.zion.limits import Verdict, read_verdict
from tests.support.redis_server import RedisServer

_TIMEOUT_S = 5.0
_RULES = {"lease_ms": 60_000, "rate_requests": 0, "rate_window_ms": 60_000, "fresh_ms": 300_000, "stale_ms": 300_000}


def open_ledger(url: str, *, partitions: int = 1, timeout_s: float = _TIMEOUT_S, **rules: Any) -> Ledger:
    """A ledger over the Redis at `url`, with these rules of its own. Close it."""
    return Ledger(open_redis(url, _TIMEOUT_S), partitions=partitions, timeout_s=timeout_s, **(_RULES | rules))


async def verdict_of(ledger: Ledger, *asked: Any, **more: Any) -> Verdict:
    """What comes of `ledger.ask` of this."""
    call = ledger.ask(*asked, **more)
    await call.reply
    return read_verdict(ledger.said(call))


async def settle_together(ledger: Ledger, ended: Sequence[tuple[Hold, Bill]]) -> set[int]:
    """Settle requests that ended in one tick; the positions of those that were left for `settle`."""
    left: set[int] = set()
    for together in ledger.settle_all(ended):
        await together.call.reply
        left |= ledger.settled_all(together)[0]
    return left


async def emptied(url: str) -> None:
    """Forget everything that is in the Redis at `url`."""
    opened = open_redis(url, _TIMEOUT_S)
    await opened.flushall()
    await opened.aclose()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """An empty Redis."""
    await emptied(redis_server.url)
    opened = open_redis(redis_server.url, _TIMEOUT_S)
    yield opened
    await opened.aclose()
