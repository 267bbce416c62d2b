"""provider: the edge to the provider against raw sockets that lie, stall and take uploads."""

import asyncio
import hashlib
import json
import random
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from sentinel.openai.response.content_kind import is_usual
from sentinel.ops.errors import (
    BadRequestError,
    BodyTooLargeError,
    ClientGoneError,
    UnknownPathError,
    UpstreamError,
    UpstreamTimeoutError,
)
from sentinel.upstream.http1 import Client
from sentinel.upstream.provider import OpenAI, Opened, Plain, Reply, Timeouts, judged
from sentinel.upstream.upload import Upload
from tests.support.liar import ANSWERS, EVENT, HELLO, STREAM, Liar
from tests.support.sink import HALF, Sink, sink

PATIENT = Timeouts(10, 10)
QUICK = Timeouts(0.2, 0.2)


@asynccontextmanager
async def edge(url: str, *, idle_s: float = 10, connections_max: int = 10) -> AsyncIterator[OpenAI]:
    """The edge to a provider at `url`."""
    one = OpenAI(Client(url, connect_s=5), "sk-key", idle_s=idle_s, connections_max=connections_max)
    try:
        yield one
    finally:
        await one.close()


async def ask(one: OpenAI, act: str, patience: Timeouts = PATIENT) -> Opened:
    """The liar's answer to a POST that asks for `act`."""
    body = json.dumps({"act": act}).encode()
    return await one.send("POST", "/chat/completions", b"", b"content-type: application/json\r\n", body, nothing, patience)


def nothing() -> None:
    """What to do when a head is sent."""


async def read(reply: Reply) -> bytes:
    """All of a reply, which is then closed."""
    said = b""
    try:
        while chunk := await reply.read():
            said += chunk
    finally:
        reply.close()
    return said


# ---- time-outs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["silent", "trickling headers"])
async def test_headers_that_do_not_come_are_a_timeout(act: str) -> None:
    """Rules O1, E6: the first byte has its own bound, and headers that trickle do not extend it."""
    async with Liar() as liar, edge(liar.url) as one:
        with pytest.raises(UpstreamTimeoutError):
            await ask(one, act, QUICK)


async def test_a_json_answer_is_bounded_as_a_whole() -> None:
    """Rule O1: JSON that trickles is never silent, and ends all the same."""
    async with Liar() as liar, edge(liar.url) as one:
        reply = await ask(one, "trickle", QUICK)
        with pytest.raises(UpstreamTimeoutError):
            await read(reply)


@pytest.mark.parametrize(("act", "body"), [("trickling stream", EVENT * 40 + STREAM), ("trickling download", b"\x00\xff" * 40)])
async def test_streams_and_downloads_have_no_total_bound(act: str, body: bytes) -> None:
    """Rule O1: what moves may go on, longer than any JSON answer may take."""
    async with Liar() as liar, edge(liar.url) as one:
        assert await read(await ask(one, act, QUICK)) == body


async def test_what_an_answer_is_decides_how_long_it_may_take() -> None:
    """A stream under the label of JSON may go on as long as it moves, JSON under any other may not."""
    async with Liar() as liar, edge(liar.url) as one:
        assert await read(await judged(await ask(one, "trickling stream as json", QUICK), streams=False)) == EVENT * 40 + STREAM
        reply = await judged(await ask(one, "trickling json as text", QUICK), streams=False)
        with pytest.raises(UpstreamTimeoutError):
            await read(reply)
        with pytest.raises(UpstreamTimeoutError):
            await judged(await ask(one, "trickling blanks as text", QUICK), streams=False)


async def test_the_bound_of_json_is_not_that_of_a_stream_s_headers() -> None:
    """Rule O1: a total time-out below the first-byte one ends a late JSON answer, never a stream that begins late."""
    patience = Timeouts(10, 0.01)
    async with Liar() as liar, edge(liar.url) as one:
        assert await read(await ask(one, "late stream", patience)) == STREAM
        with pytest.raises(UpstreamTimeoutError):
            await read(await ask(one, "late json", patience))


