"""Where a request begins and ends: bytes on a raw socket through real Granian, and what of them reaches the provider."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.support.raw import RawAnswer, RawConnection, once, request
from tests.support.running import HELLO, make_user, metrics_page
from tests.support.scripted import DONE, Asked, Scripted, answers, event, plain

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "gpt-4o", "messages": HELLO, "act": "yes"}).encode()
STREAMED = json.dumps({"model": "gpt-4o", "messages": HELLO, "act": "yes", "stream": True}).encode()


def sized(size: int) -> bytes:
    """A good body of exactly `size` bytes."""
    asking = {"model": "gpt-4o", "messages": [{"role": "user", "content": ""}], "act": "yes"}
    empty = len(json.dumps(asking))
    asking["messages"] = [{"role": "user", "content": "x " * ((size - empty) // 2) + "x" * ((size - empty) % 2)}]
    return json.dumps(asking).encode()


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
ANSWER = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}).encode()
ALIVE = request("GET", "/health/live")
BODY_BYTES_MAX = 2**20
SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_ZION_REQUESTS_PER_SECOND": "1000",
    "SENTINEL_BODY_BYTES_MAX": str(BODY_BYTES_MAX),
    "SENTINEL_BODIES_BYTES_MAX": str(BODY_BYTES_MAX * 5 // 2),
    "SENTINEL_BODY_TIMEOUT_SECONDS": "1",
    "SENTINEL_HEAD_TIMEOUT_SECONDS": "2",
}


@dataclass
class Door:
    """A stack with one worker and a provider that says yes to everything and remembers what it was asked."""

    stack: Stack
    provider: Scripted
    token: str

    @property
    def port(self) -> int:
        return self.stack.port

    @property
    def authorized(self) -> str:
        """The line that lets a request in."""
        return f"Authorization: Bearer {self.token}"

    def asking(self, *lines: str, method: str = "POST", target: str = CHAT, body: bytes = BODY, version: str = "1.1") -> bytes:
        """A good request with further header lines."""
        return request(method, target, self.authorized, "Content-Type: application/json", *lines, body=body, version=version)

    def head(self, *lines: str) -> bytes:
        """The head of a chat whose body follows."""
        return self.asking(*lines, body=b"")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """One stack for all of these."""
    async with Scripted() as provider:
        provider.acts = defaultdict(lambda: answers(ANSWER))
        settings = SETTINGS | {"OPENAI_API_URL": provider.url}
        async with Stack(tmp_path_factory.mktemp("framing"), workers=1, settings=settings) as stack:
            yield Door(stack, provider, (await make_user(stack)).token)


@pytest.fixture(autouse=True)
def nothing_asked(door: Door) -> None:
    """Each test sees only what it asked itself."""
    door.provider.asked.clear()


# ---- H15: one request, or none -----------------------------------------------------------------------------------------

REFUSED_BY_SENTINEL = {
    "gzip then chunked": (b"Transfer-Encoding: gzip, chunked\r\n\r\n", CHUNKED),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked\r\n\r\n", CHUNKED),
    "two codings": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKED),
    "two hosts": (b"Host: other\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY),
    "two equal hosts": (b"Host: sentinel\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY),
}
REFUSED_BY_GRANIAN = {
    "lengths that differ": (b"Content-Length: %d\r\nContent-Length: 3\r\n\r\n" % len(BODY), BODY),
    "a list of lengths": (b"Content-Length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)), BODY),
    "a signed length": (b"Content-Length: +%d\r\n\r\n" % len(BODY), BODY),
    "a negative length": (b"Content-Length: -1\r\n\r\n", BODY),
    "a length in hex": (b"Content-Length: 0x10\r\n\r\n", BODY),
    "a length of two words": (b"Content-Length: 1 2\r\n\r\n", BODY),
    "a length past 64 bits": (b"Content-Length: 99999999999999999999999\r\n\r\n", BODY),
    "a coding before the colon": (b"Transfer-Encoding : chunked\r\n\r\n", CHUNKED),
    "a coding with a tab of another kind": (b"Transfer-Encoding: \x0bchunked\r\n\r\n", CHUNKED),
    "another coding": (b"Transfer-Encoding: xchunked\r\n\r\n", CHUNKED),
    "identity": (b"Transfer-Encoding: identity\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY),
    "a folded line": (b"X-A: b\r\n c\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked\r\n\r\n", CHUNKED),
    "a CR in a value": (b"X-A: b\rc\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY),
    "a NUL in a value": (b"X-A: b\0c\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY),
    "a NUL in a name": (b"X\0A: b\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY),
}


@pytest.mark.parametrize("row", REFUSED_BY_SENTINEL)
async def test_doubtful_framing_is_a_400_in_our_words(door: Door, row: str) -> None:
    """Rules H15, X2-A4: what Granian lets pass is refused in OpenAI's shape; nothing goes up, and nothing more is read."""
    head, body = REFUSED_BY_SENTINEL[row]
    async with RawConnection(door.port) as connection:
        await connection.send(door.head()[:-2] + head + body + ALIVE)
        refused = await connection.answer()
        assert (refused.status, refused.error["type"], refused.header("connection")) == (400, "invalid_request_error", "close")
        assert await connection.closed() == b""
    assert door.provider.asked == []


