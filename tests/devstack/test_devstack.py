"""The development stack by itself: a real Redis, Zion's simulator over real HTTP, and what starts and stops them."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sentinel.devstack import jwt
from sentinel.devstack.child import Child, StackError
from sentinel.devstack.claims import free_port, lock, require_free
from sentinel.devstack.provider_script import PIECES, pieces
from sentinel.devstack.redis_server import RedisServer, find_server
from sentinel.devstack.stack import Stack
from sentinel.devstack.zion_state import RefusedError, ZionState, period

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Zion's simulator alone."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        await stack.start("zion")
        yield stack
    finally:
        await stack.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def http(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    """A client, and a simulator as it is at its start."""
    await stack.control("zion", "reset", {})
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def zion(stack: Stack, http: aiohttp.ClientSession, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """(status, body) of one call to Zion's external endpoints."""
    url, key = f"{stack.zion_url}/api/v1/{path}", {"x-api-key": stack.zion_key}
    async with http.request("GET" if body is None else "POST", url, json=body, headers=key | headers) as response:
        return response.status, await response.json()


# Pure parts


async def test_a_token_holds_only_unchanged_and_in_time() -> None:
    """A token is good with its own secret, unchanged, before exp; everything else is None and never an error."""
    token = jwt.sign({"sub": "u", "exp": 100}, "secret")
    assert jwt.verify(token, "secret", 99) == {"sub": "u", "exp": 100}
    head, claims, mac = token.split(".")
    for wrong in (f"{head}.{claims}.{mac[:-4]}AAAA", f"{claims}.{claims}.{mac}", "a.b", "...", "a.b.c", "é.é.é", ""):
        assert jwt.verify(wrong, "secret", 99) is None
    assert jwt.verify(token, "secret", 100) is None
    assert jwt.verify(token, "other", 99) is None
    assert jwt.verify(jwt.sign({"sub": "u"}, "secret"), "secret", 99) is None


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("DAILY", datetime(2025, 12, 31, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        ("WEEKLY", datetime(2025, 12, 29, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC)),
        ("MONTHLY", datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        ("NEVER", datetime(2025, 1, 1, tzinfo=UTC), None),
    ],
)
async def test_periods_begin_as_zion_says(name: str, start: datetime, end: datetime | None) -> None:
    """Days at midnight UTC, weeks on Monday, months on the 1st; a lifetime never ends."""
    now = datetime(2025, 12, 31, 23, 59, tzinfo=UTC)
    assert period(name, now, datetime(2025, 1, 1, tzinfo=UTC)) == (start, end)


async def test_a_new_period_starts_at_zero() -> None:
    """What was used belongs to the period it was booked in; the ledger keeps all of it."""
    now = [datetime(2025, 12, 31, 23, 59, tzinfo=UTC)]
    state = ZionState(lambda: now[0])
    state.put_user({"email": "a@b", "externalId": "a", "limits": {"ai_requests": 5}, "resetPeriod": "DAILY"})
    assert state.apply({"email": "a@b", "aiRequests": 3}, key="", batch=False)["aiRequests"]["remaining"] == 2
    now[0] = datetime(2026, 1, 1, tzinfo=UTC)
    assert state.find(email="a@b").limits["ai_requests"].figures() == {"limit": 5, "used": 0, "remaining": 5}
    assert state.sums()["a@b"]["aiRequests"] == 3
    with pytest.raises(RefusedError, match="whole number"):
        state.apply({"email": "a@b", "aiRequests": -1}, key="", batch=False)


async def test_a_text_is_as_long_as_it_has_pieces() -> None:
    """The simulator's text repeats without end, and only its first piece has no blank before it."""
    assert "".join(pieces(3)) == "The river was"
    assert pieces(len(PIECES) + 1)[-1] == " The"


# Redis, ports, the directory


async def test_redis_keeps_what_it_was_told_over_a_crash(tmp_path: Path) -> None:
    """On a socket only, restarted after kill -9 on the same path, with its data; nothing is left when it stops."""
    server = RedisServer(tmp_path)
    await server.start()
    redis = Redis.from_url(server.url)
    try:
        await redis.set("k", "v")
        assert (await redis.config_get("port"))["port"] == "0"
        path = server.socket
        await server.stop()
        await server.start()
        assert server.socket == path
        assert await redis.get("k") == b"v"
        await server.kill()
        assert not await server.answers()
        await server.start()
        assert await redis.get("k") == b"v"
    finally:
        await redis.aclose()
        await server.stop()
    assert not server.socket.exists()


async def test_a_deep_directory_gets_a_short_socket(tmp_path: Path) -> None:
    """A path that no socket can have is replaced, and the replacement goes away again."""
    server = RedisServer(tmp_path / ("d" * 120))
    await server.start()
    short = server.socket.parent
    assert len(os.fsencode(server.socket)) <= 100
    await server.stop()
    await server.start()
    assert server.socket.parent == short
    await server.stop()
    assert not short.exists()


async def test_what_is_missing_or_taken_is_said(tmp_path: Path) -> None:
    """A port and a directory that somebody else has are one sentence each that says what to do."""
    found = tmp_path / "valkey-server"
    found.write_text("#!/bin/sh\n")
    found.chmod(0o700)
    assert find_server(str(tmp_path)) == found
    broken = Child("Redis", ["sh", "-c", "echo no room; exit 3"], log=tmp_path / "log", environ=os.environ)
    with pytest.raises(StackError, match=r"Redis ended at once \(exit code 3\):\nno room"):
        await broken.start(_never, timeout_s=10)
    slow = Child("Redis", ["sleep", "60"], log=tmp_path / "log", environ=os.environ)
    with pytest.raises(StackError, match="did not come up within"):
        await slow.start(_never, timeout_s=0.1)
    assert not slow.running
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"Port {port} is in use; .*--port"):
            require_free(port)
    assert free_port() < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    held = lock(tmp_path / "lock")
    with pytest.raises(StackError, match=rf"already runs in .*{os.getpid()}.*stop it"):
        lock(tmp_path / "lock")
    os.close(held)
    os.close(lock(tmp_path / "lock"))


