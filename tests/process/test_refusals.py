"""Who is over a limit, over real HTTP: refused at once and from memory, until the very limit lets go."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.raw import RawAnswer, RawConnection, request
from tests.support.running import HELLO, User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "gpt-4o", "messages": HELLO}).encode()
# Read, it would be a 400.
UNREADABLE = b"[" * 100_000
ALIVE = request("GET", "/health/live")
WINDOW_S = 2


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def busy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack of one worker that lets two requests through in a short window."""
    settings = {"SENTINEL_RATE_LIMIT_REQUESTS": "2", "SENTINEL_RATE_LIMIT_WINDOW_SECONDS": str(WINDOW_S)}
    async with Stack(tmp_path_factory.mktemp("refusals"), workers=1, settings=settings) as running:
        yield running


def asking(user: User, body: bytes = BODY, *lines: str) -> bytes:
    """A chat of a user."""
    return request("POST", CHAT, f"Authorization: Bearer {user.token}", "Content-Type: application/json", *lines, body=body)


async def answered(connection: RawConnection, content: bytes) -> RawAnswer:
    """The answer to these bytes."""
    await connection.send(content)
    return await connection.answer()


def wait_ms(answer: RawAnswer) -> int:
    """How long the answer says to wait."""
    return int(answer.header("retry-after-ms") or "")


async def test_a_full_window_refuses_from_memory_until_it_has_room(busy: Stack) -> None:
    """Over one connection: refused with a body that is read, then with one that is not; and let in when the window is."""
    user = await make_user(busy)
    async with RawConnection(busy.port) as connection:
        for _ in range(2):
            assert (await answered(connection, asking(user))).status == 200
        begun_s = time.monotonic()
        refused = [await answered(connection, asking(user, body)) for body in (BODY, UNREADABLE, BODY)]
        passed_ms = (time.monotonic() - begun_s) * 1000
        assert [(answer.status, answer.error["code"]) for answer in refused] == [(429, "rate_limit_exceeded")] * 3
        assert len({answer.header("x-request-id") for answer in refused}) == 3
        waits = [wait_ms(answer) for answer in refused]
        assert sorted(waits, reverse=True) == waits
        assert waits[0] - waits[2] <= passed_ms + 1
        assert [answer.header("x-ratelimit-remaining-requests") for answer in refused] == ["0"] * 3
        await asyncio.sleep(waits[2] / 1000 + 0.05)
        assert (await answered(connection, asking(user))).status == 200


async def test_a_used_up_limit_is_refused_before_a_body_is_wanted(busy: Stack) -> None:
    """Who asks first is told no without a 100; who sends all of a large body first has the answer, and its next its own."""
    spent = await make_user(busy, requests={"limit": 5, "used": 5})
    async with RawConnection(busy.port) as connection:
        assert (await answered(connection, asking(spent))).error["code"] == "insufficient_quota"
        large = await answered(connection, asking(spent, UNREADABLE * 50))
        assert (large.status, large.error["code"]) == (429, "insufficient_quota")
        assert large.header("x-should-retry") == "false"
        await connection.send(ALIVE)
        assert (await connection.answer(method="GET")).status == 200
    async with RawConnection(busy.port) as connection:
        assert (await answered(connection, asking(spent))).status == 429
        asked_first = await answered(connection, asking(spent, b"", "Expect: 100-continue", f"Content-Length: {len(BODY)}"))
        assert (asked_first.status, asked_first.error["code"]) == (429, "insufficient_quota")
        assert await connection.closed() == b""