async def test_silence_in_the_middle_is_a_timeout() -> None:
    """Rules O1, D7: a stream that falls silent ends after the idle time-out."""
    async with Liar() as liar, edge(liar.url, idle_s=0.2) as one:
        reply = await ask(one, "silent in the middle")
        with pytest.raises(UpstreamTimeoutError):
            await read(reply)


async def test_what_does_not_come_soon_may_still_be_read() -> None:
    """`more` gives up waiting, never the answer: what comes later is read, and the connection is kept."""
    async with Liar() as liar, edge(liar.url) as one:
        for act in ("trickling stream", "well", "stream", "gzip stream"):
            reply = await ask(one, act)
            said, waits = b"", 0
            while (chunk := await reply.more(0.001)) != b"":
                said += chunk or b""
                waits += chunk is None
            assert said == (HELLO if act == "well" else EVENT * 40 + STREAM if act == "trickling stream" else STREAM)
            assert (waits > 0) is (act == "trickling stream")
            reply.close()
            with pytest.raises(UpstreamError):
                await reply.more(1)
        # The trickling one ends with its connection.
        assert liar.connections == 2


async def test_an_idle_bound_does_not_cut_a_long_wait_for_headers() -> None:
    """Rule O1: idle counts between two reads only; a pooled connection keeps no clock of the request before."""
    async with Liar() as liar, edge(liar.url, idle_s=0.05) as one:
        assert await read(await ask(one, "well")) == HELLO
        await asyncio.sleep(0.1)
        assert await read(await ask(one, "well")) == HELLO
        assert liar.connections == 1
        with pytest.raises(UpstreamTimeoutError) as caught:
            await ask(one, "silent", QUICK)
        assert str(caught.value) == "The provider did not answer in time."


async def test_a_connection_that_is_not_made_costs_nothing() -> None:
    """Rule R4: nothing was sent, so a retry is free and nobody tells the client not to."""
    async with edge("http://127.0.0.1:1/v1") as one:
        with pytest.raises(UpstreamError) as caught:
            await ask(one, "well")
    assert (caught.value.code, caught.value.sent, caught.value.retry) == ("upstream_unreachable", False, None)


@pytest.mark.parametrize("act", ["garbage", "reset", "endless headers", "two lengths", "negative length", "status 700"])
async def test_what_is_no_answer_after_the_request_was_sent_is_not_to_be_repeated(act: str) -> None:
    """Rule R4: the provider may have worked; the caller is told not to try again."""
    async with Liar() as liar, edge(liar.url) as one:
        with pytest.raises(UpstreamError) as caught:
            await read(await ask(one, act))
        assert (caught.value.status, caught.value.sent, caught.value.retry) == (502, True, False)


# ---- compressed answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "body"),
    [
        ("gzip", HELLO),
        ("gzip twice", HELLO),
        ("deflate", HELLO),
        ("bare deflate", HELLO),
        ("gzip stream", STREAM),
    ],
)
async def test_answers_that_are_read_are_made_plain(act: str, body: bytes) -> None:
    """Rule H5: content-encoding and content-length go together, and the bytes are plain."""
    async with Liar() as liar, edge(liar.url) as one:
        reply = await ask(one, act)
        assert not {name.lower() for name, _ in reply.headers} & {b"content-encoding", b"content-length"}
        assert await read(reply) == body
        assert await read(await ask(one, "well")) == HELLO
        assert liar.connections == 1


async def test_downloads_stay_as_they_are() -> None:
    """Rules H5, H19: what is not read keeps its bytes, its coding and its length."""
    async with Liar() as liar, edge(liar.url) as one:
        reply = await ask(one, "gzip download")
        names = {name.lower() for name, _ in reply.headers}
        assert names >= {b"content-encoding", b"content-length"}
        assert (await read(reply)).startswith(b"\x1f\x8b")


