"""Requests that are small on the wire and large once they are read. A worker takes what its bounds say, and a
caller beside them is served as ever. `python -m bench.attacked_memory` has the figures of larger attacks.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.memory import begin_peak, peak_bytes, rss_bytes, worker_pid
from tests.support.raw import RawConnection, once, request
from tests.support.running import HELLO, User, make_user
from tests.support.scripted import Asked, Scripted, answers

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is the kernel's own figure, on Linux only"),
]

MB = 2**20
BODY, ROOM = 4 * MB, 64 * MB
# What a worker takes beside bodies: the decoder's and the tokenizer's copies of the one that is read, and the connections.
BESIDE = 48 * MB
ATTACKERS = 24
EMOJI = "\N{GRINNING FACE}"
ANSWER = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}).encode()


@dataclass
class Town:
    """A stack of one worker, and how many of its requests the provider was asked and has not answered."""

    stack: Stack
    waiting: Counter[str]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """Little room for bodies, and a provider that lets the attackers wait."""
    waiting = Counter[str]()

    async def waits(asked: Asked, _writer: asyncio.StreamWriter) -> None:
        asked.body = b""
        waiting["waits"] += 1
        await asyncio.sleep(3600)

    async with Scripted() as provider:
        provider.acts |= {"waits": waits, "yes": answers(ANSWER)}
        settings = {
            "OPENAI_API_URL": provider.url,
            "SENTINEL_RATE_LIMIT_REQUESTS": "0",
            "SENTINEL_DRAIN_SECONDS": "1",
            "SENTINEL_BODY_BYTES_MAX": str(BODY),
            "SENTINEL_BODIES_BYTES_MAX": str(ROOM),
            "SENTINEL_CALLER_BODIES_BYTES_MAX": str(ROOM // 2),
            "SENTINEL_REDIS_TIMEOUT_SECONDS": "1",
        }
        async with Stack(tmp_path_factory.mktemp("memory"), workers=1, settings=settings) as stack:
            yield Town(stack, waiting)


def chat(user: User, content: bytes, act: str) -> bytes:
    """A chat of this content, as JSON."""
    lines = [f"Authorization: Bearer {user.token}", "Content-Type: application/json"]
    body = b'{"model":"gpt-4o","act":"%s","messages":[{"role":"user","content":%s}]}' % (act.encode(), content)
    return request("POST", "/v1/chat/completions", *lines, body=body)


async def unanswered(town: Town, said: bytes, over: asyncio.Event) -> int:
    """The status of a refusal, 0 where the provider is asked."""
    async with RawConnection(town.stack.port) as connection:
        await connection.send(said)
        answering, ending = asyncio.create_task(connection.answer()), asyncio.create_task(over.wait())
        await asyncio.wait([answering, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if answering.done():
            return (await answering).status
        answering.cancel()
        return 0


async def attack(town: Town, content: bytes, callers: int) -> tuple[Counter[int], Counter[int], int, int]:
    """ATTACKERS at once of so many callers, each of which waits for the provider or is refused; what they and another caller
    beside them are answered, the most memory meanwhile, and what there is while they wait.
    """
    users, other = [await make_user(town.stack, input=10**9) for _ in range(callers)], await make_user(town.stack)
    hello = json.dumps(HELLO[0]["content"]).encode()
    assert (await once(town.stack.port, chat(other, hello, "yes"))).status == 200
    pid, over, served = worker_pid(town.stack), asyncio.Event(), Counter[int]()
    town.waiting.clear()
    before = rss_bytes(town.stack)
    begin_peak(pid)
    asking = [
        asyncio.create_task(unanswered(town, chat(users[at % callers], content, "waits"), over)) for at in range(ATTACKERS)
    ]
    async with asyncio.timeout(60):
        while town.waiting["waits"] + sum(task.done() for task in asking) < ATTACKERS:
            served[(await once(town.stack.port, chat(other, hello, "yes"))).status] += 1
    peak, while_waiting = peak_bytes(pid) - before, rss_bytes(town.stack) - before
    over.set()
    return Counter(await asyncio.gather(*asking)), served, peak, while_waiting


async def test_one_wide_character_does_not_multiply_a_body(town: Town) -> None:
    """A text takes four bytes a character where one of them is an emoji: that counts before it is decoded. Who takes all that a
    caller may is 429, two callers who take all there is are 503, and the others, with less, are served.
    """
    text = json.dumps("x" * (BODY - 1000) + EMOJI, ensure_ascii=False).encode()
    answered, served, peak, _ = await attack(town, text, 2)
    assert set(served) == {200}
    assert set(answered) <= {0, 429, 503}
    assert answered[0] >= 1
    assert peak <= ROOM + BESIDE


async def test_what_was_decoded_does_not_wait_for_the_answer(town: Town) -> None:
    """Many small values take thirty times their bytes; when their tokens are counted they are gone, whoever waits for what."""
    objects = b"[" + b",".join([b'{"":0}'] * 40_000) + b"]"
    answered, served, peak, while_waiting = await attack(town, objects, 2)
    assert set(served) == {200}
    assert set(answered) <= {0, 429, 503}
    assert answered[0] >= 1
    assert peak <= ROOM + BESIDE
    # Decoded they would be 9 MiB each.
    assert while_waiting <= ATTACKERS * len(objects) + BESIDE