async def test_two_types_are_a_400_and_the_next_is_the_next(door: Door) -> None:
    """Rule H15: what a body is called is in doubt, but not where it ends."""
    head = b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    async with RawConnection(door.port) as connection:
        await connection.send(door.head()[:-2] + head + BODY + ALIVE)
        assert (await connection.answer()).status == 400
        assert (await connection.answer(method="GET")).status == 200
    assert door.provider.asked == []


@pytest.mark.parametrize("row", REFUSED_BY_GRANIAN)
async def test_broken_framing_is_a_400_and_the_end(door: Door, row: str) -> None:
    """Rules H15, X2-A4: the server refuses it before Sentinel sees it, with no body, and closes: nothing more is read."""
    head, body = REFUSED_BY_GRANIAN[row]
    async with RawConnection(door.port) as connection:
        await connection.send(door.head()[:-2] + head + body + ALIVE)
        refused = await connection.answer()
        assert (refused.status, refused.body) == (400, b"")
        assert await connection.closed() == b""
    assert door.provider.asked == []


async def test_no_host_and_an_empty_one_are_400(door: Door) -> None:
    """Rules H15, X3: also of HTTP/1.0; who is asked is never told by a Host, but two servers may disagree on it."""
    for version in ("1.1", "1.0"):
        bare = request("POST", CHAT, door.authorized, body=BODY, host=False, version=version)
        empty = request("POST", CHAT, "Host: ", door.authorized, body=BODY, host=False, version=version)
        assert [(await once(door.port, content)).status for content in (bare, empty)] == [400, 400]
    assert door.provider.asked == []


async def test_two_credentials_are_401(door: Door) -> None:
    """Rule H15: even if they are equal."""
    refused = await once(door.port, door.asking(door.authorized))
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("order", ["length first", "coding first"])
async def test_a_length_beside_chunks_is_ignored_and_the_end(door: Door, order: str) -> None:
    """Rules H15, X1, X4: the chunks count, one request goes up under a framing of its own, and nothing follows it."""
    lines = ["Content-Length: 5", "Transfer-Encoding: chunked"]
    async with RawConnection(door.port) as connection:
        head = door.head(*(lines if order == "length first" else reversed(lines)))
        await connection.send(head + CHUNKED + door.asking())
        assert (await connection.answer()).status == 200
        assert await connection.closed() == b""
    assert [(asked.body, asked.header("content-length")) for asked in door.provider.asked] == [(BODY, str(len(BODY)))]


