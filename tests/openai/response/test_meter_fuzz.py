"""Any bytes, cut anywhere: splitter and meters never raise, change nothing, and hold no more than their bounds."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.openai.response import sse
from sentinel.openai.response.body_meter import BodyMeter, PassMeter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Dialect
from tests.support.metering import cut, run, ways

# Inputs that have once broken a gateway, or this one while it was written (rules S1, S4, U9, U10, U12, H12).
NASTY = [
    b"",
    b"\r",
    b"\n\n\n",
    b"\r\r\n\r",
    b"data",
    b"data:\n\n",
    b"data: \n\n",
    b": ping\n\n",
    b"\xef\xbb\xbfdata: [DONE]",
    b"data: [DONE]" * 3,
    b"data: [DONE]\n\ndata: [DONE]\n\n",
    b'data: "usage"\n\n',
    b'data: {"usage":' + b"[" * 3000 + b"\n\n",
    b'data: {"usage":{"prompt_tokens":' + b"9" * 5000 + b',"completion_tokens":1}}\n\n',
    b'data: {"usage":{"prompt_tokens":1e400,"completion_tokens":-1e400}}\n\n',
    b'data: {"usage":{"prompt_tokens":"1e400","completion_tokens":"nan"}}\n\n',
    b'data: {"usage":{"prompt_tokens":3,"completion_tokens":2},"x":"\\ud83d"}\n\n',
    b'data: {"usage":{"prompt_tokens":3,"completion_tokens":2},"x":"\xc3"}\n\n',
    b'data: {"usage":NaN,"id":NaN,"status":NaN}\n\n',
    b'data: {"choices":[],"usage":{}}\n\ndata: {"choices":[],"usage":[]}\n\n',
    b'data: {"id":{},"object":[],"type":[],"status":{},"error":[1],"response":"x","usage":7}\n\n',
    b'data: {"type":["response.completed"],"response":{"type":{},"usage":{"input_tokens":[]}}}\n\n',
    b'data: {"type":"response.completed","response":{"response":{"response":{"usage":{}}}}}\n\n',
    b'data: {"type":"response.x.delta","delta":{"a":1},"output_index":"0","content_index":null}\n\n',
    b'data: {"type":"response.output_item.added","item":7,"output_index":{}}\n\n',
    b'data: {"output":[7,{"type":["message"]},{"type":"message","content":7},{"type":"reasoning","summary":[[]]}]}\n\n',
    b'data: {"choices":[{"index":[],"delta":[1]},{"delta":{"tool_calls":[{"index":{},"function":[]}]}}]}\n\n',
    b'data: {"object":["thread.run"],"usage":null,"status":["queued"]}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed",\ndata: "response":{"id":"r"}}\n\n',
    b'data: {"a":1}\r\rdata: {"error"\r\n:{}}\n\r\ndata:{"response":1}\r\n\r\n',
]

WORDS: list[Any] = [
    *("usage", "response", "error", "type", "id", "status", "object", "choices", "delta", "output", "item", "content", "text"),
    *("response.completed", "response.failed", "response.output_text.delta", "response.output_item.added", "thread.run"),
    *("message", "function_call", "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens", "queued", "[DONE]"),
]
scalars = st.one_of(
    st.sampled_from(WORDS), st.integers(-3, 3), st.none(), st.booleans(), st.floats(), st.sampled_from(["é", "👋", "\ud83d"])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(WORDS), values, max_size=6).map(lambda said: json.dumps(said).encode())
lines = st.one_of(
    objects.map(lambda said: b"data: " + said),
    st.sampled_from([b"data: [DONE]", b"data", b"event: error", b": ping", b"id: 1", b"", b"", b""]),
    st.binary(max_size=20),
)
streams = st.one_of(
    st.binary(max_size=200),
    st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\n\n"])), max_size=12).map(
        lambda parts: b"".join(line + end for line, end in parts)
    ),
)
cuts = st.lists(st.integers(0, 2000), max_size=10)
dialects = st.sampled_from(list(Dialect))


def through(stream: bytes) -> bytes:
    """What must come down of a stream: all of it, but for a half event at its end, and closed where that was whole."""
    splitter = sse.Splitter()
    whole = splitter.feed(stream)
    rest = splitter.rest()
    meter = StreamMeter(Dialect.NONE)
    meter.feed(rest)
    return whole + (meter.finish() if rest else b"")


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("stream", NASTY, ids=range(len(NASTY)))
def test_nasty_streams(stream: bytes, dialect: Dialect) -> None:
    """Rules S1, S2, U10: what once broke a gateway passes unchanged and is read alike at every split."""
    whole = run(StreamMeter(dialect, names=True), [stream])
    assert whole.downstream == through(stream)
    for chunks in ways(stream) if len(stream) < 300 else ([bytes([byte]) for byte in stream], cut(stream, [1, 20, 21])):
        assert whole == run(StreamMeter(dialect, names=True), chunks)


@given(streams, cuts, dialects, st.booleans())
@example(b'data: {"usage":{}}\r\r', [18], Dialect.CHAT, True)
@example(b"\r\n\rdata: [DONE]\r", [1, 2], Dialect.EVENTS, False)
def test_any_stream_passes_unchanged(stream: bytes, places: list[int], dialect: Dialect, names: bool) -> None:
    """Rules S1, S2: nothing raises, every byte comes down in its order, and the same is read however it was cut."""
    seen = run(StreamMeter(dialect, names=names), cut(stream, places))
    assert seen.downstream == through(stream)
    assert seen == run(StreamMeter(dialect, names=names), [stream])


@example(b':\ndata:{"usage":{}}\n\n\n', [])
@given(streams, cuts)
def test_hiding_takes_whole_events_only(stream: bytes, places: list[int]) -> None:
    """Rules U5, U12: with usage hidden what comes down is the stream without some of its events, and nothing else. A comment
    before such an event stays, which tells nothing but that the stream lives.
    """
    down = run(StreamMeter(Dialect.CHAT, usage_hidden=True), cut(stream, places)).downstream
    left = iter(sse.events(through(stream)))
    for event in sse.events(down):
        if any(line and not line.startswith(b":") for line in event.splitlines()):
            assert any(whole.startswith(event) for whole in left)


@given(streams, cuts, dialects, st.integers(8, 60), st.integers(0, 200))
def test_bounds_are_kept(stream: bytes, places: list[int], dialect: Dialect, tail_bytes_max: int, kept_bytes_max: int) -> None:
    """Rules S7, L4: whatever the bounds, nothing raises, no more than the tail is held, and texts stay within theirs."""
    meter = StreamMeter(dialect, names=True, tail_bytes_max=tail_bytes_max, kept_bytes_max=kept_bytes_max)
    fed = down = 0
    for chunk in cut(stream, places):
        fed += len(chunk)
        down += len(meter.feed(chunk))
        # An error that is too long goes down in other words, and so in another length.
        assert fed - down <= tail_bytes_max or b"error" in stream
    meter.finish()
    said = meter.produced()
    assert sum(len(text) for text in said.texts) <= kept_bytes_max
    assert min(said.bytes_uncounted, said.media_tokens, said.unread_bytes) >= 0
    assert isinstance(meter.failure("x", "server_error", None) + meter.ending(), bytes)


@given(st.one_of(objects, st.binary(max_size=200)), cuts, dialects, st.sampled_from([10, 1 << 20]))
@example(b'"usage"' * 20, [], Dialect.CHAT, 10)
@example(b'{"id":"a","usage":{"id":"b"}}', [3], Dialect.RESPONSES, 10)
def test_any_body_passes_unchanged(body: bytes, places: list[int], dialect: Dialect, kept_bytes_max: int) -> None:
    """Rules H12, U10: nothing raises on any plain body, its chunks come down as they are, and it is read alike at any cut."""
    chunks = cut(body, places)
    meters = [BodyMeter(dialect, names=True, kept_bytes_max=kept_bytes_max) for _ in range(2)]
    seen = run(meters[0], chunks)
    assert seen.downstream == body
    assert seen == run(meters[1], [body])
    assert run(PassMeter(dialect), chunks).downstream == body
