"""Redis frozen, killed and restarted, in each mode: who is admitted meanwhile, and that everything reconciles afterwards."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from sentinel.ledger.keys import key, partition_of
from tests.support import older
from tests.support.accounts import read_account
from tests.support.running import HELLO, User, kill_workers, make_user, reconciled, redis_away

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

PARTITIONS = 16
Answer = tuple[int, dict[str, str], Any]


def new_stack(directory: Path, mode: str) -> Stack:
    """A stack of 2 workers in this mode, with a deadline that a busy machine keeps while Redis is well."""
    settings = {
        "SENTINEL_ON_REDIS_DOWN": mode,
        "SENTINEL_REDIS_TIMEOUT_SECONDS": "0.5",
        "SENTINEL_RATE_LIMIT_REQUESTS": "0",
        "SENTINEL_REPORT_RETRY_SECONDS": "0.2",
        "SENTINEL_ZION_BREAKER_SECONDS": "0.2",
        "SENTINEL_DRAIN_SECONDS": "1",
    }
    return Stack(directory, settings=settings)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sliced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack in the default mode, shared: each test brings Redis back."""
    async with new_stack(tmp_path_factory.mktemp("sliced"), "sliced") as running:
        yield running


class Connection:
    """One kept-alive connection, and so one worker."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))

    async def worker(self) -> str:
        """Which life of which worker answers: it is in every request id."""
        async with self.session.get(f"{self._stack.url}/health/live") as response:
            return response.headers["x-request-id"].split("_")[1]

    async def ask(self, user: User, **simulate: Any) -> Answer:
        """(status, headers, body) of one plain call, or of one whole stream."""
        body = {"model": "gpt-4o", "messages": HELLO, "user": user.email, "simulate": simulate, "stream": "stall_s" in simulate}
        head = {"authorization": f"Bearer {user.token}"}
        async with self.session.post(f"{self._stack.base_url}/chat/completions", json=body, headers=head) as response:
            text = await response.text()
            shown = {name.lower(): value for name, value in response.headers.items()}
            return response.status, shown, text if body["stream"] else json.loads(text)


class Workers:
    """A connection to each of the two workers."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._open = AsyncExitStack()

    async def __aenter__(self) -> "Workers":
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._open.aclose()

    async def connect(self, user: User) -> tuple[Connection, Connection]:
        """One to each worker, both of which have admitted `user`."""
        found: dict[str, Connection] = {}
        async with asyncio.timeout(20):
            while len(found) < 2:
                connection = Connection(self._stack)
                await self._open.enter_async_context(connection.session)
                found.setdefault(await connection.worker(), connection)
        for connection in found.values():
            assert (await connection.ask(user))[0] == 200
        first, second = found.values()
        return first, second


async def nothing_held(stack: Stack, user: User) -> None:
    """Wait until the ledger holds nothing for the user."""
    async with Redis.from_url(stack.redis_url) as redis, asyncio.timeout(20):
        while True:
            account = await redis.get(key("q", partition_of(user.external_id, PARTITIONS), user.external_id))
            if [sums[4] for sums in read_account(account).values()] == [0, 0, 0]:
                return
            await asyncio.sleep(0.05)


async def settled(stack: Stack, user: User) -> int:
    """What Zion has booked of a user, in requests, once it is what the provider served and nothing is held."""
    given, taken = await reconciled(stack, [user])
    assert given == taken
    await nothing_held(stack, user)
    return taken[user.email][0]


async def health(stack: Stack) -> tuple[int, str, str]:
    """(status, what it is called, what it says of Redis)."""
    async with aiohttp.ClientSession() as http, http.get(f"{stack.url}/health/ready") as response:
        answer = await response.json()
        return response.status, answer["status"], answer["checks"]["redis"]


def is_refused(answer: Answer) -> bool:
    """503 ledger_unavailable, with a time to come back."""
    status, head, body = answer
    return status == 503 and body["error"]["code"] == "ledger_unavailable" and int(head["retry-after"]) >= 1