ONE_OF_ALL = {
    "equal lengths": lambda door: door.head(*[f"Content-Length: {len(BODY)}"] * 2) + BODY,
    "bare line feeds": lambda door: door.asking().partition(b"\r\n\r\n")[0].replace(b"\r\n", b"\n") + b"\n\n" + BODY,
    "chunked in any case": lambda door: door.head("Transfer-Encoding: CHUNKED") + CHUNKED,
    "a chunk extension": lambda door: door.head("Transfer-Encoding: chunked") + CHUNKED.replace(b"\r\n", b';a="b"\r\n', 1),
    "trailers": lambda door: (
        door.head("Transfer-Encoding: chunked", "Trailer: authorization")
        + CHUNKED[:-2]
        + b"Authorization: Bearer canary\r\nX-Api-Key: canary\r\n\r\n"
    ),
    "empty lines before": lambda door: b"\r\n\r\n" + door.asking(),
    "a target with another authority": lambda door: door.asking(target=f"http://evil.test{CHAT}"),
}


@pytest.mark.parametrize("row", ONE_OF_ALL)
async def test_what_is_odd_but_clear_is_one_request(door: Door, row: str) -> None:
    """Rules H15, X4: two requests sent are two requests served, the first no longer than it says, each framed anew; an
    authority in the target, which Granian takes off, leads nowhere else.
    """
    async with RawConnection(door.port) as connection:
        await connection.send(ONE_OF_ALL[row](door) + door.asking("X-Stainless-Second: 1"))
        assert [(await connection.answer()).status for _ in range(2)] == [200, 200]
    assert [asked.header("x-stainless-second") for asked in door.provider.asked] == [None, "1"]
    for asked in door.provider.asked:
        assert (asked.target, asked.body, asked.header("content-length")) == (CHAT, BODY, str(len(BODY)))
        assert asked.header("transfer-encoding") is None
        assert "canary" not in str(asked.headers)
        assert asked.header("host") == door.provider.url.split("/")[2]


@pytest.mark.parametrize("broken", [b"zz\r\nhello\r\n", b"fffffffffffffffff\r\nx", b"5\nhello\n0\n\n", b"-1\r\nx\r\n"])
async def test_a_body_with_broken_chunks_is_a_400(door: Door, broken: bytes) -> None:
    """Rules E6, H15: in OpenAI's shape, not the server's bare 500; nothing goes up and nothing more is read."""
    async with RawConnection(door.port) as connection:
        await connection.send(door.head("Transfer-Encoding: chunked") + broken + ALIVE)
        refused = await connection.answer()
        assert (refused.status, refused.error["code"]) == (400, "client_closed")
        assert await connection.closed() == b""
    assert door.provider.asked == []


# ---- H8: targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/openai%2Fgpt-4o",
        "/v1/models/openai/gpt-4o",
        "/v1/models/ft:gpt-4o:org::id",
        "/v1/models/a%20b+c",
        "/v1/models?a[]=1&a[]=2&b=+&c=%2B%2f&d=%&e",
        "/v1/models?order=asc&order=desc&x=/../y//z",
    ],
)
async def test_path_and_query_go_up_as_they_came(door: Door, target: str) -> None:
    """Rule H8: escapes, repeated and bracketed keys, plus signs: byte for byte."""
    assert (await once(door.port, door.asking(method="GET", target=target, body=b""))).status == 200
    assert [asked.target for asked in door.provider.asked] == [target]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/..", "/v1/models/../chat", "/v1/models/a/../b", "/v1/models/%2e%2e/b", "/v1/models/a%2F..%2Fb",
        "/v1/models/a%2f%2e%2e%2fb", "/v1/models/%252e%252e", "/v1//models", "//v1/models", "/v1/models//a", "/v1/models/a/",
        "/v1/models/a%2f", "/v1/models/a%00", "/v1/models/a%0d%0ab", "/v1/models/a%5cb", "/v1/models/a\\b", "/v1/models/a%3fb",
        "/v1/models/a%23b", "/v1/models/a%", "/v1/models/a%zz", "/v1/models/", "/v1/models/a\xc3\xa9", "/V1/models",
        "/v1%2fmodels", "/v1/models;a=b", "*", '/v1/models/a"', "/v1/models/{a}", "/v1/models/a|b",
        "/v1/chat/completions/", "/v1/chat%2fcompletions",
    ],
)  # fmt: skip
async def test_what_could_be_another_path_is_404(door: Door, target: str) -> None:
    """Rules H8, H17, E4, R6, X7: in OpenAI's words, never a redirect, never an alias, and nothing goes up."""
    refused = await once(door.port, door.asking(method="GET", target=target, body=b""))
    shown = target.encode("ascii", "replace").decode()
    assert (refused.status, refused.error["message"]) == (404, f"Invalid URL (GET {shown})")
    assert (refused.header("location"), refused.error["code"]) == (None, None)
    assert door.provider.asked == []


