"""Clients that never read their answers. Their connections end, and what they took of memory comes back."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.memory import rss_bytes
from tests.support.raw import RawConnection, request
from tests.support.running import HELLO, User, make_user, sdk
from tests.support.scripted import Asked, Scripted, floods, plain
from tests.support.sockets import waiting_bytes

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel closes these connections on Linux only"),
]

DEAF = 40
IDLE_S = 1
_WAIT_S = 60
# What the kernel may keep for one of them (128 KiB that are not sent, and what is under way), and the worker.
KERNEL_BYTES_MAX = 512 * 1024
WORKER_BYTES_MAX = 2 * 2**20
ANSWER = plain(
    b'{"id":"c","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)


@dataclass
class Town:
    """A stack of one worker, and its provider."""

    stack: Stack
    provider: Scripted
    user: User


async def well(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A short answer."""
    writer.write(ANSWER)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """A client may go without reading for a second."""
    async with Scripted() as provider:
        settings = {
            "OPENAI_API_URL": provider.url,
            "SENTINEL_RATE_LIMIT_REQUESTS": "0",
            "SENTINEL_DRAIN_SECONDS": "1",
            "SENTINEL_DOWNSTREAM_IDLE_TIMEOUT_SECONDS": str(IDLE_S),
        }
        async with Stack(tmp_path_factory.mktemp("deaf"), workers=1, settings=settings) as stack:
            provider.acts |= {"flood": floods(1500), "long": floods(80), "well": well}
            yield Town(stack, provider, await make_user(stack, output=10**9))


def asking(user: User, act: str, *, stream: bool) -> bytes:
    """One chat request."""
    body = json.dumps({"model": "gpt-4o", "messages": HELLO, "stream": stream, "act": act}).encode()
    lines = [f"Authorization: Bearer {user.token}", "Content-Type: application/json"]
    return request("POST", "/v1/chat/completions", *lines, body=body)


def deaf(stack: Stack, said: bytes) -> socket.socket:
    """A client that says this, as far as it is taken, and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", stack.port))
    connection.setblocking(False)
    connection.send(said)
    return connection


async def attack(town: Town, said: bytes) -> tuple[int, int]:
    """DEAF clients until the server's side of each is gone, though none has closed, and beside them a caller who is served:
    the most bytes that the kernel kept for one, and the most memory the worker had.
    """
    clients = [deaf(town.stack, said) for _ in range(DEAF)]
    ports = {client.getsockname()[1] for client in clients}
    kept = resident = served = 0
    try:
        async with asyncio.timeout(_WAIT_S), sdk(town.stack, town.user.token) as client:
            while held := [down for port, (down, _) in waiting_bytes(town.stack.port).items() if port in ports]:
                kept, resident = max(kept, *held), max(resident, rss_bytes(town.stack))
                await client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_body={"act": "well"})
                served += 1
                await asyncio.sleep(0.1)
    finally:
        for one in clients:
            one.close()
    assert served
    return kept, resident


@pytest.mark.parametrize("what", ["streams", "pipelined refusals without a token"])
async def test_who_never_reads_is_closed(town: Town, what: str) -> None:
    """Every such connection ends, the kernel keeps little for each meanwhile, and the worker's memory came back: a second
    attack does with what the first one took.
    """
    said = asking(town.user, "flood", stream=True) if what == "streams" else request("GET", "/none") * 20_000
    await attack(town, said)
    before = rss_bytes(town.stack)
    kept, resident = await attack(town, said)
    assert kept <= KERNEL_BYTES_MAX
    assert resident - before <= DEAF * WORKER_BYTES_MAX


async def test_who_reads_slowly_is_served(town: Town) -> None:
    """A client that takes some of its answer now and then, for longer than one may go without, gets all of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", town.stack.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=65_536)
    writer.write(asking(town.user, "long", stream=True))
    came = b""
    async with asyncio.timeout(_WAIT_S):
        while not came.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            part = await reader.read(300_000)
            assert part, "the connection was closed"
            came = (came + part)[-100:]
            await asyncio.sleep(0.1)
    writer.close()


async def test_pipelined_requests_are_worked_on_one_by_one(town: Town) -> None:
    """However many requests a connection brings at a time, one is under way; all are answered in order."""
    going = asyncio.Event()

    async def wait(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        await going.wait()
        writer.write(ANSWER)

    town.provider.acts["wait"] = wait
    before = len(town.provider.asked)
    async with RawConnection(town.stack.port) as connection:
        await connection.send(asking(town.user, "wait", stream=False) * 10)
        async with asyncio.timeout(_WAIT_S):
            while len(town.provider.asked) == before:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        assert len(town.provider.asked) == before + 1
        going.set()
        for _ in range(10):
            assert (await connection.answer()).status == 200
    assert len(town.provider.asked) == before + 10
