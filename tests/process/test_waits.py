"""A fault at each of the waits of a request, and at the end of the tick that settles it: what was served is booked once.

A request waits for Redis (`admit`), for the provider's head (`head`), and for its stream (tests/process/test_crash.py and
test_redis_away.py have that one); then its bill waits for Redis (`tick`).
"""

import asyncio
import re
import signal
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.process.test_crash import CHAT, SETTINGS, WAIT_S, at_work, settled, until
from tests.process.test_redis_away import nothing_held
from tests.support.running import User, booked, compared, kill_workers, make_user, metrics_page, reconciled, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

# A request that stands at a wait does so for longer than this.
STANDS_S = 0.3


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack that waits long for Redis, of one worker, which knows who asks; each test leaves all of it running."""
    settings = SETTINGS | {"SENTINEL_REDIS_TIMEOUT_SECONDS": "30"}
    async with Stack(tmp_path_factory.mktemp("waits"), workers=1, settings=settings) as running:
        yield running


async def known(stack: Stack) -> tuple[User, int]:
    """A user whose limits and profile are known, and how many requests it has been served."""
    user = await make_user(stack)
    async with sdk(stack, user.token) as client:
        await client.chat.completions.create(**CHAT, user=user.email)
    await reconciled(stack, [user])
    return user, 1


async def ask(stack: Stack, user: User, **simulate: object) -> None:
    """One more request, whatever becomes of it."""
    async with sdk(stack, user.token) as client:
        with pytest.raises(openai.APIError):
            await client.chat.completions.create(**CHAT, user=user.email, extra_body={"simulate": simulate})


async def stays_booked(stack: Stack, user: User) -> int:
    """How many requests are booked, once nothing is held and Zion was told so; a second charge would come with the next looks
    at the journals.
    """
    await nothing_held(stack, user)
    async with asyncio.timeout(WAIT_S):
        while any((await compared(stack, [user], wait_s=0)).waiting.get(user.email, ())):
            await asyncio.sleep(0.1)
    before = await booked(stack)
    await asyncio.sleep(1)
    assert await booked(stack) == before
    return before[user.email][0]


@pytest.mark.parametrize("fault", ["the client leaves", "the worker is killed", "the worker is stopped"])
async def test_a_fault_while_redis_is_asked(own: Stack, fault: str) -> None:
    """Redis is frozen under a request that it is to admit: the provider never sees it, and it is charged to nobody; but whom a
    kill takes, of whom nobody can say that, is charged once at most.
    """
    user, served = await known(own)
    await own.kill("redis", signal.SIGSTOP)
    try:
        asking = asyncio.create_task(ask(own, user))
        await asyncio.sleep(STANDS_S)
        assert not asking.done()
        if fault == "the client leaves":
            asking.cancel()
            await asyncio.wait([asking])
            await asyncio.sleep(STANDS_S)
        elif fault == "the worker is killed":
            await kill_workers(own)
            await asking
        else:
            stopping = asyncio.create_task(own.stop("sentinel"))
            await asking
    finally:
        await own.kill("redis", signal.SIGCONT)
    if fault == "the worker is stopped":
        await stopping
    if not own.child("sentinel").running:
        await own.start("sentinel")
    rows = [row for row in (await own.control("provider", "served"))["rows"] if row["user"] == user.email]
    assert len(rows) == served
    requests = await stays_booked(own, user)
    assert requests == served or (fault == "the worker is killed" and requests == served + 1)


@pytest.mark.parametrize("fault", ["redis is killed", "the worker is stopped"])
async def test_a_fault_while_the_provider_is_asked(own: Stack, fault: str) -> None:
    """Without Redis the answer comes, and its bill waits; a worker that is told to stop ends the request, and its prompt, which
    the provider has worked on, is booked once.
    """
    user, served = await known(own)
    if fault == "redis is killed":
        async with sdk(own, user.token) as client:
            simulate = {"simulate": {"delay_ms": 1000, "output_tokens": 7}}
            asking = asyncio.create_task(client.chat.completions.create(**CHAT, user=user.email, extra_body=simulate))
            await asyncio.sleep(STANDS_S)
            await own.kill("redis")
            answer = await asking
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 7
        await own.start("redis")
    else:
        asked = asyncio.create_task(ask(own, user, delay_ms=60_000, output_tokens=0))
        await at_work(own, user)
        await asyncio.sleep(STANDS_S)
        await own.stop("sentinel")
        await asked
        await own.start("sentinel")
    given, taken = await reconciled(own, [user])
    assert given == taken
    assert await stays_booked(own, user) == served + 1


@pytest.mark.parametrize("fault", ["redis is killed", "the worker is stopped"])
async def test_a_fault_while_the_end_of_a_tick_is_told(own: Stack, fault: str) -> None:
    """The bills of several requests that ended together are on their way to a frozen Redis: it dies, or the worker is told to
    stop, and each is booked once.
    """
    user, served = await known(own)
    async with sdk(own, user.token) as client, asyncio.timeout(WAIT_S):
        simulate = {"simulate": {"delay_ms": 1000, "output_tokens": 5}}
        asking = [
            asyncio.create_task(client.chat.completions.create(**CHAT, user=user.email, extra_body=simulate)) for _ in range(6)
        ]
        await asyncio.sleep(STANDS_S * 2)
        await own.kill("redis", signal.SIGSTOP)
        try:
            await asyncio.gather(*asking)
            await until(lambda: len(settled(own, user)) >= served + len(asking))
            if fault == "redis is killed":
                await own.kill("redis")
            else:
                stopping = asyncio.create_task(own.stop("sentinel"))
                await asyncio.sleep(STANDS_S)
        finally:
            await own.kill("redis", signal.SIGCONT)
    if fault == "redis is killed":
        await own.start("redis")
    else:
        await stopping
        await own.start("sentinel")
    given, taken = await reconciled(own, [user])
    assert given == taken
    assert await stays_booked(own, user) == served + len(asking)


@pytest.mark.parametrize("body", [b"", b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'])
async def test_who_leaves_while_zion_is_asked_is_gone(own: Stack, body: bytes) -> None:
    """Zion does not answer about a newcomer, who leaves: the request ends with that, though Zion is asked on."""
    user = await make_user(own)
    method, path = ("POST", "/v1/chat/completions") if body else ("GET", "/v1/models")
    before = await left(own)
    await own.control("zion", "faults", {"hang": True, "call": "me"})
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", own.port)
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await asyncio.sleep(STANDS_S)
        writer.transport.abort()
        async with asyncio.timeout(WAIT_S):
            while (gone := await left(own)) == before:
                await asyncio.sleep(0.1)
        assert gone == before + 1
    finally:
        await own.control("zion", "reset", {"faults": True})
    async with sdk(own, user.token, retries=3) as client:  # the question that hangs is for others too, until its time is over
        assert (await client.models.list()).data


async def left(stack: Stack) -> float:
    """How many requests ended because their client had left."""
    counts = re.findall(r'^sentinel_requests_total\{[^}]*status="499"[^}]*\} (\S+)$', await metrics_page(stack), re.MULTILINE)
    return sum(map(float, counts))
