"""Bodies that are promised, dripped, or large and never whole. Beside them others are served as ever."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.raw import RawConnection, once, request
from tests.support.running import HELLO, User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

MB = 2**20
ROOM, SHARE, BODY, ARRIVING = 64 * MB, 24 * MB, 8 * MB, 8
WORKERS = 2
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_DRAIN_SECONDS": "1",
    "SENTINEL_BODIES_BYTES_MAX": str(ROOM),
    "SENTINEL_CALLER_BODIES_BYTES_MAX": str(SHARE),
    "SENTINEL_BODY_BYTES_MAX": str(BODY),
    "SENTINEL_BODY_TIMEOUT_SECONDS": "8",
    "SENTINEL_CALLER_ARRIVING_BODIES_MAX": str(ARRIVING),
    # A half of them is what one caller may have for uploads.
    "SENTINEL_UPSTREAM_CONNECTIONS_MAX": str(2 * ARRIVING),
    # A busy machine is not what is tried here.
    "SENTINEL_REDIS_TIMEOUT_SECONDS": "1",
}
LARGE = 4 * MB
ATTACKERS = 32


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two workers with little room for bodies."""
    async with Stack(tmp_path_factory.mktemp("bodies"), workers=WORKERS, settings=SETTINGS) as running:
        yield running


def chat(user: User, *, image_bytes: int = 0) -> bytes:
    """A chat that is served, with an image of this size."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * image_bytes, "detail": "low"}}
    said = [{"role": "user", "content": [image]}] if image_bytes else HELLO
    body = json.dumps({"model": "gpt-4o", "messages": said, "user": user.email}).encode()
    return head(user) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def head(user: User) -> bytes:
    """The head of a chat, but for its framing."""
    return request("POST", "/v1/chat/completions", f"Authorization: Bearer {user.token}", "Content-Type: application/json")[:-2]


def upload(user: User, content: bytes, *, length: int = 0) -> bytes:
    """A file that is sent up, or the beginning of a body of this length."""
    form = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    form += b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + content
    form += b"" if length else b"\r\n--x--\r\n"
    lines = [f"Authorization: Bearer {user.token}", "Content-Type: multipart/form-data; boundary=x"]
    return request("POST", "/v1/files", *lines)[:-2] + b"Content-Length: %d\r\n\r\n" % (length or len(form)) + form


async def usual(stack: Stack, user: User, until: "asyncio.Task[Counter[int]]") -> Counter[int]:
    """What another caller is answered meanwhile, over connections of its own, so that each worker is asked: of four requests
    one is large, and one an upload.
    """
    seen = Counter[int]()
    kinds = itertools.cycle((chat(user, image_bytes=LARGE), chat(user), upload(user, b"x"), chat(user)))
    while not until.done():
        seen[(await once(stack.port, next(kinds))).status] += 1
        await asyncio.sleep(0.05)
    return seen


async def unending(stack: Stack, sent: bytes, drip: bytes) -> int:
    """The answer to what comes so, then a `drip` every second, and no end."""
    async with RawConnection(stack.port) as connection:
        await connection.send(sent)
        answering = asyncio.create_task(connection.answer())
        while not answering.done():
            await asyncio.wait([answering], timeout=1)
            await connection.send(drip)
        return (await answering).status


async def attack(stack: Stack, sent: bytes, drip: bytes) -> Counter[int]:
    """What all of them are answered."""
    return Counter(await asyncio.gather(*(unending(stack, sent, drip) for _ in range(ATTACKERS))))


@pytest.mark.parametrize(
    ("sent", "drip", "refusals"),
    [
        # Each worker waits for so many of them, and gives them up when they are slower than they may be.
        pytest.param(b"", b"", {408: WORKERS * ARRIVING}, id="promised"),
        pytest.param(b"{", b"x", {408: WORKERS * ARRIVING}, id="dripped"),
        pytest.param(b" " * LARGE, b"", {408: WORKERS * SHARE // LARGE}, id="large"),
    ],
)
async def test_bodies_that_do_not_come_keep_nobody_out(
    stack: Stack, sent: bytes, drip: bytes, refusals: dict[int, int]
) -> None:
    """However many bodies one caller begins and does not end, every other is served; of his own, each worker waits for a few,
    which are 408 as they are too slow, and the others are 429.
    """
    attacker, other = await make_user(stack), await make_user(stack)
    promise = head(attacker) + b"Content-Length: %d\r\n\r\n" % BODY
    attacking = asyncio.create_task(attack(stack, promise + sent, drip))
    served = await usual(stack, other, attacking)
    answered = await attacking
    assert set(served) == {200}
    assert served.total() > 10
    assert set(answered) <= {408, 429}
    for status, most in refusals.items():
        assert 0 < answered[status] <= most
    # All room is back: a caller may do so again, and is served.
    for _ in range(4):
        assert (await once(stack.port, chat(attacker, image_bytes=BODY - 1000))).status == 200


async def test_slow_uploads_leave_connections_to_others(stack: Stack) -> None:
    """Each upload that streams by has a connection to the provider: one caller gets half of them at most, and those that come
    too slowly are 408; every other caller is served, uploads too.
    """
    attacker, other = await make_user(stack), await make_user(stack)
    attacking = asyncio.create_task(attack(stack, upload(attacker, b"", length=100 * MB), b"x"))
    served = await usual(stack, other, attacking)
    answered = await attacking
    assert set(served) == {200}
    assert served.total() > 10
    assert set(answered) <= {408, 429}
    assert 0 < answered[408] <= WORKERS * ARRIVING
    for _ in range(4):
        assert (await once(stack.port, upload(attacker, b"x"))).status == 200


async def test_who_has_nothing_left_is_refused_before_a_body_is_read(stack: Stack) -> None:
    """A caller without quota cannot even promise: the answer comes before any byte of the body."""
    spent = await make_user(stack, requests={"limit": 5, "used": 5})
    for _ in range(WORKERS * 4):
        await once(stack.port, chat(spent))  # until each worker has asked
    async with RawConnection(stack.port) as connection:
        await connection.send(head(spent) + b"Content-Length: %d\r\n\r\n" % BODY)
        assert (await connection.answer()).status == 429