@pytest.mark.parametrize("act", ["br", "zstd stream", "gzip of gzip"])
async def test_codings_that_are_not_read_are_refused(act: str) -> None:
    """Rule H5: an answer nobody could meter does not pass, and its connection count is given back once."""
    async with Liar() as liar, edge(liar.url, connections_max=1) as one:
        for _ in range(3):
            with pytest.raises(UpstreamError) as caught:
                await ask(one, act)
            assert (caught.value.status, caught.value.retry) == (502, False)
        assert await read(await ask(one, "well")) == HELLO


@pytest.mark.parametrize("act", ["bad gzip", "no gzip", "short gzip"])
async def test_a_corrupt_body_is_broken_off(act: str) -> None:
    """Rule H5: bytes that cannot be made plain end as an answer that breaks off."""
    async with Liar() as liar, edge(liar.url) as one:
        with pytest.raises(UpstreamError) as caught:
            await read(await ask(one, act))
        assert (caught.value.status, caught.value.retry) == (502, False)


# ---- where requests go -------------------------------------------------------------------------------------------------


async def target(one: OpenAI, liar: Liar, path: str, query: bytes = b"") -> str:
    """The request line that a path and a query give."""
    await read(await one.send("GET", path, query, b"", b"", nothing, PATIENT))
    return liar.heads[-1].split(b"\r\n", 1)[0].decode("ascii")


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/models/openai%2Fgpt-4o", b"", "/v1/models/openai%2Fgpt-4o"),
        ("/models/a b", b"", "/v1/models/a%20b"),
        ("/models/a?b#c", b"", "/v1/models/a%3Fb%23c"),
        ("/models/x@evil.test:80", b"", "/v1/models/x@evil.test:80"),
        ("/models/\r\nx: y", b"", "/v1/models/%0D%0Ax:%20y"),
        ("/models/\xc3\xa9", b"", "/v1/models/%C3%A9"),
        ("/files", b"a[]=1&a[]=2&b=+%20?c", "/v1/files?a[]=1&a[]=2&b=+%20?c"),
        ("/files", b"a=1#frag\r\nx: y", "/v1/files?a=1%23frag%0D%0Ax:%20y"),
    ],
)
async def test_paths_and_queries_go_up_raw(path: str, query: bytes, expected: str) -> None:
    """Rule H8: what a request line can carry stays as it is, what would end it is encoded."""
    async with Liar() as liar, edge(liar.url) as one:
        assert await target(one, liar, path, query) == f"GET {expected} HTTP/1.1"


@pytest.mark.parametrize(
    "path",
    [
        *("", "models", "@evil.test/", "//evil.test/x", "/models//x", "/..", "/../x", "/models/../../x", "/./x", "/models/."),
        *("/%2e%2e/x", "/.%2E/x", "/x/%2e", "/models%2f..%2fx", "/\\..\\x", "/models/..%5cx", "http://evil.test/v1/models"),
    ],
)
async def test_no_path_leaves_the_base_url(path: str) -> None:
    """Rule H8: what would lead elsewhere once resolved is asked of nobody."""
    async with Liar() as liar, edge(liar.url) as one:
        with pytest.raises(UnknownPathError):
            await target(one, liar, path)
        assert liar.heads == []


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.binary(max_size=60))
def test_every_url_is_below_the_base(path: str, query: bytes) -> None:
    """Rules H8, X11: host, scheme and base path are the deployment's, whatever a client writes."""
    client = Client("http://api.test:8443/v1", connect_s=1)
    one = OpenAI(client, "k", idle_s=1, connections_max=1)
    try:
        said = one._opening("GET", f"/{path}", query)
    except UnknownPathError:
        return
    line, host, rest = said.decode("ascii").split("\r\n")
    method, target, version = line.split(" ")
    assert (method, version, host, rest) == ("GET", "HTTP/1.1", "host: api.test:8443", "")
    url = URL(f"http://{client.host}{target}", encoded=True)
    assert (url.scheme, url.host, url.port, url.user) == ("http", "api.test", 8443, None)
    assert url.raw_path_qs.startswith("/v1/")
    assert url.raw_path_qs.isprintable()
    assert " " not in url.raw_path_qs
    assert not {"..", "."} & set(url.path.split("/"))


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules H4, X11: HTTP_PROXY and its like lead no request (and no key) elsewhere."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    async with Liar() as liar, edge(liar.url) as one:
        assert await read(await ask(one, "well")) == HELLO


