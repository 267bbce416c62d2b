"""Who only holds connections keeps nobody out, and the operator is answered meanwhile."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.child import Child
from sentinel.devstack.claims import free_port
from sentinel.devstack.simulator import is_ok
from sentinel.devstack.stack import Stack
from tests.process.test_listening import environ
from tests.support.raw import RawConnection, once, request
from tests.support.running import HELLO, make_user, metrics_page, sdk
from tests.support.sockets import waiting_bytes

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(sys.platform != "linux", reason="connections are looked at on Linux only"),
]

PLACES = 64
FIRST_S = 2
# Far below the 60 s that a head may take otherwise.
_WAIT_S = 30
ALIVE = request("GET", "/health/live")
# Refused before its body is read, of which more comes again and again.
REFUSED = request("POST", "/v1/chat/completions", "Content-Length: 1000000")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One worker with few places."""
    settings = {
        "SENTINEL_RATE_LIMIT_REQUESTS": "0",
        "SENTINEL_DRAIN_SECONDS": "1",
        "SENTINEL_CONNECTIONS_MAX": str(PLACES),
        "SENTINEL_FIRST_REQUEST_TIMEOUT_SECONDS": str(FIRST_S),
    }
    async with Stack(tmp_path_factory.mktemp("connections"), workers=1, settings=settings) as running:
        yield running


async def ended(stack: Stack, reason: str) -> float:
    """How many connections were ended for this reason."""
    name = f'sentinel_connections_ended_total{{reason="{reason}"}} '
    page = await metrics_page(stack)
    return sum(float(line.removeprefix(name)) for line in page.splitlines() if line.startswith(name))


def silent(stack: Stack) -> socket.socket:
    """A connection over which nothing is sent."""
    return socket.create_connection(("127.0.0.1", stack.port))


async def dripping(connections: list[socket.socket]) -> None:
    """A byte over each of them, again and again."""
    while True:
        for connection in connections:
            with suppress(OSError):
                connection.send(b"x", socket.MSG_DONTWAIT)
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("said", [b"", ALIVE, REFUSED], ids=["nothing", "one request each", "a refused body each"])
async def test_who_holds_every_place_keeps_nobody_out(stack: Stack, said: bytes) -> None:
    """More connections than places, silent, after one answer, or with a body that goes on behind its refusal: the operator is
    answered at once, a caller soon, by places that were taken from them.
    """
    user = await make_user(stack)
    before = await ended(stack, "pressed")
    holding = [silent(stack) for _ in range(3 * PLACES)]
    drip = asyncio.create_task(dripping(holding if said == REFUSED else []))
    try:
        for connection in holding:
            connection.sendall(said)
        async with aiohttp.ClientSession() as http, asyncio.timeout(_WAIT_S):
            for path in ("/health/live", "/health/ready", "/metrics"):
                async with http.get(f"{stack.admin_url}{path}") as response:
                    assert response.status == 200
        async with asyncio.timeout(_WAIT_S), sdk(stack, user.token) as client:
            answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert answer.choices
        async with asyncio.timeout(_WAIT_S):
            while await ended(stack, "pressed") < before + PLACES:
                pass
    finally:
        drip.cancel()
        for connection in holding:
            connection.close()


@pytest.mark.parametrize("said", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
@pytest.mark.parametrize("drip", [b"", b"x"], ids=["silent", "a byte at a time"])
async def test_a_new_connection_has_to_ask(stack: Stack, said: bytes, drip: bytes) -> None:
    """A connection whose first request does not come is closed, however its head is dripped; and that is counted."""
    before = await ended(stack, "first request")
    async with RawConnection(stack.port) as connection:
        await connection.send(said)
        closing = asyncio.create_task(connection.closed())
        async with asyncio.timeout(_WAIT_S):
            while not closing.done():
                await connection.send(drip)
                await asyncio.sleep(0.2)
        assert await closing == b""
    assert await ended(stack, "first request") > before


async def test_who_has_asked_may_take_time(stack: Stack) -> None:
    """A slow body, a slow answer and the pause between two requests are no first request, and have times of their own."""
    user = await make_user(stack)
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
    head = request("POST", "/v1/chat/completions", f"Authorization: Bearer {user.token}", "Content-Type: application/json")
    head = head[:-2] + b"Content-Length: %d\r\n\r\n" % len(body)
    async with RawConnection(stack.port) as connection:
        await connection.send(head + body[:9])
        await asyncio.sleep(FIRST_S * 2)
        await connection.send(body[9:])
        assert (await connection.answer()).status == 200
        await asyncio.sleep(FIRST_S * 2)
        await connection.send(ALIVE)
        assert (await connection.answer(method="GET")).status == 200


async def test_connections_are_counted(stack: Stack) -> None:
    """The gauge says how many there are: these, beside what others left."""
    async with asyncio.timeout(_WAIT_S):
        while waiting_bytes(stack.port):
            await asyncio.sleep(0.1)
    holding = []
    for _ in range(5):
        connection = RawConnection(stack.port)
        holding.append(await connection.__aenter__())
        await connection.send(ALIVE)
        await connection.answer(method="GET")
    await asyncio.sleep(1.5)
    assert "\nsentinel_connections 5.0\n" in await metrics_page(stack)
    for connection in holding:
        await connection.__aexit__(None, None, None)


async def test_too_few_open_files_are_told(tmp_path: Path) -> None:
    """All open files allowed are used; where they are too few, a worker takes fewer connections, and an error says so."""
    admin_port = free_port()
    own = environ("127.0.0.1", free_port(), tmp_path) | {"SENTINEL_ADMIN_PORT": str(admin_port)}
    command = ["bash", "-c", f"ulimit -Sn 256; ulimit -Hn 512; exec {sys.executable} -m sentinel serve"]
    serving = Child("Sentinel", command, log=tmp_path / "log", environ=own, cwd=tmp_path)
    try:
        await serving.start(lambda: is_ok(f"http://127.0.0.1:{admin_port}/health/live"), timeout_s=60)
        (line,) = (line for line in serving.output().splitlines() if "too few open files" in line)
        assert '"level":"error"' in line
        assert '"allowed":512,"needed":16384,"connections_max":256' in line
        answer = await once(admin_port, request("GET", "/health/live"), method="GET")
        (pid,) = re.findall(rb'"pid":(\d+)', answer.body)
        limits = Path(f"/proc/{int(pid)}/limits").read_text()
        assert re.search(r"^Max open files +512 +512 ", limits, re.MULTILINE), limits
        assert os.getpgid(int(pid)) == os.getpgid(serving.pid)
    finally:
        await serving.stop(timeout_s=40)