async def test_a_frozen_redis_leaves_each_worker_its_slice(sliced: Stack) -> None:
    """20 requests left, 2 workers, half of it: 10 of 40 are admitted, all decided at once; in the end exactly the limit is."""
    user, stranger = await make_user(sliced, requests=40), await make_user(sliced)
    async with Workers(sliced) as workers:
        first, second = pair = await workers.connect(user)
        left = 40
        while left > 20:
            for connection in pair:
                left = int((await connection.ask(user))[1]["x-ratelimit-remaining-requests"])
        await sliced.kill("redis", signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):
                answers = [await connection.ask(user) for _ in range(20) for connection in pair]
                refused = await first.ask(stranger)
                await redis_away(sliced, 2)
                assert await health(sliced) == (200, "degraded", "away: requests are decided without it (sliced)")
        finally:
            await sliced.kill("redis", signal.SIGCONT)
        ends = Counter(status for status, _, _ in answers)
        assert (ends[200], ends[200] + ends[503]) == ((left // 4) + ((left + 1) // 4), 40)
        assert ends[200] <= 10
        assert all(head["x-sentinel-degraded"] == "sliced" for _, head, _ in answers)
        assert is_refused(refused)
        assert all(is_refused(answer) for answer in answers if answer[0] != 200)
        await redis_away(sliced, 0)
        assert await settled(sliced, user) == 40 - left + ends[200]
        while (answer := await second.ask(user))[0] == 200:
            assert "x-sentinel-degraded" not in answer[1]
        assert answer[2]["error"]["code"] == "insufficient_quota"
    assert await settled(sliced, user) == 40


async def test_what_was_served_while_redis_was_dead_is_booked_once(sliced: Stack) -> None:
    """kill -9 under an open stream: it goes on, others are admitted from slices, and Zion books each once after the restart."""
    user, spent = await make_user(sliced), await make_user(sliced, output={"limit": 10**6, "used": 10**6 - 200})
    async with Workers(sliced) as workers:
        pair = await workers.connect(user)
        status, *_ = await pair[0].ask(spent, output_tokens=100)
        assert status == 200
        before = await settled(sliced, user)
        stream = asyncio.create_task(pair[0].ask(user, stall_after_events=4, stall_s=2))
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while not (await sliced.control("provider", "connections"))["active"]:
                await asyncio.sleep(0.01)
        await sliced.kill("redis")
        answers = [await pair[1].ask(user) for _ in range(10)]
        assert [(status, head["x-sentinel-degraded"]) for status, head, _ in answers] == [(200, "sliced")] * 10
        status, _, text = await stream
        assert status == 200
        assert text.endswith("data: [DONE]\n\n")
        await sliced.start("redis")
        await redis_away(sliced, 0)
        assert "x-sentinel-degraded" not in (await pair[1].ask(user))[1]
    assert await settled(sliced, user) == before + 12
    assert await settled(sliced, spent) == 1


async def test_open_admits_everybody_and_says_so(tmp_path: Path) -> None:
    """Open: known or not, used up or not, all are served without a limit; after the restart Zion books all of it."""
    async with new_stack(tmp_path, "open") as stack:
        known, unknown = await make_user(stack, requests=3), await make_user(stack)
        async with Workers(stack) as workers:
            connection, _ = await workers.connect(await make_user(stack))
            await stack.kill("redis")
            answers = [await connection.ask(user) for user in (known, unknown) for _ in range(10)]
            assert (await health(stack))[:2] == (200, "degraded")
            assert {(status, head["x-sentinel-degraded"]) for status, head, _ in answers} == {(200, "open")}
            assert not any(name.startswith("x-ratelimit") for _, head, _ in answers for name in head)
            await stack.start("redis")
            await redis_away(stack, 0)
            status, head, _ = await connection.ask(known)
            assert (status, "x-sentinel-degraded" in head) in {(200, False), (429, False)}
        given, taken = await reconciled(stack, [known, unknown])
        assert given == taken
        assert taken[unknown.email][0] == 10
        await nothing_held(stack, known)


async def test_closed_refuses_at_once_and_holds_nothing(tmp_path: Path) -> None:
    """Closed: 40 requests to a frozen Redis are refused in 5 s; what had reached it is given back when it goes on."""
    async with new_stack(tmp_path, "closed") as stack:
        user = await make_user(stack, requests=10)
        async with Workers(stack) as workers:
            pair = await workers.connect(user)
            before = await settled(stack, user)
            await stack.kill("redis", signal.SIGSTOP)
            try:
                async with asyncio.timeout(5):
                    answers = [await connection.ask(user) for _ in range(20) for connection in pair]
                    assert (await health(stack))[:2] == (503, "not ready")
            finally:
                await stack.kill("redis", signal.SIGCONT)
            assert all(is_refused(answer) for answer in answers)
            await redis_away(stack, 0)
            await nothing_held(stack, user)
            ends = Counter([(await pair[0].ask(user))[0] for _ in range(12)])
        assert ends == {200: 10 - before, 429: 2 + before}
        assert await settled(stack, user) == 10


async def end_refused(stack: Stack, user: User, how: str) -> None:
    """Redis is frozen, eight requests that had reached it are refused, and all workers end: killed, stopped before it thaws, or
    after.
    """
    connections = [Connection(stack) for _ in range(8)]
    await stack.kill("redis", signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(connection.ask(user) for connection in connections))
        assert all(is_refused(answer) for answer in answers)
        for connection in connections:
            await connection.session.close()
        if how == "killed":
            await kill_workers(stack)
        elif how == "stopped":
            await stack.stop("sentinel")
    finally:
        await stack.kill("redis", signal.SIGCONT)
    if how == "drained":
        await stack.stop("sentinel")
        await nothing_held(stack, user)


async def test_what_was_refused_is_not_charged_when_its_worker_ends(tmp_path: Path) -> None:
    """The provider never saw them, so nobody is charged: what Redis held is given back by whoever comes next, or
    by the worker that drains.
    """
    async with new_stack(tmp_path, "closed") as stack:
        user = await make_user(stack, requests=10)
        async with Workers(stack) as workers:
            await workers.connect(user)
        before = await settled(stack, user)
        for how in ("killed", "stopped", "drained"):
            await end_refused(stack, user, how)
            await stack.start("sentinel")
            assert await settled(stack, user) == before


async def test_a_limit_holds_over_a_redis_that_lost_its_last_moments(tmp_path: Path) -> None:
    """Redis comes back without the bills of the last second: nobody is admitted before it was told them again."""
    async with new_stack(tmp_path, "closed") as stack:
        user = await make_user(stack, requests=20)
        # Reports fail meanwhile, so that one may be under way when the copy is made, and its end be lost.
        await stack.control("zion", "faults", {"status": 500, "call": "batch"})
        async with Workers(stack) as workers:
            pair = await workers.connect(user)
            await nothing_held(stack, user)
            before = await older.copy(stack)
            ends = Counter([(await connection.ask(user))[0] for _ in range(5) for connection in pair])
            assert ends == {200: 10}
            await nothing_held(stack, user)
            await stack.kill("redis")
            await older.bring_back(stack, before)
            async with asyncio.timeout(30):
                while ends[429] < 10:
                    answers = await asyncio.gather(*(connection.ask(user) for connection in pair))
                    ends.update(status for status, _, _ in answers)
        await stack.control("zion", "reset", {"faults": True})
        assert set(ends) <= {200, 429, 503}
        # Some were asked before the copy was made, to find both workers.
        assert await settled(stack, user) == 20