@pytest.mark.parametrize("target", ["/v1/models/a\0", "/v1/models/a b", "v1/models", "/v1/models/\x7f"])
async def test_what_is_no_target_is_400(door: Door, target: str) -> None:
    """Rule H8: the server itself refuses it and closes."""
    async with RawConnection(door.port) as connection:
        await connection.send(door.asking(method="GET", target=target, body=b""))
        assert (await connection.answer(method="GET")).status == 400
        assert await connection.closed() == b""
    assert door.provider.asked == []


async def test_a_query_that_is_not_escaped_is_400(door: Door) -> None:
    """Rule H8: bytes outside ASCII could only go up as other bytes."""
    refused = await once(door.port, door.asking(method="GET", target="/v1/models?a=\xc3\xa9", body=b""))
    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
    assert door.provider.asked == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 404),
        (request("TRACE", "/v1/models"), 405),
        (request("BREW", "/v1/models"), 405),
        (request("get", "/v1/models"), 405),
        (request("OPTIONS", "/v1/models"), 405),
        (request("OPTIONS", "*"), 404),
    ],
)
async def test_only_known_methods(door: Door, content: bytes, status: int) -> None:
    """Rules E4, X6, H16: a method no route has is 405 with Allow; OPTIONS is one, where CORS is off."""
    refused = await once(door.port, content)
    assert (refused.status, refused.error["type"]) == (status, "invalid_request_error")
    assert (refused.header("allow") is not None) == (status == 405)


# ---- H14, H13: waiting bodies ------------------------------------------------------------------------------------------


async def test_a_client_that_asks_first_is_told_to_go_on(door: Door) -> None:
    """Rules H14, X12: 100 comes once, when the body is wanted; the provider never hears of it."""
    async with RawConnection(door.port) as connection:
        await connection.send(door.head("Expect: 100-continue", f"Content-Length: {len(BODY)}"))
        assert (await connection.answer()).status == 100
        await connection.send(BODY)
        assert (await connection.answer()).status == 200
    assert [asked.header("expect") for asked in door.provider.asked] == [None]


@pytest.mark.parametrize(
    ("change", "status"),
    [("token", 401), ("target", 404), ("method", 405), ("size", 413)],
)
async def test_a_client_that_asks_first_is_refused_at_once(door: Door, change: str, status: int) -> None:
    """Rules H14, X5: without a 100, with the whole answer, and the connection ends, since its body will never come."""
    content = request(
        "PUT" if change == "method" else "POST",
        "/v1/none" if change == "target" else CHAT,
        "Authorization: Bearer none" if change == "token" else door.authorized,
        "Expect: 100-continue",
        f"Content-Length: {BODY_BYTES_MAX + 1 if change == 'size' else len(BODY)}",
    )
    async with RawConnection(door.port) as connection:
        await connection.send(content)
        refused = await connection.answer()
        assert (refused.status, refused.error["type"]) == (status, "invalid_request_error")
        assert await connection.closed() == b""


