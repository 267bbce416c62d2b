"""The provider's simulator and bodies, by raw HTTP: forms at every split, large ones both ways, early refusals, compression."""

import asyncio
import gzip
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from sentinel.devstack.provider.multipart import FormReader, Part
from sentinel.devstack.provider.sending import BLOCK_BYTES, generated
from sentinel.devstack.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOUNDARY = "b0undary"
MIB = 2**20
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The provider's simulator alone."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        await stack.start("provider")
        yield stack
    finally:
        await stack.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def http(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that decodes nothing, of an empty simulator."""
    await stack.control("provider", "reset", {})
    headers = {"authorization": f"Bearer {stack.provider_key}"}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        base_url=stack.provider_url, headers=headers, timeout=timeout, auto_decompress=False
    ) as session:
        yield session


async def row(stack: Stack) -> dict[str, Any]:
    """The newest row of the journal."""
    return dict((await stack.control("provider", "served"))["rows"][-1])


def form(fields: Mapping[str, str], filename: str, content: bytes) -> bytes:
    """A form with these fields and then one file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\nContent-Type: a/b\r\n\r\n'
    return "".join([*parts, head]).encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


# The reader of forms


def read_form(body: bytes, sizes: list[int]) -> list[tuple[str, str | None, bytes]]:
    """(name, filename, content) of each part, the body coming in pieces of these sizes, over and over."""
    reader, found, at, turn = FormReader(FORM["content-type"]), [], 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        for piece in reader.feed(body[at : at + size]):
            if isinstance(piece, Part):
                found.append((piece.name, piece.filename, b""))
            elif piece is not None:
                name, filename, content = found.pop()
                found.append((name, filename, content + piece))
        at, turn = at + size, turn + 1
    assert reader.finished
    return found


# Contents that look like the beginning of a boundary are what can go wrong.
CONTENTS = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"\r\n--b0unda", b"\0\xff", b"a"])).map(b"".join)


@given(content=CONTENTS, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), value=st.text("ab\r\n-", max_size=20))
async def test_a_form_is_read_at_any_split(content: bytes, sizes: list[int], value: str) -> None:
    """H18: every part has its name and its exact bytes, however the body is cut."""
    body = form({"purpose": value}, "a.bin", content)
    assert read_form(body, sizes) == [("purpose", None, value.encode()), ("file", "a.bin", content)]


async def test_what_is_no_form_is_refused(http: aiohttp.ClientSession) -> None:
    """H18: without boundary, end, name or file it is OpenAI's 400."""
    whole = form({"purpose": "batch"}, "a", b"x")
    bad = [
        ("multipart/form-data", whole),
        (FORM["content-type"], whole[:-8]),
        (FORM["content-type"], b"--b0undary\r\nX: y\r\n\r\nz\r\n--b0undary--\r\n"),
        (FORM["content-type"], b"--b0undary\r\n" + b"x" * 20_000),
        (FORM["content-type"], b"--b0undary--\r\n"),
    ]
    for content_type, body in bad:
        async with http.post("/v1/files", data=body, headers={"content-type": content_type}) as response:
            assert response.status == 400, body[:40]
            assert set((await response.json())["error"]) == {"message", "type", "param", "code"}


# Large bodies


