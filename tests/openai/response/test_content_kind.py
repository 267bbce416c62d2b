"""What an answer is, by its first bytes and whatever its label: the table, at every split, and over the edge that looks."""

import gzip
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.response import sse
from sentinel.openai.response.content_kind import Kind, errs, is_usual, relabelled, told
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.errors import UpstreamError, UpstreamTimeoutError
from sentinel.ops.records import Call, Dialect, Ending, Origin
from sentinel.upstream import sniffing
from sentinel.upstream.provider import judged
from sentinel.upstream.reply import within
from tests.stages.test_relay import EVENTS, Answer, call, copy
from tests.support.metering import run, ways

BOM = b"\xef\xbb\xbf"
STARTS: list[tuple[bytes, Kind]] = [
    (b'data: {"a":1}\n\n', Kind.EVENTS),
    (b"data:x\n\n", Kind.EVENTS),
    (b"event: ping\n\n", Kind.EVENTS),
    (b"id: 7\ndata: x\n\n", Kind.EVENTS),
    (b"retry: 100\n\n", Kind.EVENTS),
    (b": OPENROUTER PROCESSING\n\n", Kind.EVENTS),
    (b":\n", Kind.EVENTS),
    (b"\n\r\n\rdata: x\n\n", Kind.EVENTS),
    (BOM + b"data: x\n\n", Kind.EVENTS),
    (BOM + b"\n: x\n\n", Kind.EVENTS),
    (b'{"a":1}', Kind.JSON),
    (b'[{"a":1}]', Kind.JSON),
    (b' \t\r\n  {"a":1}', Kind.JSON),
    (BOM + b'{"a":1}', Kind.JSON),
    (BOM + b"\n[1]", Kind.JSON),
    (b"<!DOCTYPE html>", Kind.OTHER),
    (b"\n<html>", Kind.OTHER),
    (BOM + b"<html>", Kind.OTHER),
    (b"upstream is fine", Kind.OTHER),
    (b"database", Kind.OTHER),
    (b"events: x", Kind.OTHER),
    (b"Data: x\n\n", Kind.OTHER),
    (b" data: x\n\n", Kind.OTHER),
    (b" \n\t\r\ndata: x\n\n", Kind.EVENTS),
    (b" \n : x\n\n", Kind.OTHER),
    (b"identity", Kind.OTHER),
    (b'"text"', Kind.OTHER),
    (b"null", Kind.OTHER),
    (b"7", Kind.OTHER),
    (b"\xff\xfb\x90", Kind.OTHER),
    (b"\x1f\x8b\x08", Kind.OTHER),
    (b"\xef\xbb<", Kind.OTHER),
]


@pytest.mark.parametrize(("start", "kind"), STARTS)
def test_an_answer_is_told_by_its_first_bytes(start: bytes, kind: Kind) -> None:
    """A field or a comment is a stream, { or [ is JSON, after a BOM and blank lines; no prefix lies."""
    assert told(start) is kind
    for at in range(len(start)):
        assert told(start[:at]) in (None, kind)


@given(st.binary(max_size=40), st.binary(max_size=10))
def test_what_is_told_stays_told(start: bytes, more: bytes) -> None:
    """Whatever follows, an answer does not become another kind."""
    kind = told(start)
    assert kind is None or told(start + more) is kind


def test_a_label_is_replaced_whole() -> None:
    """The new label stands alone, and every other header stays."""
    sent = [(b"Content-Type", b"text/html"), (b"x-a", b"1"), (b"content-type", b"text/plain")]
    assert relabelled(sent, Kind.JSON) == ((b"x-a", b"1"), (b"content-type", b"application/json"))


# ---- the edge that looks -----------------------------------------------------------------------------------------------


class Arriving(Answer):
    """An answer as the edge opens it; `bounds` are those it was given."""

    def __init__(self, label: bytes, chunks: list[bytes], *, kind: Kind = Kind.OTHER, failure: Exception | None = None) -> None:
        super().__init__(label or None, chunks, failure=failure)
        self.ready = self.fits = False
        self.kind = kind
        self.origin = Origin()
        self.bounds: list[bool] = []
        self.blanks = 0

    def bound(self, *, as_stream: bool) -> None:
        self.bounds.append(as_stream)

    async def more(self, within_s: float) -> bytes | None:
        self.blanks += 1
        return await within(self, within_s)


LABELS = [
    (b"application/json", Kind.JSON),
    (b"text/event-stream", Kind.EVENTS),
    (b"text/plain; charset=utf-8", Kind.OTHER),
    (b"text/html", Kind.OTHER),
    (b"", Kind.OTHER),
]


