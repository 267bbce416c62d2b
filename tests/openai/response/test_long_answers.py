"""What is longer than it can be held is read all the same: alike at every split, in little memory, and never as other text."""

import base64
import json
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.openai.response.abridged_json import Abridged, abridged
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.openai.response.usage import decode
from sentinel.ops.records import Dialect, Usage
from tests.samples.cases import STREAMS, dialect, read
from tests.support.metering import cut, run

FIGURES = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
KEPT = {name: case for name, case in STREAMS.items() if name != "chat/truncated_half_event.sse"}
IMAGE = base64.b64encode(random.Random(1).randbytes(1_000_000)).decode()
WORDS = 'And so on, "usage": {"output_tokens": 9}, it went. ' * 30_000


@pytest.mark.parametrize("name", KEPT)
def test_long_events_are_read_like_any_other(name: str) -> None:
    """Of every sample the same is read where each of its events is too long to be held, at any split.

    What goes down is the same too, but for an error that is too long: that one is told in Sentinel's words.
    """
    stream = read(name)
    held = run(StreamMeter(dialect(name), names=True), [stream])
    for size in (7, 64, 333):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        seen = run(StreamMeter(dialect(name), names=True, tail_bytes_max=16), pieces)
        assert seen == held._replace(downstream=seen.downstream)
        if b'"error"' not in stream:
            assert seen.downstream.rstrip() == held.downstream.rstrip()


def event(fields: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def last(kind: str = "response.completed", **response: Any) -> bytes:
    """The last event of a response, whose name comes first."""
    return event({"type": kind, "response": {"id": "resp_1", **response}, "sequence_number": 4})


LONG = [
    ("usage last", last(output=[WORDS], usage=FIGURES)),
    ("usage first", last(usage=FIGURES, output=[WORDS])),
    ("an image", last(output=[IMAGE], usage=FIGURES, metadata={"usage": "9"})),
    (
        "both",
        last(output=[WORDS, IMAGE, WORDS], usage=FIGURES, metadata={"usage": "9", "more": {"usage": {"input_tokens": 1}}}),
    ),
    ("its type last", event({"response": {"id": "resp_1", "output": [WORDS], "usage": FIGURES}, "type": "response.completed"})),
    ("over lines", last(output=[WORDS], usage=FIGURES).replace(b', "usage"', b',\ndata: "usage"')),
]


@pytest.mark.parametrize("where", [name for name, _ in LONG])
@settings(max_examples=4, deadline=None)
@given(places=st.lists(st.integers(0, 5_000_000), max_size=20))
def test_a_last_event_of_any_length(where: str, places: list[int]) -> None:
    """Usage, end and state are read of a last event of megabytes, wherever its usage stands, at any split."""
    stream = dict(LONG)[where]
    meter = StreamMeter(Dialect.RESPONSES, names=True, tail_bytes_max=1 << 20)
    seen = run(meter, cut(stream, [*places, 1_300_000]))
    assert (seen.downstream, seen.usage, seen.object_id) == (stream, Usage(3, 2), "resp_1")
    assert (seen.terminated, seen.finished, seen.unfinished, seen.failed, seen.unread) == (True, True, False, False, 0)
    assert meter.failure("late", "server_error", None) == b""


def test_a_long_failure_is_one() -> None:
    """P1, F4: a response that failed, with a long request repeated in it, has failed."""
    seen = run(StreamMeter(Dialect.RESPONSES), cut(last("response.failed", instructions=WORDS * 12, usage=None), [17 << 20]))
    assert (seen.failed, seen.terminated, seen.usage) == (True, True, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": [{"index": 0, "delta": {"content": WORDS}}], "x": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}},
        {
            "choices": [{"index": 0, "delta": {"content": WORDS}}],
            "x": [{"usage": {"prompt_tokens": 3, "completion_tokens": 2}}],
        },
        {"x": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}, "choices": [{"index": 0, "delta": {"content": WORDS}}]},
    ],
)
def test_only_its_own_usage_is_read_of_a_long_event(fields: dict[str, Any]) -> None:
    """Rule U9: a usage that is nested, or quoted in a text, is not the event's, at either end; what is unread is known."""
    stream = event(fields)
    seen = run(StreamMeter(Dialect.CHAT), cut(stream, [1, 1_500_000]))
    assert (seen.usage, seen.texts, seen.uncounted) == (None, [], 0)
    assert len(WORDS) < seen.unread <= len(stream)
    body = run(BodyMeter(Dialect.CHAT, kept_bytes_max=1 << 20), cut(stream[6:-2], [1, 1_500_000]))
    assert (body.usage, body.texts, body.uncounted, body.unread) == (None, [], 0, len(stream) - 8)