def peak_kib(stack: Stack) -> int:
    """The most memory the simulator has ever had resident."""
    status = Path(f"/proc/{stack.child('provider').pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


async def test_a_large_upload_is_hashed_and_not_held(http: aiohttp.ClientSession, stack: Stack) -> None:
    """H18: 128 MiB of bytes arrive as they were sent, the file knows its size, and memory stays flat."""
    size, digest = 128 * MIB, hashlib.sha256()
    empty = form({"purpose": "user_data"}, "big.bin", b"")
    end = f"\r\n--{BOUNDARY}--\r\n".encode()

    async def body() -> AsyncIterator[bytes]:
        for piece in (empty.removesuffix(end), *generated(size), end):
            digest.update(piece)
            yield piece

    before = peak_kib(stack)
    async with http.post("/v1/files", data=body(), headers=FORM) as response:
        file = await response.json()
    assert (response.status, file["bytes"]) == (200, size)
    assert peak_kib(stack) - before < 32 * 1024
    assert (await row(stack))["body_sha256"] == digest.hexdigest()
    async with http.get(f"/v1/files/{file['id']}/content") as response:
        assert response.status == 400


@pytest.mark.parametrize("suffix", ["", "-chunked"])
async def test_large_content_is_generated(http: aiohttp.ClientSession, stack: Stack, suffix: str) -> None:
    """H19: a file of the purpose simulate-N has N bytes that anyone can compute, with and without a length."""
    size = 64 * MIB + 1
    async with http.post("/v1/files", data=form({"purpose": f"simulate-{size}{suffix}"}, "a.bin", b"x"), headers=FORM) as made:
        name = (await made.json())["id"]
    digest, before = hashlib.sha256(), peak_kib(stack)
    async with http.get(f"/v1/files/{name}/content") as response:
        async for piece in response.content.iter_any():
            digest.update(piece)
    assert (response.headers.get("content-length"), response.content_type) == (
        None if suffix else str(size),
        "application/octet-stream",
    )
    assert response.headers["content-disposition"] == 'attachment; filename="a.bin"'
    wanted = hashlib.sha256()
    for block in generated(size):
        wanted.update(block)
    assert digest.hexdigest() == wanted.hexdigest()
    assert peak_kib(stack) - before < 32 * 1024
    assert (await row(stack))["complete"]
    async with http.get(f"/v1/files/{name}/content", params={"simulate": '{"cut_after_events": 2}'}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert not (await row(stack))["complete"]
    assert response.content.total_bytes == 2 * BLOCK_BYTES


@pytest.mark.parametrize(("filename", "status"), [("refuse-early", 400), ("refuse-early-413", 413)])
async def test_an_upload_is_refused_in_its_middle(http: aiohttp.ClientSession, filename: str, status: int) -> None:
    """H18: the answer comes while the client still sends."""
    answered = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield form({"purpose": "batch"}, filename, b"x" * MIB)[:-100]
        await answered.wait()

    async with http.post("/v1/files", data=body(), headers=FORM) as response:
        assert response.status == status
        assert filename in (await response.json())["error"]["message"]
        answered.set()


# What else is asked to go wrong


async def test_faults_come_by_form_and_query(http: aiohttp.ClientSession, stack: Stack) -> None:
    """Where no JSON body is, `simulate` and `user` are a field of the form or of the query."""
    fields = {"purpose": "batch", "user": "a@b", "simulate": '{"status": 503}'}
    async with http.post("/v1/files", data=form(fields, "a", b"x"), headers=FORM) as response:
        assert response.status == 503
    assert (await row(stack))["user"] == "a@b"
    async with http.get(
        "/v1/files", params={"simulate": '{"status": 429, "headers": {"retry-after": "3"}}', "user": "c@d"}
    ) as response:
        assert (response.status, response.headers["retry-after"]) == (429, "3")
    seen = await row(stack)
    assert (seen["user"], seen["method"], seen["path"], seen["query"][:8]) == ("c@d", "GET", "/v1/files", "simulate")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_compressed_unasked(http: aiohttp.ClientSession, stream: bool) -> None:
    """H5: gzip although identity was asked for, each event of a stream readable as soon as it is there."""
    body = {**CHAT, "stream": stream, "simulate": {"gzip": True, "output_tokens": 3, "stall_after_events": 3, "stall_s": 0.2}}
    async with http.post("/v1/chat/completions", json=body, headers={"accept-encoding": "identity"}) as response:
        assert response.headers["content-encoding"] == "gzip"
        first = b""
        if stream:
            unpacker = zlib.decompressobj(wbits=31)
            while first.count(b"\n\n") < 3:
                first += unpacker.decompress(await response.content.readany())
            text = first + unpacker.decompress(await response.read())
            assert unpacker.eof
        else:
            text = gzip.decompress(await response.read())
    if stream:
        assert first.count(b"\n\n") == 3
        assert text.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(text)["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nothing"), ("POST", "/v1/files/a/b/c"), ("DELETE", "/v2/files/x")])
async def test_other_paths_are_unknown(http: aiohttp.ClientSession, stack: Stack, method: str, path: str) -> None:
    """E4: OpenAI's 404 with method and path, and a row that says so."""
    async with http.request(method, path) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["message"]) == (404, f"Invalid URL ({method} {path})")
    seen = await row(stack)
    assert (seen["method"], seen["path"], seen["status"]) == (method, path, 404)


async def test_a_client_that_leaves_ends_a_response(stack: Stack, http: aiohttp.ClientSession) -> None:
    """D1: in the foreground the work stops with its client, and the row has what was produced until then."""
    async with AsyncOpenAI(base_url=f"{stack.provider_url}/v1", api_key=stack.provider_key) as sdk:
        body = {"simulate": {"token_ms": 0, "stall_after_events": 6}}
        stream = await sdk.responses.create(model="gpt-4o", input="Hi", stream=True, extra_body=body)
        seen = [await anext(stream) for _ in range(6)]
        await stream.close()
    async with asyncio.timeout(5):
        while not (left := await row(stack))["client_gone"]:
            await asyncio.sleep(0.02)
    assert [event.type for event in seen][-2:] == ["response.output_text.delta"] * 2
    assert (left["output_tokens"], left["complete"]) == (2, False)
    assert left["input_tokens"] > 0