@pytest.mark.parametrize(("label", "by_label"), LABELS)
@pytest.mark.parametrize(("body", "kind"), STARTS)
async def test_the_label_is_right_in_the_end(body: bytes, kind: Kind, label: bytes, by_label: Kind) -> None:
    """At every split all bytes come down, under their own label where it was right, else under the right one."""
    for chunks in ways(body):
        arriving = Arriving(label, chunks, kind=by_label)
        if kind is Kind.OTHER:
            with pytest.raises(UpstreamError) as caught:
                await judged(arriving, streams=False)
            assert (caught.value.status, caught.value.code) == (502, "upstream_not_json")
            assert (caught.value.sent, caught.value.retry) == (False, False)
            assert arriving.closed
            continue
        reply = await judged(arriving, streams=False)
        said = b""
        while chunk := await reply.read():
            said += chunk
        assert said == body
        expected = label if kind is by_label else kind.value
        assert [value for name, value in reply.headers if name.lower() == b"content-type"] == [expected]
        # JSON is bounded as a whole while it is looked at and afterwards; a stream may go on as long as it moves.
        assert arriving.bounds == [False, kind is Kind.EVENTS]
        assert not arriving.closed


@pytest.mark.parametrize("body", [b"", b"\n", b" \n \n", BOM, b"da", b"\r\nevent", b" " * 200_000])
@pytest.mark.parametrize("label", [b"text/html", b""])
async def test_what_ends_or_never_begins_is_neither(body: bytes, label: bytes) -> None:
    """An empty answer, white space and half a word are no answer of a model; looking has a bound of bytes."""
    chunks = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    arriving = Arriving(label, chunks)
    with pytest.raises(UpstreamError, match="neither JSON nor" if body else "empty body"):
        await judged(arriving, streams=False)
    assert len(arriving._chunks) == (134 if len(body) > 65_536 else 0)


async def test_white_space_that_keeps_a_connection_alive_goes_down() -> None:
    """Where JSON is announced and white space comes for long, the label is believed; the client gets it all. It is
    not where events were asked for.
    """

    class Slow(Arriving):
        async def more(self, within_s: float) -> bytes | None:
            clock[0] += 0.04
            return await self.read() if within_s > 0 else None

    clock = [7.0]
    blanks = [b"\n"] * 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sniffing, "_now", lambda: clock[0])
        reply = await judged(Slow(b"application/json", [*blanks, b'{"a":1}'], kind=Kind.JSON), streams=False)
        patient = await judged(Slow(b"application/json", [*blanks, b"data: 1\n\n"], kind=Kind.JSON), streams=True)
    assert await patient.read() == b"\n" * 10 + b"data: 1\n\n"
    assert dict(patient.headers) == {b"content-type": Kind.EVENTS.value}
    assert await reply.read() == b"\n" * 4
    said = b""
    while chunk := await reply.read():
        said += chunk
    assert said == b"\n" * 6 + b'{"a":1}'
    assert dict(reply.headers) == {b"Content-Type": b"application/json"}


@pytest.mark.parametrize("failure", [UpstreamError("It broke."), UpstreamTimeoutError("It fell silent.")])
@pytest.mark.parametrize("start", [b"", b"\n", b"da"])
async def test_what_breaks_off_while_it_is_looked_at(start: bytes, failure: UpstreamError) -> None:
    """An answer that fails before it can be told is that failure, and closed."""
    arriving = Arriving(b"text/plain", [start] if start else [], failure=failure)
    with pytest.raises(UpstreamError) as caught:
        await judged(arriving, streams=False)
    assert caught.value is failure
    assert arriving.closed


@pytest.mark.parametrize(("body", "kind"), [(b'{"a":1}', Kind.JSON), (b"data: x\n\n", Kind.EVENTS), (b"<html>", Kind.OTHER)])
async def test_compressed_answers_are_read_under_any_label(body: bytes, kind: Kind) -> None:
    """What came compressed under a wrong label is made plain, so that it can be told and billed."""
    for chunks in ways(gzip.compress(body))[::5]:
        arriving = Arriving(b"text/plain", chunks)
        arriving.headers = (*arriving.headers, (b"Content-Encoding", b"gzip"), (b"Content-Length", b"9"))
        if kind is Kind.OTHER:
            with pytest.raises(UpstreamError, match="neither JSON nor"):
                await judged(arriving, streams=False)
            continue
        reply = await judged(arriving, streams=False)
        assert await reply.read() + await reply.read() == body
        assert reply.headers == ((b"content-type", kind.value),)
    unreadable = Arriving(b"text/plain", [b"x"])
    unreadable.headers = (*unreadable.headers, (b"content-encoding", b"br"))
    with pytest.raises(UpstreamError, match="compressed") as caught:
        await judged(unreadable, streams=False)
    assert (caught.value.code, unreadable.closed) == ("upstream_error", True)