# ---- uploads -----------------------------------------------------------------------------------------------------------


class Parts:
    """An upload made of `parts`, each given by a call; `then` is raised at the end."""

    def __init__(
        self, parts: list[bytes] | Callable[[], AsyncIterator[bytes]], length: int | None, then: Exception | None = None
    ) -> None:
        self.length = length
        self.consumed = False
        self._parts = parts
        self._then = then

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.consumed = True
        if callable(self._parts):
            async for part in self._parts():
                yield part
        else:
            for part in self._parts:
                yield part
        if self._then is not None:
            raise self._then


async def upload(one: OpenAI, body: Upload, patience: Timeouts = PATIENT, on_sent: Callable[[], None] = nothing) -> Reply:
    """The sink's answer to an upload."""
    head = b"content-type: multipart/form-data; boundary=x\r\n"
    return await one.send("POST", "/files", b"", head, body, on_sent, patience)


ODD = bytes(range(256)) * 256  # NUL and what is no UTF-8, 64 KiB
PIECES = 3200  # 200 MiB


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload_streams_through(chunked: bool) -> None:
    """Rule H18: 200 MB go up as they are, by length or in chunks, and are never in memory as a whole."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(PIECES):
            yield ODD
            await asyncio.sleep(0)

    expected = hashlib.sha256()
    for _ in range(PIECES):
        expected.update(ODD)
    size = PIECES * len(ODD)
    async with sink() as taker, edge(taker.url) as one:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert await read(await upload(one, Parts(parts, None if chunked else size))) == b"{}"
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert (taker.length, taker.digest.hexdigest()) == (size, expected.hexdigest())
        assert grown_kib < 20 * 1024
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
        other = b"content-length:" if chunked else b"transfer-encoding:"
        assert framing in taker.head.lower()
        assert other not in taker.head.lower()
        assert b"content-type: multipart/form-data; boundary=x\r\n" in taker.head.lower()
        assert await read(await upload(one, Parts([b"again"], 5))) == b"{}"
        assert taker.connections == 1


@pytest.mark.parametrize(("parts", "length"), [([], 0), ([], None), ([b""], 0), ([b"", b"x", b""], None), ([b"xy"], 2)])
async def test_small_and_empty_uploads(parts: list[bytes], length: int | None) -> None:
    """Rule H18: an empty part does not end a chunked body."""
    async with sink() as taker, edge(taker.url) as one:
        assert await read(await upload(one, Parts(parts, length))) == b"{}"
        assert taker.length == len(b"".join(parts))


@pytest.mark.parametrize("error", [ClientGoneError(), BodyTooLargeError("too large"), ValueError("odd")])
async def test_what_ends_an_upload_reaches_the_caller_as_it_is(error: Exception) -> None:
    """Rule H18: the reason a body does not come is the caller's, and the half-sent request takes its connection along."""
    async with sink() as taker, edge(taker.url, connections_max=1) as one:
        with pytest.raises(type(error)) as caught:
            await upload(one, Parts([b"x" * 100_000], None, error))
        assert caught.value is error
        async with asyncio.timeout(5):
            await taker.closed.wait()
        assert await read(await upload(one, Parts([b"x"], 1))) == b"{}"
        assert taker.connections == 2


async def test_an_upload_shorter_than_its_length_is_a_client_that_left() -> None:
    """Rule H6: the provider is not left waiting for bytes that will not come."""
    async with sink() as taker, edge(taker.url) as one:
        with pytest.raises(ClientGoneError):
            await upload(one, Parts([b"abc"], 10))
        async with asyncio.timeout(5):
            await taker.closed.wait()


async def test_an_upload_longer_than_its_length_goes_no_further() -> None:
    """Rule X4: what comes after the declared length would be read as the next request of another caller."""
    async with sink() as taker, edge(taker.url) as one:
        with pytest.raises(BadRequestError):
            await upload(one, Parts([b"abc", b"POST / HTTP/1.1\r\n"], 5))
        async with asyncio.timeout(5):
            await taker.closed.wait()
        assert taker.requests == 1


