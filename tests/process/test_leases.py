"""Leases over real processes: what is held outlives its worker by its lease only, and what was used is charged once."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from tests.process.test_lifecycle import _children
from tests.support.running import HELLO, User, booked, make_user, reconciled, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def short(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack whose leases end after 5 seconds, and whose callers may have 4 requests under way."""
    settings = {
        "SENTINEL_RATE_LIMIT_REQUESTS": "0",
        "SENTINEL_LEASE_SECONDS": "5",
        "SENTINEL_CALLER_CONCURRENCY_MAX": "4",
        "SENTINEL_DRAIN_SECONDS": "1",
        "CACHE_TTL_SECONDS": "1",
    }
    async with Stack(tmp_path_factory.mktemp("short"), settings=settings) as running:
        yield running


async def start_stream(client: AsyncOpenAI, user: User, events: int, simulate: dict[str, object]) -> openai.AsyncStream:
    """A stream of which `events` have arrived."""
    stream = await client.chat.completions.create(
        model="gpt-4o", messages=HELLO, user=user.email, stream=True, extra_body={"simulate": simulate}
    )
    for _ in range(events):
        await anext(stream)
    return stream


async def held(stack: Stack, user: User) -> int:
    """Requests of a user that Redis knows as under way."""
    async with Redis.from_url(stack.redis_url) as redis:
        count = 0
        async for name in redis.scan_iter("r:{*"):
            values = await redis.hgetall(name)
            count += sum(user.external_id.encode() in value for field, value in values.items() if b":" not in field)
        return count


async def until_booked(stack: Stack, user: User, seconds: float) -> tuple[int, int, int]:
    """What Zion has booked for a user, as soon as there is something."""
    async with asyncio.timeout(seconds):
        while user.email not in (sums := await booked(stack)):
            await asyncio.sleep(0.1)
    return sums[user.email]


async def test_a_live_stream_outlives_its_lease(short: Stack) -> None:
    """A stream longer than the lease is renewed: nothing is charged before it ends, and then what it cost."""
    user = await make_user(short)
    async with sdk(short, user.token) as client:
        stream = await start_stream(client, user, 4, {"stall_after_events": 4, "stall_s": 8})
        for _ in range(14):
            await asyncio.sleep(0.5)
            assert user.email not in await booked(short)
        assert await held(short, user) == 1
        async for _ in stream:
            pass
    given, taken = await reconciled(short, [user])
    assert given == taken
    assert await held(short, user) == 0


async def test_a_worker_killed_in_the_middle_of_a_stream_is_charged(short: Stack) -> None:
    """kill -9: the hold stays for its lease, then the prompt and about the output of the last renewal are charged, once."""
    user = await make_user(short)
    async with sdk(short, user.token) as client:
        stream = await start_stream(client, user, 10, {"stall_after_events": 10})
        assert await held(short, user) == 1
        # Long enough for one renewal, which tells the output so far.
        await asyncio.sleep(2.5)
        for pid in _children(short.child("sentinel").pid):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises((openai.APIConnectionError, httpx2.HTTPError)):
            async for _ in stream:
                pass
    requests, given, produced = await until_booked(short, user, 30)
    (row,) = [row for row in (await short.control("provider", "served"))["rows"] if row["user"] == user.email]
    assert (requests, given) == (1, row["input_tokens"])
    assert 0 < produced <= row["output_tokens"] + 2
    assert await held(short, user) == 0


async def test_a_worker_that_freezes_past_its_lease_is_corrected(short: Stack) -> None:
    """SIGSTOP: charged by estimate when the lease is over; when it wakes and settles, corrected to the truth."""
    user = await make_user(short)
    async with asyncio.timeout(20):
        while len(_children(short.child("sentinel").pid)) < 2:
            await asyncio.sleep(0.1)
    async with sdk(short, user.token) as client:
        stream = await start_stream(client, user, 10, {"stall_after_events": 10, "stall_s": 7})
        workers = _children(short.child("sentinel").pid)
        frozen = await _owner(short, user, workers)
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert (await until_booked(short, user, 30))[0] == 1
        finally:
            os.kill(frozen, signal.SIGCONT)
        async for _ in stream:
            pass
    given, taken = await reconciled(short, [user])
    assert given == taken
    assert taken[user.email][0] == 1


