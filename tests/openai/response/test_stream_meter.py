"""The meter of a stream meets every known deviation, and changes nothing but what it must hide."""

import json
from typing import Any

import pytest

from sentinel.openai.response import sse
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Dialect, Produced, Usage
from tests.support.metering import run


def chunk(delta: dict[str, Any] | None = None, *, usage: Any = None, **more: Any) -> bytes:
    """One event of a chat stream; without a delta one with no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    fields = {"id": "c1", "object": "chat.completion.chunk", "choices": choices, "usage": usage, **more}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


FIGURES = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
WORD = chunk({"content": "word"})
USAGE = chunk(usage=FIGURES)


def test_usual_chunk_is_not_copied() -> None:
    """Rules S6, U5: chunks without a usage object go down as the very object that came in, null usage included."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True)
    for piece in (WORD, WORD * 3, b": ping\n\n", sse.DONE):
        assert meter.feed(piece) is piece


def test_neighbours_of_the_usage_event_survive() -> None:
    """Rule U12: events in the same chunk as the hidden one survive byte for byte."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True)
    assert meter.feed(WORD + b": note\n\n" + USAGE + b"data:  {odd json\n\n" + sse.DONE) == (
        WORD + b": note\n\n" + b"data:  {odd json\n\n" + sse.DONE
    )
    assert meter.usage == Usage(3, 2)


def choice(**fields: Any) -> dict[str, Any]:
    """A choice of a usage event."""
    return {"index": 0} | fields


def usage_event(**fields: Any) -> bytes:
    """An event with usage and nothing but what is given."""
    return b"data: " + json.dumps({"id": "c1", "usage": FIGURES} | fields).encode() + b"\n\n"


SAYS_NOTHING: list[Any] = [
    [],
    None,
    [choice()],
    [choice(delta={}, finish_reason=None)],
    [choice(delta={"content": ""}, finish_reason=None, logprobs=None)],
    [choice(delta={"content": None, "tool_calls": []}, finish_reason="", logprobs={"content": []})],
    [choice(delta={"role": "assistant", "content": ""}, finish_reason=None, native_finish_reason=None)],
    [choice(delta=None, message=None, finish_reason=None)],
    [choice(text="", logprobs=None, finish_reason=None)],
    [choice(delta={}), {"index": 1, "delta": {"content": ""}}],
]
SAYS_SOMETHING: list[Any] = [
    [choice(delta={"content": "end"}, finish_reason=None)],
    [choice(delta={}, finish_reason="stop")],
    [choice(delta={"reasoning": "hm"})],
    [choice(delta={"tool_calls": [{"index": 0}]})],
    [choice(delta={"images": [{"image_url": {"url": "data:"}}]})],
    [choice(delta={}, logprobs={"content": [{"token": "a"}]})],
    [choice(delta={}, content_filter_results={"hate": {"filtered": False}})],
    [choice(text="end", finish_reason=None)],
    [choice(delta={}), {"index": 1, "delta": {}, "finish_reason": "stop"}],
    [choice(delta={}), {"index": 1, "delta": {"role": "assistant"}}],
    ["odd"],
    "odd",
]
# What vendors put beside it.
BESIDE: list[dict[str, Any]] = [
    {},
    {"obfuscation": "x", "system_fingerprint": None, "service_tier": "default", "provider": "a"},
    {"error": None, "prompt_filter_results": []},
    {"prompt_filter_results": [{"prompt_index": 0}]},
    {"provider_metadata": {"gateway": {"cost": "0.00002"}}, "cost": 2e-05},
    {"x_groq": {"id": "r", "usage": FIGURES}},
    {"citations": ["https://example.org"]},
    {"object": "chat.completion.chunk", "created": 1, "model": "m", "latency_ms": 7, "x": {"choices": [1]}},
]


@pytest.mark.parametrize("beside", BESIDE, ids=range(len(BESIDE)))
@pytest.mark.parametrize("choices", SAYS_NOTHING, ids=range(len(SAYS_NOTHING)))
def test_the_usage_event_is_hidden_in_every_shape(choices: Any, beside: dict[str, Any]) -> None:
    """Rule U5: usage and no choice with content is the event Sentinel asked for, whatever else it carries."""
    event = usage_event(choices=choices, **beside)
    assert StreamMeter(Dialect.CHAT, usage_hidden=True).feed(WORD + event + WORD) == WORD + WORD
    assert StreamMeter(Dialect.CHAT, usage_hidden=False).feed(WORD + event) == WORD + event


@pytest.mark.parametrize("beside", BESIDE, ids=range(len(BESIDE)))
@pytest.mark.parametrize("choices", SAYS_SOMETHING, ids=range(len(SAYS_SOMETHING)))
def test_usage_with_content_goes_down(choices: Any, beside: dict[str, Any]) -> None:
    """Rule U7: what a client needs goes down unchanged, and its usage is read nevertheless."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True)
    event = usage_event(choices=choices, **beside)
    assert meter.feed(WORD + event) == WORD + event
    assert meter.usage == Usage(3, 2)


