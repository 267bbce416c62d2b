"""Compressed requests through real Granian: what is read is made plain within bounds, what streams by goes on as it came."""

import asyncio
import gzip
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from sentinel.devstack.stack import Stack
from sentinel.upstream import inflate
from tests.support import packing
from tests.support.memory import rss_bytes
from tests.support.raw import RawAnswer, RawConnection, once, request
from tests.support.running import HELLO, User, make_user, reconciled
from tests.support.scripted import DONE, Asked, Scripted, answers, event

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

MB = 2**20
BODY_BYTES_MAX = MB
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_ZION_REQUESTS_PER_SECOND": "1000",
    "SENTINEL_BODY_BYTES_MAX": str(BODY_BYTES_MAX),
    "SENTINEL_BODIES_BYTES_MAX": str(BODY_BYTES_MAX * 5 // 2),
    "SENTINEL_BODY_TIMEOUT_SECONDS": "5",
}
CHAT = "/v1/chat/completions"
ASKING = {"model": "gpt-4o", "messages": HELLO, "act": "yes"}
BODY = json.dumps(ASKING).encode()
ANSWER = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}).encode()
BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
BOM = b"\xef\xbb\xbf"


def form(**fields: str) -> bytes:
    """A form of these fields and a file."""
    parts = [f'content-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    parts.append('content-disposition: form-data; name="file"; filename="a.bin"\r\n\r\nsome bytes\r\n')
    return "".join([*(f"--{BOUNDARY}\r\n{part}" for part in parts), f"--{BOUNDARY}--\r\n"]).encode()


def sized(size: int) -> bytes:
    """A good chat of exactly `size` bytes that packs well."""
    empty = len(json.dumps(ASKING | {"padding": ""}))
    return json.dumps(ASKING | {"padding": "x" * (size - empty)}).encode()


@dataclass
class Door:
    """A stack with one worker and a provider that says yes to everything and remembers what it was asked."""

    stack: Stack
    provider: Scripted
    user: User

    def asking(self, body: bytes, *lines: str, target: str = CHAT, kind: str = "application/json") -> bytes:
        """A request with a body and further header lines."""
        return request("POST", target, f"Authorization: Bearer {self.user.token}", f"Content-Type: {kind}", *lines, body=body)

    async def ask(self, body: bytes, *lines: str, **rest: Any) -> RawAnswer:
        """The answer to it."""
        return await once(self.stack.port, self.asking(body, *lines, **rest))

    @property
    def asked(self) -> Asked:
        """The one request that went up."""
        (asked,) = self.provider.asked
        return asked


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """One stack for all of these."""
    async with Scripted() as provider:
        provider.acts = defaultdict(lambda: answers(ANSWER))
        settings = SETTINGS | {"OPENAI_API_URL": provider.url}
        async with Stack(tmp_path_factory.mktemp("codings"), workers=1, settings=settings) as stack:
            yield Door(stack, provider, await make_user(stack))


@pytest_asyncio.fixture(loop_scope="session")
async def door(shared: Door) -> Door:
    """Each test sees only what it asked itself."""
    shared.provider.asked.clear()
    return shared


# ---- what is read ------------------------------------------------------------------------------------------------------

BODIES = {
    CHAT: ASKING,
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "hi", "act": "yes"},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "hi", "act": "yes"},
    "/v1/responses": {"model": "gpt-4o", "input": "hi", "store": False, "act": "yes"},
    "/v1/images/generations": {"model": "gpt-image-1", "prompt": "a river", "act": "yes"},
    "/v1/audio/speech": {"model": "tts-1", "input": "hi", "voice": "alloy", "act": "yes"},
    "/v1/files": {"purpose": "assistants", "act": "yes"},
    "/v1/videos": {"model": "sora-2", "prompt": "a river", "act": "yes"},
    "/v1/vector_stores": {"name": "v", "act": "yes"},
}


