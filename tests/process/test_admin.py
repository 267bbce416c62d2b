"""The admin listener: metrics and health where callers do not come, answered by the supervisor whatever its workers do."""

import asyncio
import os
import re
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sentinel.admin import metrics_page
from sentinel.admin.heartbeat import SILENT_S
from sentinel.admin.metrics_page import MetricsPage
from sentinel.devstack.claims import free_port
from sentinel.devstack.stack import Stack
from tests.process.conftest import SETTINGS
from tests.process.test_lifecycle import COMPLETE, run
from tests.support.raw import RawConnection, once, request
from tests.support.running import HELLO, make_user, whole

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

_WAIT_S = 60


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One stack for those that stop workers; its public port has metrics, but no health."""
    more = {"SENTINEL_PUBLIC_METRICS": "true", "SENTINEL_PUBLIC_HEALTH": "false"}
    async with Stack(tmp_path_factory.mktemp("admin"), settings=SETTINGS | more) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own(shared: Stack) -> Stack:
    """The same, running. One worker may be killed here: a second death within seconds stops the server."""
    return await whole(shared)


async def health(stack: Stack, which: str = "ready") -> tuple[int, str, dict[int, dict[str, Any]]]:
    """(status, what it is called, what is known of each worker)."""
    async with aiohttp.ClientSession() as http, http.get(f"{stack.admin_url}/health/{which}") as response:
        answer = await response.json()
        return response.status, answer["status"], {worker["pid"]: worker for worker in answer["workers"]}


async def workers_are(stack: Stack, *states: str) -> list[int]:
    """The workers, as soon as they are in these states, in any order."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            workers = (await health(stack))[2]
            if sorted(worker["status"] for worker in workers.values()) == sorted(states):
                return list(workers)
            await asyncio.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells what is shared")
async def test_workers_share_the_token_ranks(stack: Stack) -> None:
    """What the supervisor has read before it makes workers lies in memory once, which is more than half of a worker."""
    for pid in (await health(stack))[2]:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        resident, own = (int(re.findall(rf"^{name}:\s+(\d+) kB", rollup, re.MULTILINE)[0]) for name in ("Rss", "Private_Dirty"))
        assert own < resident * 0.6, (own, resident)


async def test_operators_have_a_port_of_their_own(stack: Stack) -> None:
    """Metrics are there and not on the public port; health is on both; what is neither is told in OpenAI's shape."""
    page = await once(stack.admin_port, request("GET", "/metrics"), method="GET")
    assert (page.status, page.header("connection")) == (200, "close")
    assert str(page.header("content-type")).startswith("text/plain")
    assert b"# TYPE sentinel_dead_letters_total counter" in page.body
    assert (await once(stack.port, request("GET", "/metrics"), method="GET")).status == 404
    for path in ("/health/live", "/health/ready", "/health/ready?verbose"):
        for port in (stack.port, stack.admin_port):
            answer = await once(port, request("GET", path), method="GET")
            assert (answer.status, answer.header("content-type")) == (200, "application/json"), (port, path)
    head = await once(stack.admin_port, request("HEAD", "/health/live"), method="HEAD")
    assert (head.status, head.body) == (200, b"")
    for path in ("/", "/v1/models", "/metrics/"):
        answer = await once(stack.admin_port, request("GET", path), method="GET")
        assert (answer.status, answer.error["type"]) == (404, "invalid_request_error")
    wrong = await once(stack.admin_port, request("POST", "/metrics"))
    assert (wrong.status, wrong.header("allow")) == (405, "GET, HEAD")


async def test_the_public_port_has_what_is_set(own: Stack) -> None:
    """SENTINEL_PUBLIC_METRICS and SENTINEL_PUBLIC_HEALTH turn each on and off there; the admin listener has both anyway."""
    page = await once(own.port, request("GET", "/metrics"), method="GET")
    assert b"# TYPE sentinel_dead_letters_total counter" in page.body
    for path in ("/health/live", "/health/ready"):
        assert (await once(own.port, request("GET", path), method="GET")).status == 404
        assert (await once(own.admin_port, request("GET", path), method="GET")).status == 200


async def test_a_worker_that_hangs_is_named(own: Stack) -> None:
    """One hangs: the host is alive and not ready. Both hang: not alive, and that is still said. They go on: all is well."""
    first, second = await workers_are(own, "ready", "ready")
    os.kill(first, signal.SIGSTOP)
    try:
        await workers_are(own, "silent", "ready")
        status, called, workers = await health(own)
        assert (status, called, workers[second]["checks"]["redis"]) == (503, "not ready", "ok")
        assert workers[first]["silent_seconds"] >= SILENT_S
        assert (await health(own, "live"))[:2] == (200, "live")
        os.kill(second, signal.SIGSTOP)
        await workers_are(own, "silent", "silent")
        assert (await health(own, "live"))[:2] == (503, "not live")
        assert (await once(own.admin_port, request("GET", "/metrics"), method="GET")).status == 200
    finally:
        for pid in (first, second):
            os.kill(pid, signal.SIGCONT)
    await workers_are(own, "ready", "ready")
    assert (await health(own))[:2] == (200, "ready")