SMALL, MIDDLING, LARGE = 2**10, 2**17, 2**24  # in one read, in several, and past what any route takes
EARLY = [
    *((status, size) for status in (401, 404, 405) for size in (SMALL, MIDDLING, LARGE)),
    *((429, size) for size in (SMALL, MIDDLING)),
    (413, LARGE),
]


@pytest.mark.parametrize(("status", "size"), EARLY)
@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_an_early_refusal_is_read_whole(door: Door, status: int, coding: str, size: int) -> None:
    """Rules X5, H13: whoever sends a body to its end first has the whole answer, and its next request its own."""
    spent = await make_user(door.stack, requests={"limit": 1, "used": 1})
    token = {401: "none", 429: spent.token}.get(status, door.token)
    body = sized(size)
    head = request(
        "PUT" if status == 405 else "POST",
        "/v1/none" if status == 404 else CHAT,
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {size}" if coding == "length" else "Transfer-Encoding: chunked",
    )
    async with RawConnection(door.port) as connection:
        await connection.send(head + (body if coding == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)))
        refused = await connection.answer()
        assert refused.status == status
        assert refused.error["message"]
        await connection.send(ALIVE)
        assert (await connection.answer(method="GET")).status == 200


async def test_a_body_that_does_not_come_is_408_and_the_end(door: Door) -> None:
    """Rules H13, X10: the deadline is for the whole body, however slowly it drips."""
    async with RawConnection(door.port) as connection:
        await connection.send(door.head(f"Content-Length: {len(BODY)}"))
        for position in range(3):
            await connection.send(BODY[position : position + 1])
            await asyncio.sleep(0.2)
        refused = await connection.answer()
        assert (refused.status, refused.error["code"]) == (408, "request_timeout")
        assert await connection.closed() == b""
    assert door.provider.asked == []


async def test_a_head_that_does_not_come_is_ended(door: Door) -> None:
    """Rules H13, X10: a head that drips is cut at its deadline, and a connection that never asks is as well."""
    async with RawConnection(door.port) as dripping, RawConnection(door.port) as silent:
        await dripping.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: sentinel\r\n")
        for number in range(6):
            await dripping.send(b"X-%d: y\r\n" % number)
            await asyncio.sleep(0.2)
        ended = await dripping.closed()
        assert ended == b"" or ended.startswith(b"HTTP/1.1 408")
        assert await silent.closed() == b""


async def test_bodies_share_one_budget(door: Door) -> None:
    """Rule H13: a body that finds no room is a 503 that says when to come again; when there is room, it is served."""
    padded = sized(BODY_BYTES_MAX)
    async with RawConnection(door.port) as first:
        await first.send(door.head(f"Content-Length: {len(padded)}") + padded[:-1])
        await asyncio.sleep(0.2)
        refused = await once(door.port, door.asking(body=padded))
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        assert (refused.header("retry-after"), refused.header("retry-after-ms")) == ("1", "1000")
        assert (await once(door.port, door.asking())).status == 200
        await first.send(padded[-1:])
        assert (await first.answer()).status == 200
    for _ in range(3):
        assert (await once(door.port, door.asking(body=padded))).status == 200


# ---- H1, H2, H6, H7 ----------------------------------------------------------------------------------------------------