async def test_children_end_with_whoever_started_them(tmp_path: Path) -> None:
    """Also when that one is killed with -9, and had no time to say so."""
    program = f"""
import asyncio, os, signal
from pathlib import Path
from sentinel.devstack.stack import Stack
async def main():
    stack = Stack(Path({str(tmp_path)!r}))
    await stack.start("redis", "zion")
    print(stack.child("redis").pid, stack.child("zion").pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(parent.communicate(), 30)
    assert parent.returncode == -signal.SIGKILL
    pids = [int(word) for word in output.split()]
    assert len(pids) == 2
    async with asyncio.timeout(5):
        while any(_runs(pid) for pid in pids):
            await asyncio.sleep(0.05)


async def _never() -> bool:
    return False


def _runs(pid: int) -> bool:
    try:
        return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is None
    except OSError:
        return False


# Zion


async def test_me_knows_tokens(stack: Stack, http: aiohttp.ClientSession) -> None:
    """The profile for a good token, 401 for none, a wrong or an old one, 403 for one who is not permitted."""

    async def me(token: str) -> tuple[int, Any]:
        return await zion(stack, http, "users/me", Authorization=f"Bearer {token}")

    status, answer = await me(stack.tokens["pro"])
    assert (status, answer["data"]["externalId"], answer["data"]["email"]) == (200, "demo-pro", "pro@demo.test")
    assert (await me("garbled"))[0] == 401
    for given, expected in (({"expires_in_s": -1}, 401), ({"permitted": False}, 403), ({"externalId": ""}, 200)):
        user = await stack.control("zion", "users", {"email": "x@b.test", "externalId": "x", **given})
        status, answer = await me(user["jwt"])
        assert status == expected
        assert answer["success"] is (expected == 200)
        assert "externalId" not in answer.get("data", {})


@pytest.mark.parametrize("form", ["unified", "per_limit"])
async def test_limits_come_in_the_users_format(stack: Stack, http: aiohttp.ClientSession, form: str) -> None:
    """Either format, with used and remaining; null is unlimited; enveloped or bare; 404 and 401 where they belong."""
    limits = {"ai_requests": {"limit": 10, "used": 4}, "ai_input_tokens": None}
    await stack.control("zion", "users", {"email": "u@b.test", "externalId": "u", "limits": limits, "format": form})
    _, enveloped = await zion(stack, http, "limits/external/u")
    await stack.control("zion", "faults", {"envelope": False})
    _, bare = await zion(stack, http, "limits/external/u")
    assert bare == enveloped["data"]
    entries = {entry["name"]: entry for entry in bare["limits"]}
    requests = entries["ai_usage"]["aiRequests"] if form == "unified" else entries["ai_requests"]
    assert (requests["limit"], requests["used"], requests["remaining"]) == (10, 4, 6)
    tokens = entries["ai_usage"]["aiInputTokens"] if form == "unified" else entries["ai_input_tokens"]
    assert (tokens["limit"], tokens["remaining"]) == (None, None)
    assert (await zion(stack, http, "limits/external/nobody"))[0] == 404
    assert (await zion(stack, http, "limits/external/u", **{"x-api-key": "wrong"}))[0] == 401


async def test_usage_is_booked_item_by_item(stack: Stack, http: aiohttp.ClientSession) -> None:
    """Both formats in one batch, in order; an item that fails fails alone; sizes and forms are checked."""
    await stack.control("zion", "faults", {"fail_emails": ["free@demo.test"]})
    items = [
        {"email": "pro@demo.test", "aiInputTokens": 7, "aiRequests": 1, "model": "gpt-4o"},
        {"externalId": "demo-pro", "limitName": "ai_output_tokens", "amount": 5},
        {"email": "free@demo.test", "aiRequests": 1},
        {"email": "nobody@demo.test", "aiRequests": 1},
        {"externalId": "demo-pro", "limitName": "seats"},
    ]
    batch = "usage/external/batch-increment"
    _, answer = await zion(stack, http, batch, {"increments": items})
    assert [result["success"] for result in answer["data"]["results"]] == [True, True, False, False, False]
    assert (answer["data"]["processed"], answer["data"]["failed"]) == (2, 3)
    assert answer["data"]["results"][0]["aiInputTokens"]["newValue"] == 7
    ledger = await stack.control("zion", "ledger")
    sums = {"aiInputTokens": 7, "aiOutputTokens": 5, "aiRequests": 1, "increments": 2}
    assert ledger["users"] == {"pro@demo.test": sums}
    _, single = await zion(stack, http, "usage/external/increment", items[0])
    assert single["data"]["aiInputTokens"]["used"] == 14
    for body, expected in (({"increments": []}, 400), ([], 400), ({"increments": items[:1] * 1001}, 413)):
        assert (await zion(stack, http, batch, body))[0] == expected
    await stack.control("zion", "faults", {"no_batch_endpoint": True})
    assert (await zion(stack, http, batch, {"increments": items}))[0] == 404


async def test_a_key_is_honoured_by_a_switch(stack: Stack, http: aiohttp.ClientSession) -> None:
    """Applied, then dropped: the same key is applied once where keys are honoured, twice where not; another body is 422."""
    body, batch = {"increments": [{"email": "pro@demo.test", "aiRequests": 1}]}, "usage/external/batch-increment"
    for honoured, booked in ((True, 1), (False, 2)):
        await stack.control("zion", "reset", {})
        await stack.control("zion", "faults", {"honour_idempotency": honoured, "apply_then_drop": True, "times": 1})
        with pytest.raises(aiohttp.ClientError):
            await zion(stack, http, batch, body, **{"Idempotency-Key": "k"})
        status, answer = await zion(stack, http, batch, body, **{"Idempotency-Key": "k"})
        assert (status, answer["data"]["processed"]) == (200, 1)
        ledger = await stack.control("zion", "ledger")
        assert (len(ledger["rows"]), ledger["replayed"]) == (booked, 2 - booked)
    await stack.control("zion", "reset", {"faults": True})
    assert (await zion(stack, http, batch, body, **{"Idempotency-Key": "k2"}))[0] == 200
    body["increments"][0]["aiRequests"] = 2
    assert (await zion(stack, http, batch, body, **{"Idempotency-Key": "k2"}))[0] == 422


async def test_faults_come_as_ordered(stack: Stack, http: aiohttp.ClientSession) -> None:
    """A status for one user or call, so many times, with Retry-After; latency; hanging; wrong orders are refused."""
    await stack.control("zion", "faults", {"status": 429, "user": "demo-pro", "times": 1, "retry_after": 2})
    assert (await zion(stack, http, "limits/external/demo-free"))[0] == 200
    url, headers = f"{stack.zion_url}/api/v1/limits/external/demo-pro", {"x-api-key": stack.zion_key}
    async with http.get(url, headers=headers) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "2")
    assert (await zion(stack, http, "limits/external/demo-pro"))[0] == 200
    await stack.control("zion", "faults", {"latency_ms": 60, "jitter_ms": 5})
    begun_s = time.monotonic()
    await zion(stack, http, "limits/external/demo-pro")
    assert time.monotonic() - begun_s >= 0.06
    await stack.control("zion", "faults", {"hang": True, "call": "limits"})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(zion(stack, http, "limits/external/demo-pro"), 0.3)
    for wrong in ({"statsu": 500}, {"call": "limits"}, {"status": 500, "hang": True}, {"status": 500, "call": "nothing"}):
        with pytest.raises(aiohttp.ClientResponseError, match="400"):
            await stack.control("zion", "faults", wrong)