@pytest.mark.parametrize(
    ("event", "hidden"),
    [
        (b'data: {"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n', True),
        (chunk(usage={}), True),
        (chunk(usage=FIGURES | {"cost": 2e-05, "market_cost": 2e-05, "gateway_cost": 0, "video_tokens": 0}), True),
        (chunk(usage=FIGURES | {"provider_metadata": {"gateway": {"cost": "0.00002"}}}), True),
        (chunk(usage=FIGURES, error={"message": "late"}), False),
        (chunk(usage=None), False),
        (chunk(usage=[1]), False),
        (chunk(x_groq={"usage": FIGURES}), False),
    ],
)
def test_hidden_only_where_usage_stands(event: bytes, hidden: bool) -> None:
    """Rules U5, U9: an event without usage at its top level is not the injected one, nor is an error."""
    assert StreamMeter(Dialect.CHAT, usage_hidden=True).feed(WORD + event) == WORD + (b"" if hidden else event)
    assert StreamMeter(Dialect.CHAT, usage_hidden=False).feed(WORD + event) == WORD + event


def test_the_first_role_is_not_hidden() -> None:
    """Rule U8: where every chunk has usage, the first one tells the role, which SDKs miss; a later one is the extra one."""
    first = usage_event(choices=[choice(delta={"role": "assistant", "content": ""}, finish_reason=None)])
    assert StreamMeter(Dialect.CHAT, usage_hidden=True).feed(first + WORD + first) == first + WORD