async def test_only_what_is_listed_goes_up(door: Door) -> None:
    """Rules H1, H2, H5, X11, Y5: by the allow-list, without what Connection names, under Sentinel's own credentials."""
    lines = [
        "Accept: application/json", "User-Agent: OpenAI/Python 3.52.0", "OpenAI-Beta: assistants=v2", "Idempotency-Key: k-1",
        "X-Client-Request-Id: c-1", "X-Stainless-Lang: python", "X-Stainless-Arch: x64", "HTTP-Referer: https://app.test",
        "X-Title: caf\xc3\xa9", "Connection: keep-alive, X-Stainless-Arch, authorization", "Keep-Alive: timeout=5",
        "Cookie: a=canary", "Api-Key: canary", "X-Api-Key: canary", "OpenAI-Organization: org-canary",
        "OpenAI-Project: canary", "X-Forwarded-For: canary", "Forwarded: for=canary", "X-Real-IP: canary", "TE: trailers",
        "Proxy-Authorization: Basic canary", "X-Sentinel-Debug: canary", "Accept-Encoding: gzip, canary", "Upgrade: canary",
        "Range: bytes=0-canary", "Traceparent: 00-canary", "X-Request-Id: canary", "Origin: https://canary",
    ]  # fmt: skip
    answer = await once(door.port, door.asking(*lines))
    assert answer.status == 200
    (asked,) = door.provider.asked
    assert dict(asked.headers) == {
        "host": door.provider.url.split("/")[2],
        "content-type": "application/json",
        "accept": "application/json",
        "user-agent": "OpenAI/Python 3.52.0",
        "openai-beta": "assistants=v2",
        # Made the caller's own: the account is shared.
        "idempotency-key": asked.header("idempotency-key"),
        "x-client-request-id": "c-1",
        "x-stainless-lang": "python",
        "http-referer": "https://app.test",
        "x-title": "caf\xc3\xa9",
        "authorization": f"Bearer {door.stack.provider_key}",
        "accept-encoding": "identity",
        "x-request-id": answer.header("x-request-id"),
        "content-length": str(len(BODY)),
    }
    assert len(asked.header("idempotency-key") or "") == 64
    assert len(asked.headers) == len(dict(asked.headers))
    assert door.token not in str(asked.headers)


async def test_only_what_is_listed_comes_down(door: Door) -> None:
    """Rules H1, H3, H6, I1, I6, I7, X17: the provider's account, edge and hop stay there; its length stays right."""
    listed = {
        "Content-Disposition": "attachment", "OpenAI-Processing-Ms": "42", "OpenAI-Version": "2020-10-01",
        "OpenAI-Model": "gpt-4o", "Cache-Control": "no-store",
    }  # fmt: skip
    dropped = [
        "X-Request-Id: req_theirs", "Alt-Svc: h3=canary", "Strict-Transport-Security: canary", "CF-Ray: canary",
        "Server: canary", "Via: canary", "Set-Cookie: a=canary", "X-RateLimit-Limit-Requests: 777777", "Location: canary",
        "OpenAI-Organization: canary", "OpenAI-Project: canary", "Access-Control-Allow-Origin: canary", "X-Hop: canary",
        "X-Sentinel-Cache: canary", "WWW-Authenticate: canary", "Connection: keep-alive, x-hop, openai-model", "ETag: canary",
        "Keep-Alive: timeout=777777", "Accept-Ranges: canary",
    ]  # fmt: skip
    more = "".join(f"{line}\r\n" for line in [*(f"{name}: {value}" for name, value in listed.items()), *dropped])

    async def laden(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(ANSWER, more=more))

    door.provider.acts["laden"] = laden
    body = json.dumps({"model": "gpt-4o", "messages": HELLO, "act": "laden"}).encode()
    answer = await once(door.port, door.asking(body=body))
    assert (answer.status, answer.body) == (200, ANSWER)
    assert "canary" not in str(answer.headers)
    assert "777777" not in str(answer.headers)
    for name, value in listed.items():
        assert answer.header(name.lower()) == (None if name == "OpenAI-Model" else value)
    assert answer.header("x-upstream-request-id") == "req_theirs"
    assert str(answer.header("x-request-id")).startswith("req_")
    assert (answer.header("server"), answer.header("content-length")) == ("sentinel", str(len(ANSWER)))
    assert answer.header("transfer-encoding") is None


