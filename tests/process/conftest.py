"""One running stack for the process tests: real Granian with 2 workers, real Redis, both simulators over HTTP."""

import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support import covering
from tests.support.running import User, make_user
from tests.support.scripted import Scripted

# No window by default: a test that is about it makes a stack of its own. Nor does Zion's simulator need sparing: nearly every
# test is a new caller, about whom Zion is asked twice, so that most tests waited for their turn there and for nothing else.
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_ZION_REQUESTS_PER_SECOND": "1000",
    "SENTINEL_REPORT_RETRY_SECONDS": "0.5",
    "SENTINEL_ZION_BREAKER_SECONDS": "0.5",
    "SENTINEL_DRAIN_SECONDS": "5",
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The stack all process tests share; what they need of it they make themselves (users, faults). The one that is traced."""
    environ = {**os.environ, **covering.told}
    async with Stack(tmp_path_factory.mktemp("stack"), settings=SETTINGS, environ=environ) as running:
        yield running
        assert running.child("sentinel").running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, Scripted]]:
    """A stack with one worker and its provider, which plays what a test writes; for the files about what an answer may be."""
    settings = SETTINGS | {"SENTINEL_REPORT_INTERVAL_MS": "20", "SENTINEL_UPSTREAM_IDLE_TIMEOUT_SECONDS": "2"}
    async with Scripted() as provider:
        settings |= {"OPENAI_API_URL": provider.url}
        async with Stack(tmp_path_factory.mktemp("scripted"), workers=1, settings=settings) as running:
            yield running, provider


@pytest_asyncio.fixture(loop_scope="session")
async def user(stack: Stack) -> User:
    """A user with a million of everything."""
    return await make_user(stack)


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client, for what the SDK would not send."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session