@pytest.mark.parametrize("way", sorted(packing.WAYS))
@pytest.mark.parametrize("target", BODIES)
async def test_compressed_json_goes_up_plain(door: Door, target: str, way: str) -> None:
    """Rules H5, H6: on every kind of route, under its own length, and nothing says that it ever was compressed."""
    body = json.dumps(BODIES[target]).encode()
    answer = await door.ask(packing.WAYS[way](body), f"Content-Encoding: {packing.coding(way).decode()}", target=target)
    assert (answer.status, answer.body) == (200, ANSWER)
    assert (door.asked.body, door.asked.header("content-length")) == (body, str(len(body)))
    assert (door.asked.header("content-encoding"), door.asked.header("content-type")) == (None, "application/json")


SPELLINGS = {
    "in capitals": (["Content-Encoding: GZIP"], gzip.compress(BODY)),
    "its old name": (["Content-Encoding: x-gzip"], gzip.compress(BODY)),
    "in two lines": (["Content-Encoding: gzip", "Content-Encoding: deflate"], packing.WAYS["deflate"](gzip.compress(BODY))),
    "in a list": (["Content-Encoding: gzip ,deflate"], packing.WAYS["deflate"](gzip.compress(BODY))),
    "twice the same": (["Content-Encoding: gzip, gzip"], gzip.compress(gzip.compress(BODY))),
    "with identity": (["Content-Encoding: identity, gzip,"], gzip.compress(BODY)),
    "identity alone": (["Content-Encoding: identity"], BODY),
    "nothing": (["Content-Encoding: "], BODY),
    "a charset": (["Content-Encoding: UTF-8"], BODY),
    "named by Connection": (["Connection: keep-alive, content-encoding", "Content-Encoding: gzip"], gzip.compress(BODY)),
    "members in a row": (["Content-Encoding: gzip"], gzip.compress(BODY[:9]) + gzip.compress(b"") + gzip.compress(BODY[9:])),
    "with a name inside": (["Content-Encoding: gzip"], b"\x1f\x8b\x08\x08" + bytes(6) + b"a.json\0" + gzip.compress(BODY)[10:]),
    "with a byte order mark": (["Content-Encoding: gzip"], gzip.compress(BOM + BODY)),
    "a mark alone": ([], BOM + BODY),
}
if "br" in packing.WAYS:
    SPELLINGS["of two kinds"] = (["Content-Encoding: gzip, br"], packing.WAYS["br"](gzip.compress(BODY)))


@pytest.mark.parametrize("row", SPELLINGS)
async def test_every_spelling_is_read(door: Door, row: str) -> None:
    """RFC 9110 §8.4: each way in which a client may say it, and what says that there is no compression."""
    lines, body = SPELLINGS[row]
    assert (await door.ask(body, *lines)).status == 200
    assert (door.asked.body, door.asked.header("content-encoding")) == (BODY, None)


async def test_a_compressed_body_in_chunks(door: Door) -> None:
    """Rule H15: a transfer coding ends with its hop, a content coding is the body's."""
    packed = gzip.compress(BODY)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (packed[:7], packed[7:])) + b"0\r\n\r\n"
    head = door.asking(b"", "Content-Encoding: gzip", "Transfer-Encoding: chunked")
    assert (await once(door.stack.port, head + chunks)).status == 200
    assert (door.asked.body, door.asked.header("content-length")) == (BODY, str(len(BODY)))


@pytest.mark.parametrize(("lines", "packed"), [(["Content-Encoding: gzip"], True), ([], False)])
@pytest.mark.parametrize("mark", [b"", BOM])
async def test_usage_is_spliced_into_what_came_out(door: Door, lines: list[str], packed: bool, mark: bytes) -> None:
    """Rule U2: a streamed call is asked for its usage, and that stays hidden, whatever its body was wrapped in."""
    body = mark + json.dumps(ASKING | {"stream": True}).encode()
    answer = await door.ask(gzip.compress(body) if packed else body, *lines)
    assert answer.body == event("a", finish="stop") + DONE
    assert json.loads(door.asked.body) == ASKING | {"stream": True, "stream_options": {"include_usage": True}}
    assert not door.asked.body.startswith(BOM)