async def test_a_large_head_is_taken(door: Door) -> None:
    """Rule H7: 64 KiB of headers in one line or in a hundred are served, and as many of a target's query."""
    one = door.asking("X-Stainless-Big: " + "x" * 65_536)
    many = door.asking(*(f"X-{number}: {'y' * 600}" for number in range(96)))
    assert [(await once(door.port, content)).status for content in (one, many)] == [200, 200]
    assert len(door.provider.asked) == 2


async def test_a_head_that_is_too_large_is_refused(door: Door) -> None:
    """Rules H7, X8: over 100 lines or far over 128 KiB are the server's 431, a target over 64 KiB its 414; each closes."""
    lines = door.asking(*(f"X-{number}: y" for number in range(99)))
    size = door.asking(*(f"X-{number}: {'y' * 60_000}" for number in range(9)))
    target = door.asking(method="GET", target="/v1/models?" + "x" * 66_000, body=b"")
    for content, status in ((lines, 431), (size, 431), (target, 414)):
        async with RawConnection(door.port) as connection:
            await connection.send(content)
            refused = await connection.answer()
            assert (refused.status, refused.body, refused.header("connection")) == (status, b"", "close")
            assert await connection.closed() == b""
    assert door.provider.asked == []


# ---- H16, H21 ----------------------------------------------------------------------------------------------------------


async def test_a_head_is_a_get_without_its_body(door: Door) -> None:
    """Rule H16: where GET exists, with the same status and headers, and the connection stays in step."""

    def steady(answer: RawAnswer) -> list[tuple[str, str]]:
        return sorted(pair for pair in answer.headers if not pair[0].startswith(("x-request-id", "date", "x-ratelimit-")))

    for target in ("/v1/models", "/v1/models/gpt-4o", "/health/live", "/v1/none"):
        got = await once(door.port, door.asking(method="GET", target=target, body=b""), method="GET")
        async with RawConnection(door.port) as connection:
            await connection.send(door.asking(method="HEAD", target=target, body=b"") + ALIVE)
            answer = await connection.answer(method="HEAD")
            assert answer.status == got.status, target
            if target != "/v1/none":  # its message names the method, and so has another length
                assert steady(answer) == steady(got), target
            assert (await connection.answer(method="GET")).status == 200
    assert {asked.method for asked in door.provider.asked} == {"GET"}
    refused = await once(door.port, door.asking(method="HEAD", target="/v1/completions"), method="HEAD")
    assert (refused.status, refused.header("allow")) == (405, "POST")


WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


async def refused_websockets(door: Door) -> float:
    """How many the metrics have counted, once they show all that was asked before."""
    page = await metrics_page(door.stack)
    line = 'sentinel_requests_total{route="websocket",status="426"} '
    return sum(float(found.removeprefix(line)) for found in page.splitlines() if found.startswith(line))


@pytest.mark.parametrize(
    "target",
    ["/v1/realtime?model=gpt-realtime", "/v1/responses", CHAT, "/v1/completions", "/v1/models", "/v1/usage", "/v1/none", "/v1"],
)
@pytest.mark.parametrize("known", [True, False])
async def test_a_websocket_is_refused_at_once(door: Door, target: str, known: bool) -> None:
    """Rule H21, RFC 9110 §15.5.22: 426 in OpenAI's shape, on any path and before a token is asked for, with what is spoken
    instead; trying again is useless, and nothing goes up.
    """
    lines = [door.authorized, *WEBSOCKET] if known else WEBSOCKET
    answer = await once(door.port, request("GET", target, *lines), method="GET")
    assert (answer.status, answer.error["code"]) == (426, "websocket_not_supported")
    assert (answer.header("upgrade"), (answer.header("connection") or "").lower()) == ("HTTP/1.1", "upgrade")
    assert (answer.header("x-should-retry"), answer.header("server")) == ("false", "sentinel")
    assert str(answer.header("x-request-id")).startswith("req_")
    assert door.provider.asked == []


async def test_refused_websockets_are_counted(door: Door) -> None:
    """Rule H21: each of them is in the metrics."""
    before = await refused_websockets(door)
    for _ in range(3):
        await once(door.port, request("GET", "/v1/realtime", *WEBSOCKET), method="GET")
    assert await refused_websockets(door) == before + 3


