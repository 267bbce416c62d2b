"""Redis loses its last moments while reports go out: what Zion has booked is what the provider served, once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from tests.support import older
from tests.support.running import HELLO, User, kill_workers, make_user, reconciled

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

WAIT_S = 30.0
ROUNDS = 6
WORKERS_DIE = {1, 4}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack that reports at once, and tries again soon."""
    settings = {
        "SENTINEL_RATE_LIMIT_REQUESTS": "0",
        "SENTINEL_REPORT_INTERVAL_MS": "50",
        "SENTINEL_REPORT_RETRY_SECONDS": "0.2",
        "SENTINEL_ZION_BREAKER_SECONDS": "0.2",
        "SENTINEL_REDIS_TIMEOUT_SECONDS": "0.5",
        "SENTINEL_DRAIN_SECONDS": "1",
    }
    async with Stack(tmp_path_factory.mktemp("lost"), settings=settings) as running:
        yield running


@asynccontextmanager
async def asking(stack: Stack, users: list[User], ends: Counter[int]) -> AsyncIterator[None]:
    """Meanwhile each of these users asks again and again; all requests have ended afterwards."""
    over = asyncio.Event()

    async def ask(user: User) -> None:
        body = {"model": "gpt-4o", "messages": HELLO, "user": user.email}
        head = {"authorization": f"Bearer {user.token}"}
        async with aiohttp.ClientSession() as http:
            while not over.is_set():
                async with http.post(f"{stack.base_url}/chat/completions", json=body, headers=head) as response:
                    await response.read()
                    ends[response.status] += 1

    tasks = [asyncio.create_task(ask(user)) for user in users]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def reports(stack: Stack, users: list[User]) -> int:
    """How many reports Zion has booked that name one of these users."""
    names = {user.email for user in users}
    rows = (await stack.control("zion", "ledger"))["rows"]
    return len({row["idempotencyKey"] for row in rows if row["email"] in names})


async def until_reported(stack: Stack, users: list[User]) -> None:
    """Wait until Zion has booked two more reports; the first may be acknowledged by then."""
    before = await reports(stack, users)
    async with asyncio.timeout(WAIT_S):
        while await reports(stack, users) < before + 2:
            await asyncio.sleep(0.02)


async def nothing_held(stack: Stack) -> None:
    """Wait until nobody holds anything: all that was served is settled."""
    async with Redis.from_url(stack.redis_url) as redis, asyncio.timeout(WAIT_S):
        while await redis.keys("r:{s*}"):
            await asyncio.sleep(0.02)


async def test_what_was_reported_in_the_moments_that_redis_lost_is_booked_once(own: Stack) -> None:
    """Six times Redis comes back without the seals of reports that Zion has booked, and their acknowledgements;
    twice all workers die with it.
    """
    users = [await make_user(own) for _ in range(4)]
    ends: Counter[int] = Counter()
    for number in range(ROUNDS):
        before = await older.copy(own)
        async with asking(own, users, ends):
            await until_reported(own, users)
            if number not in WORKERS_DIE:
                await own.kill("redis")
        if number in WORKERS_DIE:
            await nothing_held(own)
            await own.kill("redis")
            await kill_workers(own)
        await older.bring_back(own, before)
        if number in WORKERS_DIE:
            await own.start("sentinel")
    given, taken = await reconciled(own, users)
    assert given == taken
    assert set(ends) <= {200, 503}
    assert sum(sums[0] for sums in taken.values()) == ends[200]