def test_long_events_that_say_nothing() -> None:
    """What follows or precedes megabytes in an event is read, so that a list of tools, a search or an error is no text."""
    found = {"id": "c", "search_results": [WORDS], "choices": [{"index": 0, "delta": {"content": "Look."}}]}
    seen = run(StreamMeter(Dialect.CHAT), cut(event(found), [1_300_000]))
    assert (seen.texts, seen.unread) == (["Look."], 0)
    error = {"error": {"message": WORDS, "code": "insufficient_quota"}}
    seen = run(StreamMeter(Dialect.CHAT), cut(event(error), [1_300_000]))
    assert (seen.failed, seen.texts, seen.unread) == (True, [], 0)
    tools = {"item": {"id": "l", "type": "mcp_list_tools", "tools": [WORDS] * 12}, "type": "response.output_item.done"}
    seen = run(StreamMeter(Dialect.RESPONSES), cut(event(tools), [17 << 20]))
    assert (seen.texts, seen.unread) == ([], 0)


def test_an_id_is_known_before_a_long_event_goes_down() -> None:
    """The name of an object is read of the beginning of its first event, however long that is."""
    first = event({"type": "response.created", "response": {"id": "resp_1", "instructions": WORDS, "usage": None}})
    meter = StreamMeter(Dialect.RESPONSES, names=True, tail_bytes_max=1 << 20)
    assert meter.feed(first[: 1 << 20]) == b""
    assert meter.object_id == ""
    assert meter.feed(first[1 << 20 : -2]) != b""
    assert meter.object_id == "resp_1"


# Long texts by their recipe: what is to be repeated, and how often; b"" stands for base64.
values = st.recursive(
    st.one_of(
        st.text(max_size=20),
        st.integers(-9, 9),
        st.tuples(st.just(b""), st.integers(0, 200_000)),
        st.tuples(st.text(max_size=4), st.integers(0, 30_000)),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def made(recipe: Any) -> Any:
    """What a recipe stands for."""
    if isinstance(recipe, dict):
        return {name: made(value) for name, value in recipe.items()}
    if isinstance(recipe, list):
        return [made(value) for value in recipe]
    if isinstance(recipe, tuple):
        what, times = recipe
        return what * times if what else base64.b64encode(random.Random(times).randbytes(times)).decode()
    return recipe


def is_abridged(short: Any, whole: Any) -> bool:
    """Whether `short` is `whole` but for base64 that lost its middle."""
    if isinstance(whole, dict):
        return list(short) == list(whole) and all(is_abridged(short[name], value) for name, value in whole.items())
    if isinstance(whole, list):
        return len(short) == len(whole) and all(map(is_abridged, short, whole))
    if isinstance(whole, str) and len(whole) > 65_536:
        return short == whole or (whole.startswith(short[:50_000]) and whole.endswith(short[-100:]) and len(short) >= 50_000)
    return bool(short == whole)


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text(max_size=8), values, max_size=4), st.lists(st.integers(0, 600_000), max_size=10), st.booleans())
def test_abridged_json_is_the_same_json(recipe: dict[str, Any], places: list[int], escaped: bool) -> None:
    """Abridging leaves JSON whole and its words as they were, at every split the same, however it is escaped."""
    text = json.dumps(made(recipe), ensure_ascii=escaped)
    raw = (
        text.replace("/", "\\/").replace("+", "\\u002B").encode("utf-8", "replace")
        if escaped
        else text.encode("utf-8", "replace")
    )
    short = abridged(raw)
    assert is_abridged(json.loads(short), json.loads(raw))
    in_pieces = Abridged(len(raw))
    for piece in cut(raw, places):
        in_pieces.add(piece)
    assert (in_pieces.whole, len(short)) == (short, in_pieces.words_bytes)


@pytest.mark.parametrize("meter", [StreamMeter(Dialect.CHAT), BodyMeter(Dialect.CHAT)], ids=["event", "body"])
def test_memory_is_bounded(meter: StreamMeter | BodyMeter) -> None:
    """Rules S7, L4: an answer of 64 MB, of base64 and then of words, is read within a few bounds of what is held."""
    meter.feed(b'data: {"x":"' if isinstance(meter, StreamMeter) else b'{"x":"')
    base64_chunk, words_chunk = IMAGE[:65_536].encode(), WORDS[:65_520].encode()
    tracemalloc.start()
    for chunk in (base64_chunk, words_chunk):
        for _ in range(500):
            meter.feed(chunk)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    meter.produced()
    assert peak_bytes < 24 << 20


def test_what_was_abridged_is_still_known_for_what_it_is() -> None:
    """An image that was cut short is an image: in the event, and in what is kept of it."""
    fields = {"choices": [{"index": 0, "delta": {"content": "Look.", "x_blob": IMAGE}}]}
    for bound in (1 << 10, 1 << 20, 16 << 20):
        seen = run(StreamMeter(Dialect.CHAT, tail_bytes_max=bound), cut(event(fields), [1_000_000]))
        assert (seen.texts, seen.media_tokens, seen.uncounted, seen.unread) == (["Look."], 765, 0, 0)
    assert decode(abridged(json.dumps(fields).encode())) is not None