@pytest.mark.parametrize(
    "lines", [["Upgrade: WebSocket"], ["Upgrade: h2c, websocket/13"], ["Upgrade: h2c", "Upgrade: websocket"]]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_websocket_is_known_in_every_spelling(door: Door, method: str, lines: list[str]) -> None:
    """Rule H21: in any case, in a list, with a version, over two lines; a body that follows is read to its end."""
    body = BODY if method == "POST" else b""
    async with RawConnection(door.port) as connection:
        await connection.send(door.asking("Connection: Upgrade", *lines, method=method, body=body))
        answer = await connection.answer(method=method)
        assert (answer.status, answer.error["code"]) == (426, "websocket_not_supported")
        await connection.send(ALIVE)
        assert (await connection.answer(method="GET")).status == 200


async def test_a_real_websocket_client_is_told(door: Door) -> None:
    """Rule H21: the handshake of a client fails with the status, and not by a time-out or a connection that breaks."""
    async with aiohttp.ClientSession() as http:
        for path in ("/v1/realtime?model=gpt-realtime", "/v1/responses"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await http.ws_connect(f"{door.stack.url}{path}", headers={"authorization": f"Bearer {door.token}"})
            assert caught.value.status == 426


@pytest.mark.parametrize(
    ("method", "target", "lines", "version", "status"),
    [
        ("POST", CHAT, ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"], "1.1", 200),
        ("POST", CHAT, ["Upgrade: websockets"], "1.1", 200),
        ("POST", CHAT, ["Upgrade: "], "1.1", 200),
        ("POST", CHAT, WEBSOCKET, "1.0", 200),
        ("GET", "/health/live", WEBSOCKET, "1.1", 200),
        ("GET", "/none", WEBSOCKET, "1.1", 404),
    ],
)  # fmt: skip
async def test_another_upgrade_is_ignored(
    door: Door, method: str, target: str, lines: list[str], version: str, status: int
) -> None:
    """Rule H21, RFC 9110 §7.8: other protocols, and all that HTTP/1.0 asks for, are as if they were not named."""
    body = BODY if method == "POST" else b""
    answer = await once(door.port, door.asking(*lines, method=method, target=target, body=body, version=version), method=method)
    assert (answer.status, answer.header("upgrade")) == (status, None)
    assert all(asked.header("upgrade") is None for asked in door.provider.asked)


async def test_another_protocol_is_refused(door: Door) -> None:
    """Rule H21: HTTP/2 by prior knowledge, a TLS greeting and what is no HTTP end at once."""
    for content in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/3.1\r\n\r\n"):
        async with RawConnection(door.port) as connection:
            await connection.send(content)
            ended = await connection.closed()
            assert ended == b"" or ended.startswith(b"HTTP/1.1 400")


async def test_http_1_0_is_served(door: Door) -> None:
    """Rule H21: plain with its length, a stream until the connection ends; no chunks, which HTTP/1.0 has not."""
    async with RawConnection(door.port) as connection:
        await connection.send(door.asking(version="1.0"))
        answer = await connection.answer()
        assert (answer.status, answer.body) == (200, ANSWER)
        assert await connection.closed() == b""
    async with RawConnection(door.port) as connection:
        await connection.send(door.asking(body=STREAMED, version="1.0"))
        answer = await connection.answer()
        assert answer.header("transfer-encoding") is None
        assert answer.body == event("a", finish="stop") + DONE
        assert await connection.closed() == b""


async def test_http_2_is_not_spoken(door: Door) -> None:
    """Rule D3: a client that begins with HTTP/2 gets no HTTP/2: there a cancelled stream could not be seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    # A server of HTTP/2 would have answered with a SETTINGS frame (RFC 9113, section 3.4).
    assert answer[3:4] != b"\x04"
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
