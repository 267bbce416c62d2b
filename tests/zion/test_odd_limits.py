"""What becomes of a caller whose limits Zion writes so that nobody can read them: over HTTP, against a real Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sentinel.ops.errors import OverLimitError, ZionUnavailableError
from sentinel.ops.records import Caller
from tests.ledger.test_ledger import limited
from tests.stages.test_admission import gateway
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

NEW = Caller("new", "new@example.com")
ODD = ['"1,000"', "true", "{}", "[]", '"abc"', '"unlimited"']


@asynccontextmanager
async def zion(limit: str) -> AsyncIterator[tuple[str, list[int]]]:
    """The URL of a Zion that says this of every caller's requests, and how often it was asked."""
    asked: list[int] = []

    async def answer(_request: web.Request) -> web.Response:
        asked.append(1)
        body = f'{{"limits":[{{"name":"ai_requests","limit":{limit},"used":0}}]}}'
        return web.Response(body=body.encode(), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}", asked
    finally:
        await server.close()


@pytest.mark.parametrize("limit", ODD)
async def test_a_caller_whose_limits_cannot_be_read_is_not_unlimited(redis_server: RedisServer, limit: str) -> None:
    """One without any known limits gets 503; one with some is held to those, however Zion spells the new ones."""
    async with zion(limit) as (url, asked), gateway(redis_server, limited(requests=2), zion_url=url, fresh_ms=1) as running:
        for _ in range(2):
            with pytest.raises(ZionUnavailableError):
                await running.ask(NEW)
        running.clock.passes(1000)
        for _ in range(2):
            await running.ask()
        with pytest.raises(OverLimitError):
            await running.ask()
        assert asked


async def test_a_limit_of_many_digits_is_a_limit(redis_server: RedisServer) -> None:
    """An integer that no float holds is read as the largest limit there is."""
    async with zion("1" + "0" * 400) as (url, _), gateway(redis_server, zion_url=url) as running:
        held = await running.ask(NEW)
        assert held.requests.limit == 10**14 - 1