@pytest.mark.parametrize(
    ("figures", "usage"),
    [
        (FIGURES, Usage(3, 2)),
        ({"prompt_tokens": 3.0, "completion_tokens": "2", "cost": 0.1, "video_tokens": None}, Usage(3, 2)),
        (
            {"prompt_tokens": 3, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 9}},
            Usage(3, 9, reasoning_tokens=9),
        ),
        (
            {"input_tokens": 3, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}},
            Usage(3, 9, reasoning_tokens=4),
        ),
        ({"input_tokens": 3, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": -4}}, Usage(3, 9)),
        ({"input_tokens": 3, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": "4"}}, Usage(3, 9)),
        ({"input_tokens": 3, "output_tokens": 9, "output_tokens_details": [4]}, Usage(3, 9)),
        ({"input_tokens": 3, "output_tokens": 9, "output_tokens_details": None}, Usage(3, 9)),
        ({"input_tokens": 3, "output_tokens": 2}, Usage(3, 2)),
        ({"prompt_tokens": 3, "total_tokens": 5}, Usage(3, 2, derived=True)),
        ({"completion_tokens": 2, "total_tokens": 5}, Usage(3, 2, derived=True)),
        ({"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 5}, Usage(3, 2, derived=True)),
        ({"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 5.0}, Usage(3, 2, derived=True)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 99}, Usage(3, 2)),
        ({"prompt_tokens": 3, "total_tokens": 3}, Usage(3, 0)),
        ({"prompt_tokens": 3, "total_tokens": 2}, Usage(3, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 0}, Usage(3, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 2}, Usage(0, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 5}, Usage(0, 0, derived=True, total_tokens=5)),
        ({"total_tokens": 5}, Usage(0, 0, derived=True, total_tokens=5)),
        ({"prompt_tokens": -1, "completion_tokens": 2}, Usage(0, 2)),
        ({"prompt_tokens": 3, "completion_tokens": -2, "total_tokens": 5}, Usage(3, 2, derived=True)),
        ({"prompt_tokens": 3, "completion_tokens": float("nan")}, Usage(3, 0)),
        ({"prompt_tokens": 3, "completion_tokens": float("inf")}, Usage(3, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 10**30}, Usage(3, 0)),
        ({"prompt_tokens": True, "completion_tokens": 2}, Usage(0, 2)),
        ({"prompt_tokens": "many", "completion_tokens": 2}, Usage(0, 2)),
        ({"completion_tokens": 2}, Usage(0, 2)),
        ({"prompt_tokens": -1}, None),
        ({}, None),
        ([1], None),
        ("none", None),
    ],
)
def test_figures_are_read_with_tolerance(figures: Any, usage: Usage | None) -> None:
    """Rules U10, U11: odd types are read, absurd figures and zero place-holders count as absent, details are not added."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=False)
    meter.feed(WORD + chunk(usage=figures))
    assert usage == meter.usage
    body = BodyMeter(Dialect.CHAT)
    assert usage == run(body, [json.dumps({"choices": [], "usage": figures}).encode()]).usage


def test_bad_usage_does_not_replace_good() -> None:
    """Rules U8, U11: the last usable figure of each side wins."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=False)
    meter.feed(USAGE + chunk(usage={"prompt_tokens": 3, "completion_tokens": 4}) + chunk(usage={"prompt_tokens": -1}))
    assert meter.usage == Usage(3, 4)
    meter.feed(chunk(usage={"prompt_tokens": 0, "completion_tokens": 5}) + chunk(usage={"prompt_tokens": 9}))
    assert meter.usage == Usage(9, 5)


def test_each_side_in_an_event_of_its_own() -> None:
    """A provider may tell the input in its first event and the output in its last; together they are whole."""
    early, late = chunk({"content": ""}, usage={"prompt_tokens": 3}), chunk(usage={"completion_tokens": 2})
    seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True), [early, WORD, late])
    assert (seen.usage, seen.texts) == (Usage(3, 2), [])


@pytest.mark.parametrize("figures", [{"prompt_tokens": 3, "completion_tokens": 0}, {"prompt_tokens": 3}])
def test_usage_without_output_covers_no_text(figures: Any) -> None:
    """Where the output is 0 or missing what was said is still known, however the usage came; else nothing was."""
    for chunks in ([WORD, chunk(usage=figures)], [WORD + chunk({"content": ""}, usage=figures)]):
        assert run(StreamMeter(Dialect.CHAT, usage_hidden=True), chunks)[1:3] == (Usage(3, 0), ["word"])
    assert run(StreamMeter(Dialect.CHAT, usage_hidden=True), [chunk({"content": ""}), chunk(usage=figures)]).texts == []
    body = {"choices": [{"message": {"content": "word"}}], "usage": figures}
    assert run(BodyMeter(Dialect.CHAT), [json.dumps(body).encode()])[1:3] == (Usage(3, 0), ["word"])
    embeddings = {"data": [{"embedding": [0.5]}], "usage": figures}
    assert run(BodyMeter(Dialect.EVENTS), [json.dumps(embeddings).encode()])[1:3] == (Usage(3, 0), [])


def test_spaces_around_the_colon() -> None:
    """Rule U9: usage is found with spaces around its colon, at the top level only."""
    spaced = b'data: {"choices" : [ ], "usage" : {"prompt_tokens" : 3, "completion_tokens" : 2}}\n\n'
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True)
    assert meter.feed(WORD + spaced) == WORD
    assert meter.usage == Usage(3, 2)


def test_texts_after_the_last_usage() -> None:
    """Rules D4, L1: a stream that breaks off after an early usage still tells what came since."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=False)
    seen = run(meter, [WORD, chunk({"content": "paid"}, usage=FIGURES) + WORD, WORD])
    assert (seen.usage, seen.texts) == (Usage(3, 2), ["wordword"])


def test_finish_reason_is_remembered_past_usage() -> None:
    """Rule F2: a finish reason seen before the usage event, or with it, still counts when the texts are dropped."""
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    with_usage = last.replace(b"}]}", b'}],"usage":' + json.dumps(FIGURES).encode() + b"}")
    for chunks in ([WORD, last, USAGE], [WORD, last + USAGE], [WORD + with_usage]):
        seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True), chunks)
        assert (seen.finished, seen.usage, seen.texts) == (True, Usage(3, 2), [])


@pytest.mark.parametrize("said", ['"finish_reason":"stop"', "finish_reason", "[DONE]", 'data: [DONE]\n\n"usage":{}'])
def test_content_cannot_pretend(said: str) -> None:
    """Rules U9, F2: marks inside the text of the answer are text."""
    seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True), [WORD, chunk({"content": said})])
    assert (seen.finished, seen.terminated, seen.usage, seen.texts) == (False, False, None, ["word" + said])


@pytest.mark.parametrize("reason", [None, ""])
def test_empty_finish_reason_is_none(reason: str | None) -> None:
    """Rule F2: some engines send an empty finish reason in every chunk; it ends nothing."""
    stream = b"data: " + json.dumps({"choices": [{"delta": {"content": "x"}, "finish_reason": reason}]}).encode() + b"\n\n"
    assert not run(StreamMeter(Dialect.CHAT, usage_hidden=True), [stream]).finished


@pytest.mark.parametrize(
    ("rest", "downstream"),
    [
        (b"data: [DONE]", b"data: [DONE]\n\n"),
        (b"data: [DONE]\n", b"data: [DONE]\n\n"),
        (b"data: [DONE]\r\n", b"data: [DONE]\r\n\n"),
        (b"data: [DONE]\r", b"data: [DONE]\r\r"),
        (b"data: [DONE]\r\r", b"data: [DONE]\r\r"),
        (b'data: {"a":1}\n', b'data: {"a":1}\n\n'),
        (b'data: {"a":', b""),
        (b"data: [DO", b""),
        (b"event: error\n", b""),
        (b": bye\n", b": bye\n"),
        (b": by", b""),
        (USAGE[:-2], b""),
    ],
)
def test_after_finish_an_event_can_follow(rest: bytes, downstream: bytes) -> None:
    """Rules F1, F2, S7: the rest goes down as a whole event or not at all, so an error event stands alone behind it."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True)
    assert meter.feed(WORD + rest) == WORD
    assert meter.finish() == downstream
    assert meter.finish() == b""
    assert meter.terminated == (b"[DONE]" in rest)


@pytest.mark.parametrize("rest", [b"", b"\n", b"\r", b"\r\n"])
def test_overflowed_event_is_closed(rest: bytes) -> None:
    """Rules S7, F1: an event that went out raw and broke off is ended, so that the error event behind it is read."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True, tail_bytes_max=20)
    downstream = b"".join([meter.feed(WORD), meter.feed(b"data: " + b"x" * 30 + rest), meter.finish(), sse.DONE])
    assert sse.payload(sse.events(downstream)[-1]) == b"[DONE]"
    assert downstream.startswith(WORD + b"data: " + b"x" * 30)


def test_overflow_is_counted_and_harmless() -> None:
    """Rule S7: an oversized event passes before it is whole, is read, and usage behind it is still found and hidden."""
    huge = chunk({"content": "x " * 250})
    pieces = [huge[at : at + 64] for at in range(0, len(huge), 64)]
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True, tail_bytes_max=256)
    seen = run(meter, [WORD, *pieces])
    assert (WORD + huge, ["word" + "x " * 250], 0) == (seen.downstream, seen.texts, seen.uncounted)
    assert meter.overflowed == 1
    assert meter.feed(WORD) == WORD
    seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True, tail_bytes_max=256), [WORD, *pieces, USAGE, sse.DONE])
    assert (WORD + huge + sse.DONE, Usage(3, 2), 0) == (seen.downstream, seen.usage, seen.uncounted)


@pytest.mark.parametrize(
    ("event", "failed"),
    [
        (b'data: {"error":{"message":"no","type":"server_error"}}\n\n', True),
        (b'event: error\ndata: {"error":"no"}\n\n', True),
        (b'data: {"type":"error","code":"server_error"}\n\n', True),
        (chunk({"content": "fine"}, error=None), False),
        (chunk({"content": '"error"'}), False),
        (sse.DONE, False),
    ],
)
def test_first_event_tells_failure(event: bytes, failed: bool) -> None:
    """Rule F4: an answer whose first event is an error object failed, and passes unchanged; comments do not count."""
    seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True), [b": ping\n\n", event, WORD])
    assert (failed, b": ping\n\n" + event + WORD) == (seen.failed, seen.downstream)


def test_texts_of_every_field() -> None:
    """Rules L1, L2: texts are concatenated per choice and field; padding, log probabilities and audio bytes are not text."""
    deltas = [
        {"role": "assistant", "content": "con", "reasoning": "rea", "reasoning_content": "rea"},
        {"content": [{"type": "text", "text": "tent"}], "reasoning_content": "son"},
        {"audio": {"transcript": "spo", "data": "AAAA"}},
        {"refusal": "no", "audio": {"transcript": "ken"}, "function_call": {"name": "f", "arguments": "("}},
        {"function_call": {"arguments": ")"}, "tool_calls": [{"index": 0, "function": {"name": "a", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "custom": {"name": "b", "input": "2"}}, {"index": 0, "function": {"arguments": "{}"}}]},
        {"tool_calls": "odd", "audio": "odd", "content": 7, "function_call": ["odd"]},
    ]
    seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True), [chunk(delta, obfuscation="padding") for delta in deltas])
    assert sorted(seen.texts) == sorted(["content", "reason", "spoken", "no", "f()", "a{}", "b2"])


def test_odd_bytes_are_text_too() -> None:
    """Rules S2, K4: lone surrogates, bad UTF-8 and JSON that is none pass unchanged and do not disturb the rest."""
    odd = [
        b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xc3"}}]}\n\n',
        b"data: [1,2]\n\ndata: {\n\ndata: " + b"[" * 5000 + b"\n\n",
        b'data: {"choices":[7,{"index":[],"delta":[]},{"delta":null}]}\n\n',
    ]
    seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True), odd)
    assert (b"".join(odd), ["\ud83d\ufffd"]) == (seen.downstream, seen.texts)


def test_long_streams_are_kept_small_and_exact() -> None:
    """Rule L4: a long stream without usage is exact while what is kept, deflated, stays under the cap."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True, kept_bytes_max=1 << 20)
    finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    seen = run(meter, [finish, *[chunk({"content": f"{number} "}) for number in range(20_000)]])
    assert ["".join(f"{number} " for number in range(20_000))] == seen.texts
    assert (seen.uncounted, seen.finished) == (0, True)


def test_past_the_cap_texts_are_only_measured() -> None:
    """Rule L4: past the cap the bytes of the texts are counted, not kept, and the end is still seen."""
    meter = StreamMeter(Dialect.CHAT, usage_hidden=True, kept_bytes_max=len(WORD) * 3)
    finish = b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9"},"finish_reason":"stop"}]}\n\n'
    seen = run(meter, [WORD] * 5 + [finish])
    assert (seen.texts, seen.uncounted, seen.finished) == (["word" * 3], 4 * 2 + 2, True)
    meter.feed(USAGE)
    assert meter.produced() == Produced(texts=[])