async def test_a_dead_worker_is_forgotten(own: Stack) -> None:
    """kill -9 of a worker: its successor is listed, and nothing of it is left."""
    first, second = await workers_are(own, "ready", "ready")
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(_WAIT_S):
        while first in (workers := (await health(own))[2]) or len(workers) < 2:
            await asyncio.sleep(0.05)
    assert second in await workers_are(own, "ready", "ready")


async def test_a_drain_is_told_while_streams_go_on(own: Stack) -> None:
    """After SIGTERM the admin listener answers until the end: 503, and every worker says that it drains."""
    user = await make_user(own)
    body = {"model": "gpt-4o", "messages": HELLO, "stream": True, "simulate": {"stall_after_events": 4, "stall_s": 4}}
    head = {"authorization": f"Bearer {user.token}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{own.base_url}/chat/completions", json=body, headers=head) as response,
    ):
        await response.content.readline()
        os.kill(own.child("sentinel").pid, signal.SIGTERM)
        seen: set[str] = set()
        async with asyncio.timeout(_WAIT_S):
            while "draining" not in seen:
                status, _, workers = await health(own)
                seen = {worker["checks"]["admitting"] for worker in workers.values() if "checks" in worker}
        assert status == 503
        assert (await health(own, "live"))[0] == 200
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    await own.stop("sentinel")
    assert own.child("sentinel").returncode == 0


async def test_who_says_nothing_keeps_nobody_out(stack: Stack) -> None:
    """300 silent connections, and some that speak no HTTP: the next one is answered."""
    silent = [await asyncio.open_connection("127.0.0.1", stack.admin_port) for _ in range(300)]
    try:
        for content in (b"\r\n\r\n", b"GET\r\n\r\n", b"\xff \xff \xff\r\n\r\n", b"x" * 40_000):
            async with RawConnection(stack.admin_port) as connection:
                await connection.send(content)
                assert await connection.closed() == b""
        assert (await health(stack))[0] == 200
    finally:
        for _, writer in silent:
            writer.close()


async def test_workers_do_not_hold_the_admin_port(stack: Stack) -> None:
    """The socket it listens on is the supervisor's alone: a worker that outlives it takes no port along."""
    port = f"0100007F:{stack.admin_port:04X}"
    (inode,) = re.findall(rf"^ *\d+: {port} 00000000:0000 0A .*? (\d+) 1 ", Path("/proc/net/tcp").read_text(), re.MULTILINE)
    holders = set()
    for worker in [stack.child("sentinel").pid, *(await workers_are(stack, "ready", "ready"))]:
        links = [str(one.readlink()) for one in Path(f"/proc/{worker}/fd").iterdir()]
        if f"socket:[{inode}]" in links:
            holders.add(worker)
    assert holders == {stack.child("sentinel").pid}


async def test_one_page_is_made_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask at a time and one after the other, the page is made once, and again when it is a second old."""
    made: list[bytes] = []
    now = 100.0

    def render() -> bytes:
        made.append(b"page %d" % len(made))
        return made[-1]

    monkeypatch.setattr(metrics_page, "render", render)
    monkeypatch.setattr(metrics_page.time, "monotonic", lambda: now)
    page = MetricsPage()
    threads = [threading.Thread(target=page.text) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now += 0.99
    assert page.text() == b"page 0"
    now += 0.02
    assert page.text() == b"page 1"
    assert len(made) == 2


@pytest.mark.parametrize(
    ("host", "taken", "words"),
    [
        ("127.0.0.1", True, "choose another with SENTINEL_ADMIN_PORT"),
        ("192.0.2.1", False, "choose another with SENTINEL_ADMIN_HOST"),
        ("nowhere.invalid", False, "SENTINEL_ADMIN_HOST is nowhere.invalid, which cannot be resolved"),
    ],
)
async def test_where_it_cannot_listen_is_one_sentence(stack: Stack, host: str, taken: bool, words: str) -> None:
    """`sentinel serve` ends with 1 before anything is started, and names the setting."""
    port = stack.admin_port if taken else free_port()
    own = {"SENTINEL_HOST": "127.0.0.1", "SENTINEL_PORT": str(free_port())}
    own |= {"SENTINEL_ADMIN_HOST": host, "SENTINEL_ADMIN_PORT": str(port)}
    done = await asyncio.to_thread(run, "serve", **COMPLETE, **own)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert words in done.stderr
