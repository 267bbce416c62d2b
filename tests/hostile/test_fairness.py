"""A caller with many connections that never rest, beside one who asks now and then, and one who reads a stream."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.raw import RawAnswer, RawConnection, once, request
from tests.support.running import HELLO, User, make_user, metrics_page, reconciled

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

CONNECTIONS = 400
ASKED = 15  # by the normal caller
SETTINGS = {"SENTINEL_RATE_LIMIT_REQUESTS": "0", "SENTINEL_DRAIN_SECONDS": "1", "SENTINEL_TURN_WAIT_SECONDS": "0.01"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers in which a request waits for its turn only shortly."""
    async with Stack(tmp_path_factory.mktemp("fairness"), settings=SETTINGS) as running:
        yield running


def asking(user: User, **more: object) -> bytes:
    """One chat request."""
    body = json.dumps({"model": "gpt-4o", "messages": HELLO, "user": user.email, "max_tokens": 16, **more}).encode()
    return request(
        "POST",
        "/v1/chat/completions",
        f"Authorization: Bearer {user.token}",
        "Content-Type: application/json",
        body=body,
    )


@dataclass
class Flood:
    """Connections that ask again as soon as they are answered, whatever they are told."""

    port: int
    said: bytes
    connections: int = CONNECTIONS
    statuses: Counter[int] = field(default_factory=Counter)
    refusals: list[RawAnswer] = field(default_factory=list)
    over: bool = False

    async def __aenter__(self) -> "Flood":
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self.connections)]
        while self.statuses.total() < self.connections:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.over = True
        await asyncio.gather(*self._tasks)

    async def _ask(self) -> None:
        async with RawConnection(self.port) as connection:
            while not self.over:
                await connection.send(self.said)
                answer = await connection.answer()
                self.statuses[answer.status] += 1
                if answer.status != 200:
                    self.refusals.append(answer)


async def read_stream(stack: Stack, user: User) -> list[str]:
    """A stream, read to its end."""
    answer = await once(stack.port, asking(user, stream=True, max_tokens=400))
    assert answer.status == 200
    return [line for line in answer.body.decode().split("\n") if line.startswith("data: ")]


async def test_who_floods_waits_behind_itself(stack: Stack) -> None:
    """The normal caller is always served, and so is a stream; what is refused of the flood is told to come later.

    Who begins when, and who is refused, is held by tests/stages/test_turns.py: here the simulators and this process are as
    busy as Sentinel, have no turns, and may not be fast enough for anything to be refused.
    """
    many, one, reader = [await make_user(stack, output=10**9) for _ in range(3)]
    assert (await once(stack.port, asking(one))).status == 200
    streaming = asyncio.create_task(read_stream(stack, reader))
    async with Flood(stack.port, asking(many)) as flood:
        for _ in range(ASKED):
            assert (await once(stack.port, asking(one))).status == 200
    assert (await streaming)[-1] == "data: [DONE]"

    assert set(flood.statuses) <= {200, 429}
    assert flood.statuses[200] > CONNECTIONS
    for answer in flood.refusals:
        assert answer.error["code"] == "share_exceeded"
        assert answer.header("retry-after") == "1"
    served, booked = await reconciled(stack, [many, one, reader])
    assert served == booked
    assert served[one.email][0] == 1 + ASKED
    page = await metrics_page(stack)
    assert re.search(r"^sentinel_turn_seconds_count [1-9]", page, re.MULTILINE)  # the flood has waited for its turns
    assert ('sentinel_refusals_total{limit="share"}' in page) == (flood.statuses[429] > 0)
    assert "\nsentinel_turns_waiting 0.0\n" in page


@pytest.mark.parametrize("what", ["an unknown path", "no token"])
async def test_a_flood_of_refusals_stops_nobody(stack: Stack, what: str) -> None:
    """Connections that only send what is refused, without any credential: the normal caller is always served."""
    one = await make_user(stack)
    said = request("GET", "/v1/none") if what == "an unknown path" else request("GET", "/v1/models")
    async with Flood(stack.port, said) as flood:
        before = flood.statuses.total()
        for _ in range(ASKED):
            assert (await once(stack.port, asking(one))).status == 200
        passed = flood.statuses.total() - before
    assert set(flood.statuses) == {404 if what == "an unknown path" else 401}
    assert passed