async def test_the_page_is_in_the_log_at_debug_level_only(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever looks for the fault sees how the page begins; the usual log names only its type."""
    with caplog.at_level(logging.DEBUG, "sentinel.provider"), pytest.raises(UpstreamError):
        await judged(Arriving(b"text/html; secret=1" + b"x" * 500, [b"<html>secret \xff" + b"x" * 2000]), streams=False)
    by_level = {record.levelno: str(getattr(record, "fields", {})) for record in caplog.records}
    assert "<html>secret" in by_level[logging.DEBUG]
    assert len(by_level[logging.DEBUG]) < 1000
    assert "<html>" not in by_level[logging.WARNING]
    assert len(by_level[logging.WARNING]) < 300


# ---- a stream that was announced and is bare JSON ------------------------------------------------------------------------

ERROR = {"error": {"message": "It broke.", "type": "server_error", "param": None, "code": None}}


@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.RESPONSES, Dialect.EVENTS])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("before", "after"), [(b"", b""), (b"", b"\n"), (b"\n\n", b"\r\n\r\n"), (BOM, b""), (b": ping\n\n", b"\n\n")]
)
async def test_a_bare_error_reaches_who_asked_for_events(
    dialect: Dialect, indent: int | None, before: bytes, after: bytes
) -> None:
    """An error in bare JSON under the label of a stream becomes the event that clients raise on."""
    body = json.dumps(ERROR, indent=indent).encode()
    for chunks in ways(before + body + after)[::4]:
        down = await copy(Answer(EVENTS, chunks), call(dialect))
        told_events = [sse.payload(event) for event in sse.events(down.body)]
        said = [event for event in told_events if event and event != b"[DONE]"]
        assert [json.loads(event) for event in said] == [ERROR]
        assert (down.whole, down.outcome.ending) == (True, Ending.UPSTREAM_ERROR)
        assert (down.outcome.usage, list(down.outcome.produced.texts)) == (None, [])
        assert down.body.endswith(sse.DONE) is (dialect is Dialect.CHAT)


@pytest.mark.parametrize("body", [b'{"error":{"text', b"[1]", b"{]", b"<html></html>"])
async def test_what_is_no_json_object_is_no_event(body: bytes) -> None:
    """Half an object, or what is none, is not made an event; the stream is told as none."""
    down = await copy(Answer(EVENTS, [body]), call(Dialect.CHAT))
    assert not down.body.startswith((body, b"data: " + body))
    assert b"upstream_not_json" in down.body


@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.RESPONSES, Dialect.EVENTS, Dialect.MEDIA])
@pytest.mark.parametrize(
    "body", [b"", b"\n\n", b": ping\n\n", b"upstream is fine", b"<html>\n\n<img src='data:x'>\n\n</html>\n"]
)
async def test_a_stream_without_an_event_costs_nothing(dialect: Dialect, body: bytes) -> None:
    """Under the label of a stream, what has no event ends with an error, and nothing of it was served."""
    for chunks in ways(body)[::5] or [[]]:
        down = await copy(Answer(EVENTS, chunks), call(dialect))
        assert b"upstream_not_json" in down.body
        assert (down.outcome.started, down.outcome.ending) == (False, Ending.UPSTREAM_ERROR)


@pytest.mark.parametrize("body", [b'data: {"id":', b"data: x\n\n"])
async def test_half_an_event_is_billed(body: bytes) -> None:
    """A stream that broke off within its first event was served; what it cost is estimated."""
    down = await copy(Answer(EVENTS, [body]), call(Dialect.CHAT))
    assert b"upstream_truncated" in down.body
    assert (down.outcome.started, down.outcome.ending) == (True, Ending.TRUNCATED)


def test_json_behind_an_event_is_left_alone() -> None:
    """Once a stream has begun as one, a line of JSON is an unknown field, which clients pass over."""
    word = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    bare = b'{"error":{"message":"x"}}\n\n'
    seen = run(StreamMeter(Dialect.CHAT), [word, bare, word])
    assert seen.downstream == word + bare + word


async def test_a_whole_answer_under_the_label_of_a_stream_is_billed() -> None:
    """A chat that comes as one bare object under the label of a stream is an event with its usage."""
    choice = b'{"index":0,"message":{"content":"a"},"finish_reason":"stop"}'
    body = b'{"id":"c1","choices":[%s],"usage":{"prompt_tokens":3,"completion_tokens":2}}' % choice
    down = await copy(Answer(EVENTS, [body]), Call("x", "POST", "/x", usage_hidden=True))
    assert down.body == b"data: " + body + b"\n\n" + sse.DONE
    assert down.outcome.ending is Ending.SUCCESS
    assert down.outcome.usage is not None


ERRORS: list[tuple[bytes, bool]] = [
    (b'{"error":{"message":"x"}}', True),
    (b'{ "error" : "x"}', True),
    (b'\r\n{\n"error":\t{', True),
    (BOM + b'{"error":{', True),
    (b'{"error":null,"choices":[]}', False),
    (b'{"error":[],"a":1}', False),
    (b'{"errors":{}}', False),
    (b'{"erro":{}}', False),
    (b'{"id":"x","error":{"message":"y"}}', False),
    (b'{"a":"error\\":{"}', False),
    (b"{}", False),
    (b"[{", False),
]


@pytest.mark.parametrize(("start", "is_error"), ERRORS)
def test_an_error_is_told_by_its_first_member(start: bytes, is_error: bool) -> None:
    """Of every beginning it is told right, or more is wanted; what is usual is never an error."""
    assert errs(start) is is_error
    for at in range(len(start)):
        assert errs(start[:at]) in (None, is_error)
        assert not (is_usual(start[:at]) and is_error)
