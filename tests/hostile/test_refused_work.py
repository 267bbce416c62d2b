"""Callers who only send what is refused, and bodies that take long to read."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.raw import RawConnection, once, request
from tests.support.running import HELLO, User, make_user, reconciled

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

RATE = 12
ASKED = 8  # by the normal caller
CONNECTIONS = 8
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": str(RATE),
    "SENTINEL_RATE_LIMIT_WINDOW_SECONDS": "600",
    "SENTINEL_DRAIN_SECONDS": "1",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers, and a window of few requests that ends with no test."""
    async with Stack(tmp_path_factory.mktemp("refused"), settings=SETTINGS) as running:
        yield running


def posting(user: User, body: bytes, path: str = "/v1/chat/completions", kind: str = "application/json") -> bytes:
    """One request with this body."""
    return request("POST", path, f"Authorization: Bearer {user.token}", f"Content-Type: {kind}", body=body)


def asking(user: User, **more: object) -> bytes:
    """One chat request."""
    body = {"model": "gpt-4o", "messages": HELLO, "user": user.email, "max_tokens": 8, **more}
    return posting(user, json.dumps(body).encode())


def too_large(user: User) -> bytes:
    """A head that promises more than is taken. The body does not come, so that this is the last request of its connection."""
    lines = [f"Authorization: Bearer {user.token}", "Content-Type: application/json", f"Content-Length: {2**30}"]
    return request("POST", "/v1/chat/completions", *lines, "Expect: 100-continue")


REFUSED: dict[str, tuple[int, Callable[[User], bytes]]] = {
    "an unknown path": (404, lambda user: posting(user, b"{}", "/v1/none")),
    "a wrong method": (405, lambda user: request("PUT", "/v1/chat/completions", f"Authorization: Bearer {user.token}")),
    "no JSON": (400, lambda user: posting(user, b"{{{{")),
    "a wrong type": (400, lambda user: asking(user, max_tokens="many")),
    "another content type": (415, lambda user: posting(user, b"a=b", kind="text/plain")),
    "an object of nobody": (404, lambda user: request("GET", "/v1/files/file-nobody", f"Authorization: Bearer {user.token}")),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_who_only_sends_what_is_refused_meets_429(stack: Stack, what: str) -> None:
    """As many as the window has requests are refused as what they are, the next ones are 429; others are served."""
    status, made = REFUSED[what]
    attacker, normal = await make_user(stack), await make_user(stack)
    async with RawConnection(stack.port) as connection:
        # The same worker for all: it learns who asks by the first.
        await connection.send(asking(attacker, max_tokens="many"))
        statuses = [(await connection.answer()).status]
        for _ in range(RATE + 3):
            await connection.send(made(attacker))
            answer = await connection.answer()
            statuses.append(answer.status)
        assert statuses == [400, *[status] * (RATE - 1), *[429] * 4], what
        assert answer.error["code"] == "rate_limit_exceeded"
        assert answer.header("retry-after") is not None
        await connection.send(asking(normal))
        assert (await connection.answer()).status == 200


async def test_what_is_too_large_counts_too(stack: Stack) -> None:
    """413 by the length that is declared, over connections of their own: each worker has a window of them."""
    attacker = await make_user(stack)
    statuses = Counter([(await once(stack.port, too_large(attacker))).status for _ in range(3 * RATE)])
    assert set(statuses) == {413, 429}
    assert statuses[413] <= 2 * RATE


async def test_refused_attempts_and_served_requests_share_a_window(stack: Stack) -> None:
    """What was refused is told with the next request that is served, and what is booked is what was served."""
    user = await make_user(stack)
    async with RawConnection(stack.port) as connection:
        for _ in range(RATE - 4):
            await connection.send(asking(user, max_tokens="many"))
            assert (await connection.answer()).status == 400
        statuses = []
        for _ in range(6):
            await connection.send(asking(user))
            statuses.append((await connection.answer()).status)
    assert statuses == [200] * 4 + [429] * 2
    served, booked = await reconciled(stack, [user])
    assert served == booked
    assert served[user.email][0] == 4


def small_objects(user: User) -> bytes:
    """A body of 1 MiB with 130 000 objects, which is refused for its last parameter."""
    content = b",".join([b'{"a":1}'] * 130_000)
    return posting(user, b'{"model":"gpt-4o","messages":[{"role":"user","content":[' + content + b']}],"max_tokens":"many"}')


def underscores(user: User) -> bytes:
    """A body of 16 MiB with nothing in it but what keys of ids have too."""
    return posting(
        user, b'{"model":"gpt-4o","input":"' + b"_" * (16 * 2**20) + b'","max_output_tokens":"many"}', "/v1/responses"
    )


@pytest.mark.parametrize("made", [small_objects, underscores])
async def test_bodies_that_take_long_to_read_stop_nobody(stack: Stack, made: Callable[[User], bytes]) -> None:
    """Eight connections of two callers that send them over and over: 400, then 429; a normal caller is always served."""
    attackers, normal = [await make_user(stack) for _ in range(2)], await make_user(stack)
    said = [made(attacker) for attacker in attackers]
    statuses: Counter[int] = Counter()
    over = False

    async def flood(number: int) -> None:
        while not over:
            async with RawConnection(stack.port) as connection:
                await connection.send(said[number % 2])
                statuses[(await connection.answer()).status] += 1

    flooding = [asyncio.create_task(flood(number)) for number in range(CONNECTIONS)]
    while not statuses:
        await asyncio.sleep(0.01)
    for _ in range(ASKED):
        assert (await once(stack.port, asking(normal))).status == 200
    over = True
    await asyncio.gather(*flooding)
    assert set(statuses) <= {400, 429}
    assert 0 < statuses[400] <= (RATE + CONNECTIONS) * 2 * len(attackers)