@pytest.mark.parametrize("target", BODIES)
async def test_a_byte_order_mark_goes_nowhere(door: Door, target: str) -> None:
    """Rule H12, RFC 8259 §8.1: on every kind of route that reads JSON."""
    body = json.dumps(BODIES[target]).encode()
    assert (await door.ask(BOM + body, target=target)).status == 200
    assert (door.asked.body, door.asked.header("content-length")) == (body, str(len(body)))


# ---- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Encoding: compress"],
        ["Content-Encoding: lz4"],
        ["Content-Encoding: aws-chunked"],
        ["Content-Encoding: gzip, lz4"],
        ["Content-Encoding: lz4", "Content-Encoding: gzip"],
        ["Content-Encoding: gzip;q=1"],
        ["Content-Encoding: *"],
        ["Content-Encoding: gzip, gzip, gzip, gzip"],
    ],
)
async def test_a_coding_that_is_not_read_is_415(door: Door, lines: list[str]) -> None:
    """RFC 9110 §15.5.16: before the body is wanted, with what is read in Accept-Encoding; nothing goes up."""
    length = f"Content-Length: {len(BODY)}"
    async with RawConnection(door.stack.port) as connection:
        await connection.send(door.asking(b"", *lines, "Expect: 100-continue", length))
        refused = await connection.answer()
    assert (refused.status, refused.error["code"]) == (415, "unsupported_content_encoding")
    assert refused.header("accept-encoding") == inflate.ACCEPTED.decode()
    assert door.provider.asked == []


BROKEN = {
    "plain": ("gzip", BODY),
    "cut": ("gzip", gzip.compress(BODY)[:-4]),
    "cut in the head": ("gzip", gzip.compress(BODY)[:5]),
    "garbage behind": ("gzip", gzip.compress(BODY) + b"garbage"),
    "zeros behind": ("gzip", gzip.compress(BODY) + bytes(8)),
    "a wrong sum": ("gzip", gzip.compress(BODY)[:-8] + bytes(4) + gzip.compress(BODY)[-4:]),
    "deflate as gzip": ("gzip", packing.WAYS["deflate"](BODY)),
    "gzip as deflate": ("deflate", gzip.compress(BODY)),
    "deflate twice in a row": ("deflate", packing.WAYS["deflate"](BODY[:9]) + packing.WAYS["deflate"](BODY[9:])),
    "only once": ("gzip, gzip", gzip.compress(BODY)),
    "in another order": ("deflate, gzip", packing.WAYS["deflate"](gzip.compress(BODY))),
    "not JSON inside": ("gzip", gzip.compress(b"{")),
    "UTF-16 inside": ("gzip", gzip.compress(BODY.decode().encode("utf-16"))),
    "nothing inside": ("gzip", gzip.compress(b"")),
}
for name in sorted({"br", "zstd"} & set(packing.WAYS)):
    BROKEN |= {
        f"{name} cut": (name, packing.WAYS[name](BODY)[:-2]),
        f"plain as {name}": (name, BODY),
        f"garbage behind {name}": (name, packing.WAYS[name](BODY) + b"garbage"),
    }


@pytest.mark.parametrize("row", BROKEN)
async def test_a_broken_body_is_400(door: Door, row: str) -> None:
    """Rule H12: never a 500, nothing goes up, and the connection stays in step."""
    coding, body = BROKEN[row]
    async with RawConnection(door.stack.port) as connection:
        await connection.send(door.asking(body, f"Content-Encoding: {coding}") + door.asking(BODY))
        refused = await connection.answer()
        assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
        assert (await connection.answer()).status == 200
    assert door.asked.body == BODY


@pytest.mark.parametrize("way", sorted(packing.WAYS))
async def test_the_bound_is_for_what_comes_out(door: Door, way: str) -> None:
    """Rule H13: a body of exactly the bound is served however small it came, one byte more is 413."""
    line = f"Content-Encoding: {packing.coding(way).decode()}"
    assert (await door.ask(packing.WAYS[way](sized(BODY_BYTES_MAX)), line)).status == 200
    refused = await door.ask(packing.WAYS[way](sized(BODY_BYTES_MAX + 1)), line)
    assert (refused.status, refused.error["code"]) == (413, "request_too_large")
    assert len(door.asked.body) == BODY_BYTES_MAX


