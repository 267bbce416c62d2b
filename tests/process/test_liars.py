"""A provider that lies, breaks off or takes nothing: the client gets an honest error, the worker lives, no secret is told."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import openai
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack.stack import Stack
from tests.support.liar import Liar
from tests.support.running import HELLO, User, booked, make_user, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_ZION_REQUESTS_PER_SECOND": "1000",
    "SENTINEL_UPSTREAM_CONNECTIONS_MAX": "3",
    "SENTINEL_UPSTREAM_IDLE_TIMEOUT_SECONDS": "5",
    "SENTINEL_DRAIN_SECONDS": "1",
}


@dataclass
class Town:
    """A stack whose provider is a liar."""

    stack: Stack
    liar: Liar


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """One stack, one worker (so that its connections can be counted), one liar."""
    async with (
        Liar() as liar,
        Stack(tmp_path_factory.mktemp("town"), workers=1, settings=SETTINGS | {"OPENAI_API_URL": liar.url}) as stack,
    ):
        yield Town(stack, liar)


async def ask(town: Town, user: User, act: str, *, timeout_s: float = 30) -> openai.types.chat.ChatCompletion:
    """One chat whose provider does `act`."""
    async with sdk(town.stack, user.token) as client:
        return await client.with_options(timeout=timeout_s).chat.completions.create(
            model="gpt-4o", messages=HELLO, extra_body={"act": act}
        )


@pytest.mark.parametrize(
    "act", ["huge header", "status 99", "status 700", "redirect", "garbage", "key quoted", "reset", "bad chunk"]
)
async def test_what_is_not_an_answer_is_502(town: Town, act: str) -> None:
    """Rules V5, X18, Y4, Y5: a lie before a body's first byte is a 502 in OpenAI's shape; the next request is served."""
    user = await make_user(town.stack)
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(town, user, act)
    assert caught.value.status_code == 502
    assert caught.value.type == "server_error"
    answer = await ask(town, user, "well")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10


async def test_a_short_body_is_not_whole(town: Town) -> None:
    """Rule X13: fewer bytes than promised never look complete."""
    with pytest.raises(openai.APIConnectionError):
        await ask(town, await make_user(town.stack), "short")


async def test_no_secret_is_in_any_log(town: Town) -> None:
    """Y5: after every kind of failure, neither the provider's key, nor Zion's, nor a caller's token stands in the log."""
    user = await make_user(town.stack)
    for act in ("huge header", "garbage", "key quoted", "reset"):
        with pytest.raises(openai.InternalServerError):
            await ask(town, user, act)
    await town.stack.control("zion", "faults", {"status": 503, "call": "me", "times": 1})
    stranger = await make_user(town.stack)
    with pytest.raises(openai.InternalServerError):
        await ask(town, stranger, "well")
    log = town.stack.child("sentinel").output()
    assert "request failed" in log
    for secret in (town.stack.provider_key, town.stack.zion_key, user.token, stranger.token):
        assert secret not in log


async def freed(town: Town, user: User) -> None:
    """Wait until a connection is free: a worker takes a moment to notice that its client has left. TimeoutError after 10 s."""
    async with asyncio.timeout(10):
        while True:
            try:
                await ask(town, user, "well")
            except openai.InternalServerError as refused:
                assert refused.code == "upstream_connections_exhausted"
                await asyncio.sleep(0.02)
            else:
                return


async def test_leaving_during_a_retry_gives_the_connection_back(town: Town) -> None:
    """A client that leaves while a failed answer is drained takes no connection along: 3 are enough for 9 leavers."""
    user = await make_user(town.stack)
    for _ in range(3):
        # A retry needs a budget, which requests earn.
        for _ in range(10):
            await ask(town, user, "well")
        seen = len(town.liar.asked)
        leavers = [asyncio.create_task(ask(town, user, "500 without a body")) for _ in range(3)]
        async with asyncio.timeout(10):
            while len(town.liar.asked) < seen + 3:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        for leaver in leavers:
            leaver.cancel()
        await asyncio.wait(leavers)
        await freed(town, user)
    await asyncio.sleep(0.5)
    for answer in await asyncio.gather(*(ask(town, user, "well") for _ in range(3))):
        assert answer.usage is not None


async def test_what_was_never_sent_is_not_billed(town: Town) -> None:
    """A client that leaves while the connection is still being made owes nothing, and nothing stays held."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    # Fill the line of waiting connections, so that the next one hangs while it connects.
    waiting = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(full.getsockname())
        waiting.append(one)
    settings = SETTINGS | {
        "OPENAI_API_URL": f"http://127.0.0.1:{full.getsockname()[1]}/v1",
        "SENTINEL_REPORT_INTERVAL_MS": "50",
    }
    try:
        async with Stack(town.stack.directory / "hanging", workers=1, settings=settings) as stack:
            user = await make_user(stack)
            with pytest.raises(openai.APITimeoutError):
                await ask(Town(stack, town.liar), user, "well", timeout_s=1)
            async with asyncio.timeout(10), Redis.from_url(stack.redis_url) as redis:
                while any([await redis.hlen(name) async for name in redis.scan_iter("r:{*")]):
                    await asyncio.sleep(0.05)
            async with sdk(stack, user.token) as client:
                with pytest.raises(openai.InternalServerError):
                    await client.models.list()
            await stack.stop("sentinel")
            assert user.email not in await booked(stack)
    finally:
        for one in (*waiting, full):
            one.close()


async def test_a_drain_ends_although_clients_do_not(town: Town, tmp_path: object) -> None:
    """A body that stops arriving and a half-sent head do not keep a worker from settling, reporting and closing."""
    stack = town.stack
    user = await make_user(stack)
    await ask(town, user, "well")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\n"
    _, body_writer = await asyncio.open_connection("127.0.0.1", stack.port)
    body_writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
    _, head_writer = await asyncio.open_connection("127.0.0.1", stack.port)
    head_writer.write(head.encode())
    await asyncio.gather(body_writer.drain(), head_writer.drain())
    await stack.stop("sentinel")
    log = stack.child("sentinel").output()
    assert '"event":"worker closed"' in log
    for writer in (body_writer, head_writer):
        writer.close()
    await stack.start("sentinel")
    async with asyncio.timeout(20):
        while user.email not in (sums := await booked(stack)):
            await asyncio.sleep(0.1)
    assert sums[user.email] == (1, 7, 3)
