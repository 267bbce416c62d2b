"""Reports to a Zion that fails in each of its ways: afterwards what was served is what is booked, or a dead letter, once."""

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from sentinel.ledger.keys import partition_of
from sentinel.ledger.outbox import BATCHES_MAX
from sentinel.ops.records import Bill, Caller, Hold, Remaining
from tests.support.ledgers import open_ledger
from tests.support.running import HELLO, RECONCILED_S, User, booked, compared, make_user, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_REPORT_RETRY_SECONDS": "0.3",
    "SENTINEL_ZION_BREAKER_SECONDS": "0.5",
    "SENTINEL_ZION_REQUESTS_PER_SECOND": "100",
    "SENTINEL_DRAIN_SECONDS": "1",
    "ZION_TIMEOUT_SECONDS": "1",
}
PARTITIONS = 16


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack whose Zion fails a lot."""
    async with Stack(tmp_path_factory.mktemp("outbox"), settings=SETTINGS) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own(shared: Stack) -> AsyncIterator[Stack]:
    """The same, with a Zion that is well before and after each test, and whose breaker is closed before it."""
    await until(lambda: metric(shared, "sentinel_zion_breaker_open"), 0.0)
    yield shared
    await shared.control("zion", "reset", {"faults": True})


async def metric(stack: Stack, name: str) -> float:
    """One line of the metrics page, 0 where it is not there yet."""
    async with aiohttp.ClientSession() as http, http.get(f"{stack.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


async def until(look: Any, *expected: Any) -> Any:
    """Wait until what `look` finds is one of `expected` (or, without any, is true). TimeoutError after RECONCILED_S."""
    async with asyncio.timeout(RECONCILED_S):
        while True:
            found = await look()
            if found in expected if expected else found:
                return found
            await asyncio.sleep(0.05)


async def serve(stack: Stack, users: Iterable[User], times: int = 3) -> None:
    """So many calls of each user, all at once."""

    async def one(user: User) -> None:
        async with sdk(stack, user.token) as client:
            await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, user=user.email, extra_body={"simulate": {"output_tokens": 7}}
            )

    await asyncio.gather(*(one(user) for user in users for _ in range(times)))


async def well(stack: Stack, users: list[User]) -> None:
    """Served is booked, to the token, nothing twice, and nothing waits."""
    comparison = await compared(stack, users)
    assert comparison.equal, comparison

    async def emptied() -> bool:
        async with Redis.from_url(stack.redis_url) as redis:
            return not [name async for name in redis.scan_iter("[ab]:{s*}")]

    await until(emptied)
    comparison = await compared(stack, users)
    assert comparison.equal, comparison
    assert comparison.waiting == {}


@asynccontextmanager
async def frozen(stack: Stack) -> AsyncIterator[None]:
    """Sentinel stands still meanwhile."""
    await stack.kill("sentinel", signal.SIGSTOP)
    try:
        yield
    finally:
        await stack.kill("sentinel", signal.SIGCONT)


async def calls(stack: Stack, name: str) -> int:
    """How often Zion was called so."""
    return int((await stack.control("zion", "ledger"))["calls"].get(name, 0))


async def test_zion_fails_for_a_while(own: Stack) -> None:
    """500 to every report: the breaker opens, few calls are made, and all is booked once when Zion is well."""
    users = [await make_user(own) for _ in range(3)]
    await own.control("zion", "faults", {"status": 500, "call": "batch"})
    await serve(own, users)
    await until(lambda: metric(own, "sentinel_zion_breaker_open"), 1.0)
    before = await calls(own, "batch")
    await serve(own, users)
    assert (await calls(own, "batch")) - before <= 20  # probes, two a second
    await own.control("zion", "reset", {"faults": True})
    await well(own, users)


async def test_zion_says_nothing(own: Stack) -> None:
    """A report without an answer goes again under its key, and is counted as one whose end nobody knows."""
    users = [await make_user(own) for _ in range(2)]
    before = await metric(own, "sentinel_reports_unsure_total")
    await own.control("zion", "faults", {"hang": True, "call": "batch", "times": 2})
    await serve(own, users)
    await well(own, users)

    async def counted() -> bool:
        return await metric(own, "sentinel_reports_unsure_total") > before

    assert await until(counted)


async def test_zion_is_busy(own: Stack) -> None:
    """429: nobody in the fleet calls before the time that Zion named, reports or callers; then all is booked."""
    known, stranger = await make_user(own), await make_user(own)
    await serve(own, [known], 1)
    await well(own, [known])
    await own.control("zion", "faults", {"status": 429, "retry_after": 3, "call": "batch", "times": 1})
    await serve(own, [known])

    async def shut() -> bool:
        async with Redis.from_url(own.redis_url) as redis:
            return bool(await redis.hexists("zg:{zion}", "shut"))

    await until(shut)
    before = (await own.control("zion", "ledger"))["calls"]
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {stranger.token}"}) as http,
        http.get(f"{own.base_url}/models") as response,
    ):
        assert response.status == 503
        assert 1 <= int(response.headers["retry-after"]) <= 3
    assert (await own.control("zion", "ledger"))["calls"] == before
    await well(own, [known])


async def test_zion_books_and_drops_the_reply(own: Stack) -> None:
    """Booked once, since the second report comes under the same key with the same bytes."""
    users = [await make_user(own) for _ in range(3)]
    before = (await own.control("zion", "ledger"))["replayed"]
    await own.control("zion", "faults", {"apply_then_drop": True, "call": "batch", "times": 2})
    await serve(own, users)
    await well(own, users)
    assert (await own.control("zion", "ledger"))["replayed"] - before == 2


async def dead(stack: Stack) -> dict[str, tuple[str, tuple[int, int, int]]]:
    """The dead letters by e-mail: their reason and (requests, input, output)."""
    letters = {}
    async with Redis.from_url(stack.redis_url) as redis:
        async for name in redis.scan_iter("x:{s*}"):
            for letter in (await redis.hgetall(name)).values():
                reason, _, item = json.loads(letter)
                letters[item[1]] = (reason, (item[6], item[4], item[5]))
    return letters


async def buried(stack: Stack, user: User) -> tuple[str, tuple[int, int, int]]:
    """The dead letter of a user, when it is there."""

    async def letter() -> Any:
        return (await dead(stack)).get(user.email)

    found: tuple[str, tuple[int, int, int]] = await until(letter)
    return found


async def test_zion_refuses_increments(own: Stack) -> None:
    """What fails inside a batch is a dead letter in its partition with its reason; the rest of the batch is booked."""
    bad, *good = [await make_user(own) for _ in range(3)]
    await own.control("zion", "faults", {"fail_emails": [bad.email]})
    await serve(own, [bad, *good], 2)
    assert (await buried(own, bad))[0] == "This increment could not be applied"
    await well(own, good)
    comparison = await compared(own, [bad])
    assert comparison.equal
    assert comparison.waiting == comparison.served
    assert bad.email not in await booked(own)
    async with Redis.from_url(own.redis_url) as redis:
        assert await redis.exists(f"x:{{s{partition_of(bad.external_id, PARTITIONS):02d}}}")


async def neighbours(stack: Stack, count: int) -> list[User]:
    """Users of one partition, so that one report holds them all, known to Sentinel."""
    found: dict[int, list[User]] = {}
    while True:
        user = await make_user(stack)
        group = found.setdefault(partition_of(user.external_id, PARTITIONS), [])
        group.append(user)
        if len(group) == count:
            await serve(stack, group, 1)
            await well(stack, group)
            return group


async def test_poison_makes_zion_refuse_a_whole_batch(own: Stack) -> None:
    """Its increments go one by one under keys of their own: the poison alone becomes a dead letter, the rest is booked."""
    poison, *innocent = await neighbours(own, 4)
    await own.control("zion", "faults", {"status": 500, "call": "batch"})
    await until(lambda: opened(own, [poison, *innocent]))
    async with frozen(own):
        await own.control("zion", "reset", {"faults": True})
        for call in ("batch", "increment"):
            await own.control("zion", "faults", {"status": 400, "call": call, "user": poison.email})
    reason, _ = await buried(own, poison)
    assert reason == "status 400: This failure was asked for"
    await well(own, innocent)
    assert (await compared(own, [poison])).equal
    rows = [row for row in (await own.control("zion", "ledger"))["rows"] if not row["batch"]]
    assert {row["email"] for row in rows} <= {user.email for user in innocent}
    keys = [row["idempotencyKey"] for row in rows]
    assert keys
    assert len(set(keys)) == len(keys)
    assert all(key.rpartition("-")[2].isdigit() for key in keys)


async def opened(stack: Stack, users: list[User]) -> bool:
    """Serve, and see whether the breaker is open; then this usage of theirs waits in one partition."""
    await serve(stack, users, 1)
    return await metric(stack, "sentinel_zion_breaker_open") == 1.0


async def test_hours_without_zion_cost_memory_by_users(own: Stack) -> None:
    """10 000 settled requests of 5 users and 2 models leave at most 10 sums and a few batches; all of it is booked later."""
    users = [await make_user(own) for _ in range(5)]
    await own.control("zion", "faults", {"status": 500, "call": "batch"})
    nothing = Remaining(None, None, None)
    ledger = open_ledger(own.redis_url, partitions=PARTITIONS, timeout_s=20.0)
    requests = itertools.count()

    async def settle(count: int) -> None:
        for at in itertools.islice(requests, count):
            user = users[at % 5]
            caller = Caller(user.external_id, user.email)
            hold = Hold(f"req_load_{at}", caller, f"model-{at % 2}", 0, 0, nothing, nothing, nothing, nothing)
            assert (await ledger.settle(hold, Bill(1, 10, 3), blind=True)).applied

    await asyncio.gather(*(settle(250) for _ in range(40)))
    await until(lambda: metric(own, "sentinel_zion_breaker_open"), 1.0)
    queues = [await ledger.peek(partition) for partition in range(PARTITIONS)]
    assert sum(queue.sums for queue in queues) <= 10
    assert all(queue.batches <= BATCHES_MAX for queue in queues)
    sealed = sum(queue.batches for queue in queues)
    await asyncio.gather(*(settle(25) for _ in range(40)))
    queues = [await ledger.peek(partition) for partition in range(PARTITIONS)]
    assert sum(queue.sums for queue in queues) <= 10
    assert sum(queue.batches for queue in queues) <= sealed + 5
    await ledger.close()
    await own.control("zion", "reset", {"faults": True})

    async def all_booked() -> bool:
        sums = await booked(own)
        return {user.email: sums.get(user.email) for user in users} == {user.email: (2_200, 22_000, 6_600) for user in users}

    await until(all_booked)


async def test_sentinel_dies_between_zions_booking_and_its_own(own: Stack) -> None:
    """kill -9 while Zion has booked and not answered: whoever comes next reports the same batch again, booked once."""
    user = await make_user(own)
    await serve(own, [user], 1)
    await well(own, [user])
    before = (await own.control("zion", "ledger"))["replayed"]
    await own.control("zion", "faults", {"apply_then_hang": True, "call": "batch", "times": 1})
    await serve(own, [user], 2)

    async def is_booked() -> bool:
        return (await booked(own))[user.email][0] > 1

    await until(is_booked)
    await own.kill("sentinel")
    async with Redis.from_url(own.redis_url) as redis:
        async for name in redis.scan_iter("s:{s*}"):
            # The claim of the dead worker is over: nobody waits a minute for that here.
            for batch_id in await redis.zrange(name, 0, -1):
                await redis.zadd(name, {batch_id: 1})
    await own.start("sentinel")
    await well(own, [user])
    assert (await own.control("zion", "ledger"))["replayed"] - before == 1


@pytest.mark.parametrize("usage_format", ["unified", "per_limit"])
async def test_a_zion_without_batches(tmp_path_factory: pytest.TempPathFactory, usage_format: str) -> None:
    """404: increments go one by one; a failure and a lost reply in the middle count nothing twice, a refusal is one letter."""
    settings = SETTINGS | {"ZION_USAGE_FORMAT": usage_format}
    async with Stack(tmp_path_factory.mktemp(usage_format), settings=settings) as stack:
        await stack.control("zion", "faults", {"no_batch_endpoint": True})
        users = await neighbours(stack, 3)
        name = "externalId" if usage_format == "per_limit" else "email"
        shown = [user.external_id if name == "externalId" else user.email for user in users]
        await stack.control("zion", "faults", {"status": 500, "call": "increment", "user": shown[1], "times": 2})
        await stack.control("zion", "faults", {"apply_then_drop": True, "call": "increment", "user": shown[2], "times": 1})
        await serve(stack, users)
        await well(stack, users)
        rows = (await stack.control("zion", "ledger"))["rows"]
        assert {row["format"] for row in rows} == {usage_format}
        assert not any(row["batch"] for row in rows)
        assert len({row["idempotencyKey"] for row in rows}) == len(rows)
        # Each worker looked for the endpoint once.
        assert 1 <= await calls(stack, "batch") <= 2
        await stack.control("zion", "faults", {"status": 404, "call": "increment", "user": shown[0]})
        await serve(stack, users)
        await buried(stack, users[0])
        await well(stack, users[1:])
        assert (await compared(stack, users)).equal
