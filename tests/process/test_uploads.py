"""Large bodies both ways: hundreds of megabytes stream through a worker that does not grow, and arrive bit for bit."""

import asyncio
import hashlib
import json
import random
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.process.conftest import SETTINGS
from tests.support.memory import rss_bytes
from tests.support.running import User, make_user

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

LARGE_BYTES = 200 * 2**20
PART_BYTES = 2**20
GROWTH_BYTES = 40 * 2**20
BOUNDARY = "a-boundary"
HEAD = (
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="NAME"\r\n'
    "content-type: application/octet-stream\r\n\r\n"
)
TAIL = f"\r\n--{BOUNDARY}--\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack with one worker, so that its memory can be told, and a bound on uploads just above the largest here."""
    settings = SETTINGS | {"SENTINEL_UPLOAD_BYTES_MAX": str(LARGE_BYTES + 2**20), "SENTINEL_BODY_TIMEOUT_SECONDS": "2"}
    async with Stack(tmp_path_factory.mktemp("uploads"), workers=1, settings=settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def user(stack: Stack) -> User:
    """A user of this stack."""
    return await make_user(stack)


class Content:
    """A form with one file of pseudo-random bytes, NUL and invalid UTF-8 among them; `sha256` is of what was sent."""

    def __init__(self, size_bytes: int, name: str = "large.bin") -> None:
        self.size_bytes = size_bytes
        self.sha256 = hashlib.sha256()
        self.sent_bytes = 0
        self._head = HEAD.replace("NAME", name).encode()

    @property
    def length(self) -> int:
        """Of the whole form."""
        return len(self._head) + self.size_bytes + len(TAIL)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        part = random.Random(7).randbytes(PART_BYTES)
        yield self._sent(self._head)
        for _ in range(self.size_bytes // PART_BYTES):
            yield self._sent(part)
        yield self._sent(TAIL.encode())

    def _sent(self, data: bytes) -> bytes:
        self.sha256.update(data)
        self.sent_bytes += len(data)
        return data


async def upload(stack: Stack, user: User, content: Content, *, chunked: bool) -> tuple[int, dict[str, object]]:
    """(status, JSON) of POST /v1/files."""
    headers = {"authorization": f"Bearer {user.token}", "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    if not chunked:
        headers["content-length"] = str(content.length)
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{stack.base_url}/files", data=aiter(content), headers=headers) as response,
    ):
        return response.status, json.loads(await response.read())


async def row_of(stack: Stack, request_id_of: str) -> dict[str, object]:
    """The provider's row of the last request on this path."""
    rows = (await stack.control("provider", "served"))["rows"]
    return [row for row in rows if row["path"] == request_id_of][-1]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload_streams_through(stack: Stack, user: User, *, chunked: bool) -> None:
    """Rule H18: 200 MB arrive as they were sent, under their own boundary, and the worker's memory stays flat."""
    content = Content(LARGE_BYTES)
    before = rss_bytes(stack)
    status, answer = await upload(stack, user, content, chunked=chunked)
    assert (status, answer["bytes"]) == (200, LARGE_BYTES)
    row = await row_of(stack, "/v1/files")
    assert row["body_sha256"] == content.sha256.hexdigest()
    headers = row["headers"]
    assert isinstance(headers, dict)
    assert headers["content-type"] == f"multipart/form-data; boundary={BOUNDARY}"
    assert headers.get("content-length") == (None if chunked else str(content.length))
    assert rss_bytes(stack) - before < GROWTH_BYTES


@pytest.mark.parametrize("purpose", [f"simulate-{LARGE_BYTES}", f"simulate-{LARGE_BYTES}-chunked"])
async def test_a_large_download_streams_through(stack: Stack, user: User, http: aiohttp.ClientSession, purpose: str) -> None:
    """Rule H19: 200 MB come down as the provider has them, with its type, name and length, and the memory stays flat."""
    form = aiohttp.FormData()
    form.add_field("purpose", purpose)
    form.add_field("file", b"x", filename="content.bin")
    headers = {"authorization": f"Bearer {user.token}"}
    async with http.post(f"{stack.base_url}/files", data=form, headers=headers) as response:
        name = (await response.json())["id"]
    digests = []
    before = rss_bytes(stack)
    for url, key in ((stack.base_url, user.token), (f"{stack.provider_url}/v1", stack.provider_key)):
        digest = hashlib.sha256()
        async with http.get(f"{url}/files/{name}/content", headers={"authorization": f"Bearer {key}"}) as response:
            async for part in response.content.iter_any():
                digest.update(part)
            about = [response.headers.get(header) for header in ("content-type", "content-disposition", "content-length")]
        digests.append((response.status, digest.hexdigest(), about))
    assert digests[0] == digests[1]
    assert digests[0][2][2] == (None if purpose.endswith("chunked") else str(LARGE_BYTES))
    assert rss_bytes(stack) - before < GROWTH_BYTES


async def test_an_upload_over_the_bound_is_413(stack: Stack, user: User) -> None:
    """Rule H13: by its declared length before a byte is sent on."""
    status, answer = await upload(stack, user, Content(LARGE_BYTES + 2 * 2**20), chunked=False)
    assert status == 413
    assert answer["error"]["code"] == "request_too_large"  # type: ignore[index]


async def test_a_refusal_reaches_a_client_that_writes_it_all_before_it_reads(stack: Stack, user: User) -> None:
    """Rule H18: the connection stays open until the refused upload has ended, however large it is."""
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {user.token}\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: {2 * LARGE_BYTES}\r\n\r\n"
    )

    def write_then_read() -> bytes:
        with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as client:
            client.sendall(head.encode())
            for _ in range(2 * LARGE_BYTES // PART_BYTES):
                client.sendall(bytes(PART_BYTES))
            return client.recv(2**16)

    assert (await asyncio.to_thread(write_then_read)).startswith(b"HTTP/1.1 413 ")


async def test_an_early_refusal_ends_the_upload(stack: Stack, user: User) -> None:
    """Rule H18: what the provider refuses in the middle of an upload is told, or the connection ends; nothing hangs."""
    content = Content(LARGE_BYTES, name="refuse-early")
    async with asyncio.timeout(30):
        try:
            status, _ = await upload(stack, user, content, chunked=False)
        except aiohttp.ClientError:
            status = 0
    assert status in {0, 400, 413}
    async with asyncio.timeout(10):
        assert (await upload(stack, user, Content(PART_BYTES), chunked=False))[0] == 200


async def test_an_upload_that_stops_is_given_up(stack: Stack, user: User) -> None:
    """Rule H13: an upload whose parts stop to arrive is a 408, and the provider's half of it ends."""

    async def stalls() -> AsyncIterator[bytes]:
        yield HEAD.encode()
        await asyncio.sleep(60)

    headers = {"authorization": f"Bearer {user.token}", "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as http,
        http.post(f"{stack.base_url}/files", data=stalls(), headers=headers) as response,
    ):
        assert response.status == 408
        assert (await response.json())["error"]["code"] == "request_timeout"


async def test_a_client_that_leaves_its_upload_ends_the_providers(stack: Stack, user: User) -> None:
    """Rule D1: half an upload never looks whole to the provider, and its hold is free again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    content = Content(LARGE_BYTES)
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\ncontent-length: {content.length}\r\n"
    writer.write(
        f"{head}content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode() + HEAD.encode() + b"x" * 10**6
    )
    await writer.drain()
    await asyncio.sleep(0.3)
    writer.transport.abort()
    del reader
    headers = {"authorization": f"Bearer {user.token}"}
    async with asyncio.timeout(10), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{stack.base_url}/usage", headers=headers) as response:
                page = await response.json()
            if not any(limit["held"] for limit in page["limits"].values()):
                break
            await asyncio.sleep(0.05)
    row = await row_of(stack, "/v1/files")
    assert row["complete"] is False