@pytest.mark.parametrize("way", sorted(packing.WAYS))
@pytest.mark.parametrize("layers", [1, 2, 3])
async def test_a_bomb_is_413_and_harms_nobody(door: Door, way: str, layers: int) -> None:
    """Rule H13: 64 MB in a few kB, again and again: the worker's memory stays flat, and others are served."""
    packed = bytes(64 * MB)
    for _ in range(layers):
        packed = packing.WAYS[way](packed)
    line = "Content-Encoding: " + ", ".join([packing.coding(way).decode()] * layers)
    before = rss_bytes(door.stack)
    refused, *served = await asyncio.gather(door.ask(packed, line), *(door.ask(BODY) for _ in range(3)))
    assert (refused.status, refused.error["code"]) == (413, "request_too_large")
    assert [answer.status for answer in served] == [200] * 3
    assert rss_bytes(door.stack) - before < 16 * MB


async def test_what_comes_out_counts_against_the_budget(door: Door) -> None:
    """Rule H13: a small body that becomes a large one finds no room beside others, and its room comes back."""
    packed = gzip.compress(sized(BODY_BYTES_MAX))
    # Forms, of which nothing is decoded that would count as well.
    full = form(prompt="x" * (BODY_BYTES_MAX - 400))
    head = door.asking(b"", f"Content-Length: {len(full)}", target="/v1/images/edits", kind=FORM)
    async with RawConnection(door.stack.port) as first, RawConnection(door.stack.port) as second:
        for connection in (first, second):
            await connection.send(head + full[:-1])
        await asyncio.sleep(0.2)
        refused = await door.ask(packed, "Content-Encoding: gzip")
        assert (refused.status, refused.error["code"], refused.header("retry-after")) == (503, "overloaded", "1")
        assert (await door.ask(gzip.compress(BODY), "Content-Encoding: gzip")).status == 200
        for connection in (first, second):
            await connection.send(full[-1:])
            assert (await connection.answer()).status == 200
    for _ in range(4):
        assert (await door.ask(packed, "Content-Encoding: gzip")).status == 200


@pytest.mark.parametrize("way", sorted(packing.WAYS))
async def test_no_coding_hides_another_callers_object(stack: Stack, way: str) -> None:
    """Rule H18: what is looked for in JSON and in a form is found in what comes out of it; the owner's own goes up."""
    owner, other = await make_user(stack), await make_user(stack)
    asking = Door(stack, Scripted(), owner)
    made = await asking.ask(form(purpose="assistants"), target="/v1/files", kind=FORM)
    name = json.loads(made.body)["id"]
    line = f"Content-Encoding: {packing.coding(way).decode()}"
    statuses = []
    for user in (owner, other):
        asking.user = user
        container = json.loads((await asking.ask(b'{"name": "c"}', target="/v1/containers")).body)["id"]
        for kind, body in (("application/json", json.dumps({"file_id": name}).encode()), (FORM, form(file_id=name))):
            answer = await asking.ask(packing.WAYS[way](body), line, target=f"/v1/containers/{container}/files", kind=kind)
            statuses.append(answer.status)
    assert statuses == [200, 200, 404, 404]


async def test_a_coding_of_no_body_says_nothing(door: Door) -> None:
    """RFC 9110 §8.4: a header that some clients send with every request harms none that has no body."""
    token = f"Authorization: Bearer {door.user.token}"
    for coding in ("gzip", "lz4"):
        content = request("GET", "/v1/models", token, f"Content-Encoding: {coding}")
        assert (await once(door.stack.port, content, method="GET")).status == 200
    assert [asked.header("content-encoding") for asked in door.provider.asked] == [None, None]


# ---- what streams by ---------------------------------------------------------------------------------------------------

UPLOADS = {
    "gzip": (["Content-Encoding: gzip"], "gzip"),
    "in capitals": (["Content-Encoding: GZIP"], "gzip"),
    "one that is not read": (["Content-Encoding: lz4"], "lz4"),
    "several": (["Content-Encoding: gzip, lz4", "Content-Encoding: br"], "gzip, lz4, br"),
    "named by Connection": (["Connection: content-encoding", "Content-Encoding: gzip"], "gzip"),
    "identity": (["Content-Encoding: identity"], None),
    "none": ([], None),
}


