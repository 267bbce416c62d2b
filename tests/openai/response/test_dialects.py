"""Streams other than chat: where their usage stands, what ends them, and how a failure in their middle is told."""

import json
from typing import Any

import pytest

from sentinel.openai.response import sse
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Dialect, Usage
from tests.samples.cases import read
from tests.support.metering import run

FIGURES = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
MEGABYTES = 1 << 20


def event(kind: str, **fields: Any) -> bytes:
    """One typed event."""
    return b"event: " + kind.encode() + b"\ndata: " + json.dumps({"type": kind} | fields).encode() + b"\n\n"


def last(kind: str = "completed", usage: Any = FIGURES, **fields: Any) -> bytes:
    """The last event of a response."""
    return event(f"response.{kind}", response={"id": "resp_1", "status": kind, "usage": usage} | fields)


CREATED = event("response.created", sequence_number=0, response={"id": "resp_1", "status": "in_progress", "usage": None})
WORD = event(
    "response.output_text.delta", sequence_number=1, item_id="m", output_index=0, content_index=0, delta="word", obfuscation="x"
)


def test_usual_events_are_not_copied() -> None:
    """Rule S6: a chunk of whole events that neither carry the response nor an error goes down as the very object."""
    meter = StreamMeter(Dialect.RESPONSES, names=True)
    assert meter.feed(CREATED) == CREATED
    for piece in (WORD, WORD * 3, CREATED + WORD, last()):
        assert meter.feed(piece) is piece


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
def test_last_events_end_a_response(kind: str) -> None:
    """Rule P1: usage stands in each of the three last events; after it nothing is unfinished and no [DONE] is owed."""
    meter = StreamMeter(Dialect.RESPONSES)
    seen = run(meter, [CREATED, WORD, last(kind)])
    assert (seen.usage, seen.texts, seen.terminated, seen.finished, seen.unfinished) == (Usage(3, 2), [], True, True, False)
    assert (meter.ending(), meter.failure("late", "server_error", None)) == (b"", b"")


@pytest.mark.parametrize(
    "said",
    [
        event("response.in_progress", response={"id": "resp_1", "status": "in_progress", "usage": FIGURES}),
        event("response.output_text.delta", delta="", usage=FIGURES),
        event("response.output_item.done", item={"type": "message", "response": {"usage": FIGURES}}, response=None),
        event("response.completed", response=[{"usage": FIGURES}]),
        event("response.output_text.delta", delta='"response":{"usage":{"input_tokens":1}},"type":"response.completed"'),
        b"data: [DONE]\n\n",
    ],
)
def test_nothing_else_is_usage_or_the_end(said: bytes) -> None:
    """Rules U9, P1, F2: usage elsewhere, marks inside a text and [DONE] are neither a response's usage nor its end."""
    seen = run(StreamMeter(Dialect.RESPONSES), [CREATED, said])
    assert (seen.usage, seen.terminated, seen.finished, seen.unfinished) == (None, False, False, True)


@pytest.mark.parametrize(
    "said",
    [
        event("response.created", response={"id": "resp_1"}, error="no"),
        event("response.mcp_call.failed", item_id="x", error="tool failed"),
        event("response.mcp_list_tools.failed", item_id="x", error={"message": "tool failed"}),
    ],
)
@pytest.mark.parametrize("first", [b"", CREATED])
def test_the_error_of_a_tool_ends_nothing(said: bytes, first: bytes) -> None:
    """An error that an event of a response carries is not the response's: what follows is read, and its usage is billed."""
    meter = StreamMeter(Dialect.RESPONSES)
    meter.feed(first + said)
    assert (meter.terminated, meter.failed) == (False, False)
    seen = run(meter, [WORD, last()])
    assert (seen.usage, seen.terminated, seen.failed) == (Usage(3, 2), True, False)


@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.EVENTS, Dialect.NONE])
def test_usage_of_a_response_is_no_other_dialects(dialect: Dialect) -> None:
    """Rule U9: a nested `response.usage` counts on /responses alone."""
    assert run(StreamMeter(dialect), [CREATED + WORD + last()]).usage is None


@pytest.mark.parametrize("dialect", [Dialect.RESPONSES, Dialect.EVENTS])
@pytest.mark.parametrize("megabytes", [5, 20])
@pytest.mark.parametrize("chunk_bytes", [65_536, 16 * MEGABYTES])
def test_events_with_images_are_read(dialect: Dialect, megabytes: int, chunk_bytes: int) -> None:
    """Rules S7, P2, P5: an image of any size travels in one event with the usage, which is found."""
    image = "A" * megabytes * MEGABYTES
    final = last(output=[image]) if dialect is Dialect.RESPONSES else event("image_edit.completed", b64=image, usage=FIGURES)
    meter = StreamMeter(dialect)
    seen = run(meter, [WORD, *(final[at : at + chunk_bytes] for at in range(0, len(final), chunk_bytes))])
    assert (WORD + final, Usage(3, 2), True) == (seen.downstream, seen.usage, seen.finished)
    assert meter.overflowed == (megabytes > 16 and chunk_bytes == 65_536)


def test_a_long_end_is_an_end() -> None:
    """Rules S7, F2: a last event too long to be held ends its stream, once it is whole; half of it does not."""
    final = last(output=["A" * 500])
    pieces = [final[at : at + 50] for at in range(0, len(final), 50)]
    meter = StreamMeter(Dialect.RESPONSES, tail_bytes_max=200)
    seen = run(meter, [CREATED, WORD, *pieces])
    assert (seen.downstream, seen.finished, seen.terminated) == (CREATED + WORD + final, True, True)
    meter = StreamMeter(Dialect.RESPONSES, tail_bytes_max=200)
    assert not run(meter, [CREATED, WORD, *pieces[:-2]]).finished
    odd = b"data: " + b"x" * 500 + b"\n\n"
    assert run(StreamMeter(Dialect.RESPONSES, tail_bytes_max=200), [CREATED, odd[:400], odd[400:], WORD]).finished is False