async def test_a_body_that_was_not_taken_whole_costs_the_connection() -> None:
    """Rule X4: an answer that comes before its request was read leaves the rest of it on the connection."""
    async with sink(early=1) as taker, edge(taker.url) as one:
        body = b"x" * 50_000_000
        reply = await one.send("POST", "/files", b"", b"", body, nothing, PATIENT)
        assert await read(reply) == b"nope"
        taker.early = None
        assert await read(await upload(one, Parts([b"x"], 1))) == b"{}"
        assert taker.connections == 2


async def test_nothing_is_left_of_calls_that_were_given_up() -> None:
    """Rule V3: cancelled anywhere, uploads included, a call leaves no connection, no count and no task behind."""
    chance = random.Random(11)
    async with Liar() as liar, edge(liar.url, connections_max=50) as one:
        for _ in range(20):
            calls: list[asyncio.Task[bytes]] = []
            for _ in range(25):
                calls.append(asyncio.create_task(_answer(one, chance.choice(["well", "stream", "silent", "trickle"]))))
                calls.append(asyncio.create_task(_answer(one, Parts(_endlessly, None))))
            for call in calls:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                call.cancel()
            await asyncio.wait(calls)
            assert one._client.in_use == 0
        assert await read(await ask(one, "well")) == HELLO
        async with asyncio.timeout(5):
            while one._client._open != set(one._client._idle) or len(asyncio.all_tasks()) > 1 + len(liar._open):
                await asyncio.sleep(0.001)


async def _answer(one: OpenAI, what: str | Parts) -> bytes:
    return await read(await (ask(one, what) if isinstance(what, str) else upload(one, what)))


async def _endlessly() -> AsyncIterator[bytes]:
    while True:
        yield ODD
        await asyncio.sleep(0)


async def _until(gate: asyncio.Event, taker: Sink, then: Exception | None = None) -> AsyncIterator[bytes]:
    """Parts without an end, of which the client sends the last when the gate opens."""
    while taker.early is not None and taker.length < taker.early:
        yield ODD
        await asyncio.sleep(0)
    await gate.wait()
    if then is not None:
        raise then
    while True:
        yield ODD


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_early_answer_is_returned_at_once(chunked: bool) -> None:
    """Rule H18: a refusal in the middle of an upload is relayed, and its connection is not used again."""
    async with sink(early=3 * len(ODD)) as taker, edge(taker.url) as one:
        body = Parts(lambda: _until(asyncio.Event(), taker), None if chunked else 2**40)
        reply = await upload(one, body)
        assert reply.status == 413
        assert await read(reply) == b"nope"
        async with asyncio.timeout(5):
            await taker.closed.wait()
        taker.early = None
        assert await read(await upload(one, Parts([b"x"], 1))) == b"{}"
        assert taker.connections == 2


async def test_a_client_that_leaves_after_an_early_answer_ends_it() -> None:
    """Rule D1: nobody waits for the rest of an answer whose request cannot be completed."""
    gate = asyncio.Event()
    async with sink(early=1, refusal=HALF) as taker, edge(taker.url) as one:
        gone = ClientGoneError()
        reply = await upload(one, Parts(lambda: _until(gate, taker, gone), None))
        assert await reply.read() == b"nope"
        gate.set()
        with pytest.raises(ClientGoneError) as caught:
            await reply.read()
        assert caught.value is gone
        reply.close()
        async with asyncio.timeout(5):
            await taker.closed.wait()


async def test_the_wait_for_the_answer_begins_when_the_body_is_sent() -> None:
    """Rule O1: a slow client takes nothing from the provider's time."""

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0.1)
            yield b"x"

    async with sink() as taker, edge(taker.url, idle_s=0.2) as one:
        assert await read(await upload(one, Parts(slowly, 5), QUICK)) == b"{}"


async def test_a_provider_that_takes_nothing_is_a_timeout() -> None:
    """Rules O1, E6: an upload that does not move is given up after the idle time-out."""
    async with sink(reads=False) as taker, edge(taker.url, idle_s=0.2) as one:
        with pytest.raises(UpstreamTimeoutError):
            await upload(one, Parts([ODD] * 1000, None))