@pytest.mark.parametrize("row", UPLOADS)
@pytest.mark.parametrize(
    ("target", "kind"),
    [("/v1/files", FORM), ("/v1/skills", FORM), ("/v1/audio/transcriptions", FORM), ("/v1/files", "image/png")],
)
async def test_what_streams_by_keeps_its_coding(door: Door, target: str, kind: str, row: str) -> None:
    """Rule H18: byte for byte, with the header that says what the bytes are; to read them is the provider's affair."""
    lines, coding = UPLOADS[row]
    body = gzip.compress(form(purpose="assistants", model="whisper-1"))
    answer = await door.ask(body, *lines, target=target, kind=kind)
    assert answer.status == 200
    assert (door.asked.body, door.asked.header("content-encoding")) == (body, coding)
    assert (door.asked.header("content-type"), door.asked.header("content-length")) == (kind, str(len(body)))


async def test_what_streams_by_with_a_coding_that_is_none_is_415(door: Door) -> None:
    """RFC 9110 §8.4: what cannot be passed on as it was meant is not passed on without it."""
    refused = await door.ask(gzip.compress(form()), "Content-Encoding: gzip;q=1", target="/v1/files", kind=FORM)
    assert (refused.status, refused.error["code"]) == (415, "unsupported_content_encoding")
    assert door.provider.asked == []


# ---- with the simulators -----------------------------------------------------------------------------------------------


class _Packing(httpx2.AsyncHTTPTransport):
    """What a client library adds that compresses its requests."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        packed = gzip.compress(await request.aread())
        headers = httpx2.Headers(request.headers)
        headers["content-encoding"], headers["content-length"] = "gzip", str(len(packed))
        again = httpx2.Request(request.method, request.url, headers=headers, content=packed, extensions=request.extensions)
        return await super().handle_async_request(again)


async def test_an_sdk_that_compresses_works_and_is_billed(stack: Stack) -> None:
    """Rule H5: the official SDK over a transport that compresses: answers, streams, uploads, and the bill is right."""
    user, filer = await make_user(stack), await make_user(stack)
    async with DefaultAsyncHttpxClient(transport=_Packing()) as http:
        client = AsyncOpenAI(base_url=stack.base_url, api_key=user.token, max_retries=0, http_client=http)
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email)
        assert answer.choices[0].message.content
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email, stream=True)
        assert [choice.delta.content async for part in stream for choice in part.choices]
        assert (await client.responses.create(model="gpt-4o", input="Hello", user=user.email)).output_text
        assert (await client.embeddings.create(model="text-embedding-3-small", input="Hello", user=user.email)).data
        # A form names no user, so that it is nobody's in the provider's journal.
        files = client.with_options(api_key=filer.token).files
        made = await files.create(file=("a.txt", b"some text"), purpose="assistants")
        assert (made.bytes, (await files.content(made.id)).content) == (9, b"some text")
    served, booked = await reconciled(stack, [user])
    assert served == booked
    assert booked[user.email][0] == 4


async def test_zeros_are_the_providers_to_judge(door: Door, http: aiohttp.ClientSession) -> None:
    """Rule T4: 0 in a bound or a number of choices goes up as it stands; what is held for it is free again."""
    headers = {"authorization": f"Bearer {door.user.token}"}
    chats = [{"n": 0}, {"max_tokens": 0}, {"max_completion_tokens": 0}, {"max_output_tokens": 0}]
    completions: list[dict[str, Any]] = [{"n": 0}, {"best_of": 0}, {"max_tokens": 0}]
    rows = [
        *((CHAT, members) for members in chats),
        *(("/v1/completions", members) for members in completions),
        ("/v1/responses", {"max_output_tokens": 0}),
    ]
    for target, members in rows:
        assert (await door.ask(json.dumps(BODIES[target] | members).encode(), target=target)).status == 200
        assert json.loads(door.provider.asked[-1].body) == BODIES[target] | members
    async with http.get(f"{door.stack.base_url}/usage", headers=headers) as response:
        assert not any(limit["held"] for limit in (await response.json())["limits"].values())