def test_images_are_not_kept_for_their_words() -> None:
    """Rule L4: partial images leave the room for the texts, which stay exact behind them."""
    partial = event("response.image_generation_call.partial_image", partial_image_b64="A" * MEGABYTES)
    meter = StreamMeter(Dialect.RESPONSES, kept_bytes_max=64 << 10)
    seen = run(meter, [CREATED, WORD, *[partial] * 5, WORD])
    assert (seen.texts, seen.uncounted) == (["wordword"], 0)


@pytest.mark.parametrize("dialect", [Dialect.RESPONSES, Dialect.EVENTS, Dialect.NONE])
def test_a_failure_is_told_behind_the_last_number(dialect: Dialect) -> None:
    """Rule F5: the failure carries the number of the last event, so that a client that goes on from it misses none."""
    meter = StreamMeter(dialect)
    texts = event("response.output_text.delta", sequence_number=41, delta='"sequence_number":99')
    downstream = meter.feed(CREATED + WORD + texts) + meter.feed(b"event: half") + meter.finish()
    told = meter.failure("It broke.", "server_error", "upstream_error")
    assert downstream == CREATED + WORD + texts
    assert json.loads(sse.payload(told))["sequence_number"] == 41
    assert b"[DONE]" not in told


def test_a_chat_is_told_its_failure_and_its_end() -> None:
    """Rules F1, F2: a chat gets the plain error event and [DONE]; one that has its [DONE] gets neither."""
    meter = StreamMeter(Dialect.CHAT)
    told = meter.failure("It broke.", "server_error", "upstream_error")
    assert told == sse.error_event("It broke.", "server_error", "upstream_error") + sse.DONE
    assert meter.ending() == sse.DONE
    meter.feed(sse.DONE)
    assert (meter.ending(), meter.failure("late", "server_error", None)) == (b"", b"")


@pytest.mark.parametrize("dialect", [Dialect.EVENTS, Dialect.NONE])
def test_other_streams_end_when_they_end(dialect: Dialect) -> None:
    """Rule P5: no end is missing from a stream that has none, and none is added."""
    meter = StreamMeter(dialect)
    seen = run(meter, [event("speech.audio.delta", audio="AAAA")])
    assert (seen.finished, seen.terminated, meter.ending()) == (True, False, b"")


def test_a_response_streamed_again_has_an_end() -> None:
    """Rules P3, F5: behind the last event of a response that is streamed again no failure is told."""
    meter = StreamMeter(Dialect.NONE)
    seen = run(meter, [CREATED, WORD, last()])
    assert (seen.usage, seen.terminated, meter.failure("late", "server_error", None)) == (None, True, b"")


@pytest.mark.parametrize(
    ("figures", "usage"),
    [
        ({"input_tokens": 3, "output_tokens": 2}, Usage(3, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(3, 2)),
        ({"prompt_tokens": None, "input_tokens": 3, "completion_tokens": None, "output_tokens": 2}, Usage(3, 2)),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0)),
        ({"type": "duration", "seconds": 3}, None),
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, None),
    ],
)
def test_both_names_of_the_figures(figures: dict[str, Any], usage: Usage | None) -> None:
    """Rules P5, U10, U11: figures go by two pairs of names; what is no count of tokens, or all zero, is none."""
    assert run(StreamMeter(Dialect.EVENTS), [event("x.done", usage=figures)]).usage == usage


def test_the_last_usage_wins() -> None:
    """Rule U8: a later usage replaces an earlier one in every dialect, and a step of a run never replaces the run's."""
    run_1 = {"id": "run_1", "object": "thread.run", "status": "completed", "usage": FIGURES}
    step = {
        "id": "step_1",
        "object": "thread.run.step",
        "status": "in_progress",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    seen = run(StreamMeter(Dialect.EVENTS), [b"data: " + json.dumps(said).encode() + b"\n\n" for said in (step, run_1, step)])
    assert (seen.usage, seen.unfinished) == (Usage(3, 2), False)
    more = event("x.done", usage={"input_tokens": 4, "output_tokens": 4})
    assert run(StreamMeter(Dialect.EVENTS), [event("x.done", usage=FIGURES) + more]).usage == Usage(4, 4)


def test_the_name_may_come_late() -> None:
    """Azure's first event has an empty id: the next ones are looked at, but not for ever."""
    nameless = b'data: {"id":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
    named = b'data: {"id":"chatcmpl-1","choices":[]}\n\n'
    for count, name in ((1, "chatcmpl-1"), (15, "chatcmpl-1"), (16, "")):
        seen = run(StreamMeter(Dialect.CHAT, names=True), [b": ping\n\n", *[nameless] * count, named, named])
        assert seen.object_id == name


@pytest.mark.parametrize("name", ["responses/failed_at_once.sse", "responses/error_first.sse"])
def test_a_response_that_failed_in_silence(name: str) -> None:
    """Rule F4: a response that fails before it says a word is an error from its beginning, at any split."""
    stream = read(name)
    for at in range(0, len(stream), 7):
        assert run(StreamMeter(Dialect.RESPONSES), [stream[:at], stream[at:]]).failed