async def test_an_upload_is_not_touched_before_it_can_be_sent() -> None:
    """Rule R4: where nothing could be sent, the body is still whole and the call may be made again."""
    async with edge("http://127.0.0.1:1/v1") as one:
        body = Parts([b"x"], 1)
        with pytest.raises(UpstreamError) as caught:
            await upload(one, body)
        assert caught.value.sent is False
        assert body.consumed is False


async def test_a_head_that_is_sent_is_told_once() -> None:
    """Rule R4: from the head on the provider may work, also where the body never comes."""
    told: list[Any] = []
    async with sink() as taker, edge(taker.url) as one:
        with pytest.raises(ClientGoneError):
            await upload(one, Parts([], None, ClientGoneError()), on_sent=lambda: told.append(1))
    assert told == [1]


# ---- asking at once ----------------------------------------------------------------------------------------------------


async def ask_at_once(one: OpenAI, act: str, patience: Timeouts = PATIENT) -> Opened:
    """As `ask`, over a connection that was kept."""
    client = one._client
    if not client._idle:
        client._free(await client.connection(), None)
    body = json.dumps({"act": act}).encode()
    asked = one.ask("POST", "/chat/completions", b"", b"content-type: application/json\r\n", body, patience)
    assert asked is not None
    whole = await asked.came
    return await one.answered(asked) if whole is None else Plain(whole, whole.body, is_usual(whole.body) is not None)


async def became(one: OpenAI, act: str, way: Any) -> tuple[Any, ...]:
    """All that a reply is, or how it failed."""
    try:
        reply = await way(one, act)
        return reply.status, reply.headers, reply.kind, reply.fits, reply.ready, await read(reply), one._client.in_use
    except UpstreamError as error:
        return type(error), error.message, error.code, error.sent, error.retry, one._client.in_use


@pytest.mark.parametrize("act", sorted(ANSWERS))
async def test_what_is_asked_at_once_is_answered_the_same(act: str) -> None:
    """The usual way and the general one make the same of every answer of the liar, and leave nothing behind."""
    async with Liar() as liar, edge(liar.url, idle_s=0.05) as one:
        for _ in range(2):
            said = await became(one, act, ask)
            assert await became(one, act, ask_at_once) == said
            assert said[-1] == 0
        heads = [head.lower() for head in liar.heads]
        assert heads == heads[:1] * 4


async def test_nothing_is_asked_at_once_where_it_would_have_to_wait() -> None:
    """Without a kept connection, beyond the bound, and for HEAD, there is nothing to await, and nothing is held."""
    async with Liar() as liar, edge(liar.url, connections_max=1) as one:
        say = ("/models", b"", b"accept: */*\r\n", b"", PATIENT)
        assert one.ask("GET", *say) is None
        one._client._free(await one._client.connection(), None)
        assert one.ask("HEAD", *say) is None
        first = one.ask("POST", "/chat/completions", b"", b"", b'{"act":"silent"}', PATIENT)
        assert first is not None
        assert one.ask("GET", *say) is None
        one.drop(first)
        assert (one._client.in_use, one._client.kept()) == (0, None)


async def test_who_gives_up_an_answer_that_is_here_does_not_end_the_next() -> None:
    """Rule V3: a whole answer ends its exchange; whoever leaves then leaves the connection to who has it by now."""
    say = ("POST", "/chat/completions", b"", b"", b'{"act":"well"}', PATIENT)
    async with Liar() as liar, edge(liar.url, connections_max=1) as one:
        one._client._free(await one._client.connection(), None)
        first = one.ask(*say)
        assert first is not None
        while not first.came.done():
            await asyncio.sleep(0.001)
        second = one.ask(*say)
        assert second is not None
        assert second.connection is first.connection
        one.drop(first)
        assert one._client.in_use == 1
        whole = await second.came
        assert whole is not None
        assert whole.body == HELLO
        assert one._client.in_use == 0
