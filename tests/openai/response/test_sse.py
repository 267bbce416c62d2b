"""The splitter finds the same events however a stream is cut, and loses no byte."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.response import sse
from tests.support.metering import cut, ways

SAMPLES = sorted((Path(__file__).parents[2] / "samples").rglob("*.sse"))
LINE_ENDS = [b"\n", b"\r\n", b"\r"]

lines = st.one_of(
    st.sampled_from([b"data: [DONE]", b"data", b"data:", b": ping", b"id: 1", b"event: error", b'data: {"a":"\xc3'] * 2),
    st.binary(min_size=1, max_size=12).map(lambda text: b"data: " + text.replace(b"\r", b"").replace(b"\n", b"")),
)
line_ends = st.sampled_from(LINE_ENDS)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Any lines, any line ends, any number of blank lines, perhaps broken off."""
    parts = draw(st.lists(st.one_of(st.tuples(lines, line_ends), st.tuples(st.just(b""), line_ends)), max_size=14))
    return b"".join(part for pair in parts for part in pair) + draw(st.sampled_from([b"", b"dat", b"data: x"]))


def feed(splitter: sse.Splitter, chunks: list[bytes]) -> tuple[list[bytes], bytes]:
    """What comes out at each chunk, and the rest."""
    return [splitter.feed(chunk) for chunk in chunks], splitter.rest()


def reference(stream: bytes) -> tuple[list[bytes], bytes]:
    """Events and rest by the definition, a line at a time (WHATWG HTML 9.2.5); a last CR is not yet a line end."""
    found, event = [], b""
    held = b"\r" if stream.endswith(b"\r") else b""
    for line in stream.removesuffix(held).splitlines(keepends=True):
        event += line
        if line in LINE_ENDS:
            found.append(event)
            event = b""
    return found, event + held


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_split_gives_the_same_events(sample: Path) -> None:
    """Rule S1: whole, byte by byte and at every split, the same events come out and no byte is lost."""
    stream = sample.read_bytes()
    whole, rest = reference(stream)
    for chunks in ways(stream):
        regions, tail = feed(sse.Splitter(), chunks)
        assert whole == [event for region in regions for event in sse.events(region)]
        assert rest == tail


@given(streams(), st.lists(st.integers(0, 500), max_size=8))
def test_any_chunks_any_line_ends(stream: bytes, cuts: list[int]) -> None:
    """Rules S1, S7: any stream, cut anywhere, is given out in whole events, and only the unfinished tail is held."""
    chunks = cut(stream, cuts)
    splitter = sse.Splitter()
    seen = given_out = b""
    for chunk in chunks:
        seen += chunk
        given_out += splitter.feed(chunk)
        assert b"".join(reference(seen)[0]) == given_out
    assert stream == given_out + splitter.rest()


@given(streams(), st.lists(st.integers(0, 500), max_size=8), st.integers(4, 30))
def test_overflow_loses_nothing(stream: bytes, cuts: list[int], tail_bytes_max: int) -> None:
    """Rule S7: past the cap bytes go out raw, and what is held never exceeds it."""
    splitter = sse.Splitter(tail_bytes_max)
    out = seen = 0
    regions = []
    for chunk in cut(stream, cuts):
        regions.append(splitter.feed(chunk))
        seen += len(chunk)
        out += len(regions[-1])
        assert seen - out <= tail_bytes_max
    assert stream == b"".join(regions) + splitter.rest()


@given(streams())
def test_events_follow_the_definition(stream: bytes) -> None:
    """A region is cut after each blank line, whatever its line ends; an unfinished event is the last element."""
    whole, rest = reference(stream + b"x")
    assert [*whole, rest] == sse.events(stream + b"x")


def test_whole_events_are_not_copied() -> None:
    """A chunk that ends on a boundary is returned itself."""
    chunk = b'data: {"a":1}\n\ndata: {"a":2}\n\n'
    assert sse.Splitter().feed(chunk) is chunk


def test_last_carriage_return_waits() -> None:
    """A CR as the last byte may become a CRLF, so it is held until the next byte tells."""
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\r\r") == b""
    assert splitter.feed(b"\ndata: 2\r\n\r") == b"data: 1\r\r\n"
    assert splitter.feed(b"d") == b"data: 2\r\n\r"
    assert splitter.rest() == b"d"


def test_oversized_event_passes_raw() -> None:
    """Rule S7: the tail past its cap goes out raw up to its boundary, is counted once, and splitting goes on behind it."""
    splitter = sse.Splitter(tail_bytes_max=10)
    assert splitter.split(b"data: 1\n\ndata: 23456") == (b"", b"data: 1\n\n", b"data: 23456")
    assert splitter.skipping
    assert splitter.split(b"789\n") == (b"789", b"", b"")
    assert splitter.split(b"\ndata: 2\n\ndat") == (b"\n\n", b"data: 2\n\n", b"")
    assert not splitter.skipping
    assert splitter.overflowed == 1
    assert splitter.rest() == b"dat"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (b"data: one\n\n", b"one"),
        (b"data:one\n\n", b"one"),
        (b"data:  one\n\n", b" one"),
        (b"data: one\ndata: two\r\ndata:three\r\r", b"one\ntwo\nthree"),
        (b"data: one\rdata: two\n\n", b"one\ntwo"),
        (b"data\ndata\n\n", b"\n"),
        (b": comment\nid: 7\nevent: message\nretry: 1\ndatum: no\ndata: yes\n\n", b"yes"),
        (b"\xef\xbb\xbfdata: first\n\n", b"first"),
        (b"data: \xff\xfe\n\n", b"\xff\xfe"),
        (b": only a comment\n\n", b""),
        (b"data:\n\n", b""),
        (b"\n", b""),
        (b"data: unfinished", b"unfinished"),
    ],
)
def test_payload(event: bytes, said: bytes) -> None:
    """Rules S1, S2: data lines join with a line feed, one leading space goes, comments and other fields say nothing."""
    assert said == sse.payload(event)


def test_error_event() -> None:
    """Rule F1: the error event has all four keys, is ASCII for any text, and is one whole event with data (rule S4)."""
    event = sse.error_event('broke "off"\n\ud83d', "server_error", None)
    assert [event] == sse.events(event)
    expected = {"message": 'broke "off"\n\ud83d', "type": "server_error", "param": None, "code": None}
    assert {"error": expected} == json.loads(sse.payload(event))
    assert event.isascii()


def test_typed_error_event() -> None:
    """Rule F5: it is OpenAI's own `error` event with all its keys, and carries an `error` object; ASCII, one whole event."""
    event = sse.typed_error_event('broke "off"\n\ud83d', "server_error", "upstream_error", b'{"sequence_number": 7}')
    assert [event] == sse.events(event)
    said = json.loads(sse.payload(event))
    error = said.pop("error")
    assert error == {"message": 'broke "off"\n\ud83d', "type": "server_error", "param": None, "code": "upstream_error"}
    assert said == {"type": "error", "sequence_number": 7} | {key: error[key] for key in ("message", "param", "code")}
    assert event.startswith(b"event: error\n")
    assert event.isascii()


@given(streams())
def test_closed_ends_on_a_boundary(stream: bytes) -> None:
    """A closed rest is one whole event, and an event that follows it stands alone."""
    rest = reference(stream)[1]
    if rest:
        assert [sse.closed(rest), sse.DONE] == reference(sse.closed(rest) + sse.DONE)[0]


def test_end_mark() -> None:
    """Rule S3: the mark Sentinel adds is what both SDKs read as the end."""
    assert sse.payload(sse.DONE) == b"[DONE]"