async def _owner(stack: Stack, user: User, workers: list[int]) -> int:
    """The worker that holds the user's stream: the boot in its request id is named in its first log line."""
    async with Redis.from_url(stack.redis_url) as redis:
        names = [name async for name in redis.scan_iter("r:{*")]
        fields = [
            field.decode()
            for name in names
            for field, value in (await redis.hgetall(name)).items()
            if user.external_id.encode() in value
        ]
    boot = fields[0].split("_")[1]
    lines = [json.loads(line) for line in stack.child("sentinel").output().splitlines() if boot in line and '"boot"' in line]
    assert lines[0]["pid"] in workers
    return int(lines[0]["pid"])


async def test_limits_are_refreshed_ahead(short: Stack) -> None:
    """A warm caller's limits follow Zion's in the background: no request waits, also while Zion is away."""
    given = {"externalId": "grows", "email": "grows@example.test", "limits": {"ai_requests": 1000}}
    made = await short.control("zion", "users", given)

    async def shown(client: AsyncOpenAI) -> str:
        return (await client.models.with_raw_response.list()).headers["x-ratelimit-limit-requests"]

    async with sdk(short, made["jwt"]) as client:
        assert await shown(client) == "1000"
        await short.control("zion", "users", given | {"limits": {"ai_requests": 2000}})
        await short.control("zion", "faults", {"latency_ms": 700})
        try:
            await asyncio.sleep(1.1)
            # The one that is asked to refresh is answered from what is known, though Zion takes its time.
            assert await shown(client) == "1000"
            async with asyncio.timeout(15):
                while await shown(client) != "2000":
                    await asyncio.sleep(0.1)
        finally:
            await short.control("zion", "reset", {"faults": True})
        await short.control("zion", "faults", {"status": 500, "call": "limits"})
        await asyncio.sleep(1.1)
        assert await shown(client) == "2000"
        await short.control("zion", "reset", {"faults": True})


async def test_requests_of_one_caller_are_bounded(short: Stack) -> None:
    """Four at a time over two workers: of twelve slow ones four are served, the rest are told to wait a second."""
    user = await make_user(short)

    async def one(client: AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(
                model="gpt-4o", messages=HELLO, user=user.email, extra_body={"simulate": {"delay_ms": 1500}}
            )
        except openai.RateLimitError as error:
            assert error.response.headers["retry-after"] == "1"
            return str(error.code)
        return "served"

    async with sdk(short, user.token) as client:
        ends = Counter(await asyncio.gather(*(one(client) for _ in range(12))))
    assert ends == {"served": 4, "concurrency_limit_exceeded": 8}
    given, taken = await reconciled(short, [user])
    assert given == taken


async def test_sixteen_clients_at_one_limit(tmp_path: Path, stack: Stack) -> None:
    """16 client processes hammer one caller at its limit through 2 workers: exactly the limit is admitted."""
    user = await make_user(stack, requests=40)
    script = tmp_path / "client.py"
    script.write_text(
        "import http.client, sys\n"
        "served = 0\n"
        "line = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
        "for _ in range(12):\n"
        "    line.request('GET', '/v1/models', headers={'Authorization': f'Bearer {sys.argv[2]}'})\n"
        "    answer = line.getresponse()\n"
        "    body = answer.read()\n"
        "    assert answer.status == 200 or b'insufficient_quota' in body, body\n"
        "    served += answer.status == 200\n"
        "print(served)\n"
    )
    clients = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(script), str(stack.port), user.token), stdout=asyncio.subprocess.PIPE, env={}
        )
        for _ in range(16)
    ]
    outputs = await asyncio.gather(*(client.communicate() for client in clients))
    assert [client.returncode for client in clients] == [0] * 16
    assert sum(int(output) for output, _ in outputs) == 40
