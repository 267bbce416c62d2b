"""Plain answers pass unchanged and at once; what they cost is read when they are whole, or at their two ends."""

import json
import tracemalloc

import pytest

from sentinel.openai.response.body_meter import BodyMeter, PassMeter
from sentinel.ops.records import Dialect, Usage
from tests.support.metering import Seen, run

FIGURES = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
LONG = "x " * 50_000


def over(body: bytes, chunk_bytes: int = 1000, dialect: Dialect = Dialect.CHAT) -> Seen:
    """What is seen of a body that is too large to keep."""
    meter = BodyMeter(dialect, names=True, kept_bytes_max=1000)
    return run(meter, [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)])


@pytest.mark.parametrize(
    ("body", "unread", "failed"),
    [
        (b"", 0, False),
        (b"<html>bad gateway</html>", 24, True),
        (b" \n \n<html>bad gateway</html>", 24, True),
        (b"[]", 0, False),
        (b"[oops", 4, False),
        (b"\xff", 3, True),
        (b"7", 0, True),
        (b"null", 0, True),
    ],
)
def test_body_that_is_no_json(body: bytes, unread: int, failed: bool) -> None:
    """A body that is no JSON passes unchanged, and is known to be unread (rules E5, L4); no model said a page."""
    seen = run(BodyMeter(Dialect.CHAT, names=True), [body])
    assert (seen.downstream, seen.usage, seen.texts, seen.unread, seen.failed) == (body, None, [], unread, failed)


EVENT = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
END = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
OVER = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize(
    ("events", "usage", "texts"),
    [
        ([EVENT % b"Hel", EVENT % b"lo", OVER, END, b"data: [DONE]\n\n"], Usage(3, 2), []),
        ([EVENT % b"Hel", EVENT % b"lo"], None, ["Hello"]),
    ],
)
@pytest.mark.parametrize("blank", [b"", b"\n", b" \n\t\r\n"])
def test_events_in_a_plain_body(events: list[bytes], usage: Usage | None, texts: list[str], blank: bytes) -> None:
    """A stream that was taken for JSON passes unchanged, and costs what it costs as a stream."""
    body = blank + b"".join(events)
    seen = run(BodyMeter(Dialect.CHAT), [body[:7], body[7:]])
    assert (seen.downstream, seen.usage, seen.texts, seen.unread, seen.failed) == (body, usage, texts, 0, False)


SAID = json.dumps({"id": "c1", "choices": [{"index": 0, "message": {"content": "Hello"}}]}).encode()
PAID = json.dumps({"id": "c1", "choices": [{"index": 0, "message": {"content": "Hello"}}], "usage": FIGURES}).encode()
LINES = [b'{"choices":[{"index":0,"delta":{"content":"%s"}}]}' % word for word in (b"Hel", b"lo")]
DEEP = b'{"a":' * 2000 + b"1" + b"}" * 2000


@pytest.mark.parametrize(
    ("body", "usage", "said", "unread"),
    [
        (PAID + b"\n\0", Usage(3, 2), [], 0),
        (PAID * 2, Usage(3, 2), [], 0),
        (b"[" + PAID + b"]", Usage(3, 2), [], 0),
        (b"[" + PAID, Usage(3, 2), [], 0),
        (PAID[:-1], Usage(3, 2), [], 0),
        (PAID + b"oops", Usage(3, 2), [], 0),
        (b"\n".join([*LINES, b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}']), Usage(3, 2), [], 0),
        (b"\x1e".join([b"", *LINES]), None, ["Hello"], 0),
        (b"[" + b",".join(LINES) + b"]", None, ["Hello"], 0),
        (SAID + b"\r\n\0\0", None, ["Hello"], 0),
        (SAID * 2, None, ["Hello"], 0),
        (b"[" + SAID + b"]", None, ["Hello"], 0),
        (SAID + b"oops", None, ["Hello"], 4),
        (SAID[:-1] + b", oops}", None, ["Hello"], 5),
        (b"[]", None, [], 0),
        (DEEP, None, [], len(DEEP)),
        (b'{"x":' + b"9" * 5000 + b"}", None, [], 5006),
    ],
)
def test_body_that_is_no_single_object(body: bytes, usage: Usage | None, said: list[str], unread: int) -> None:
    """A body is read as far as it can be, and no byte of it that is no text is taken for one."""
    seen = run(BodyMeter(Dialect.CHAT), [body])
    assert (seen.downstream, seen.usage, seen.texts, seen.unread, seen.failed) == (body, usage, said, unread, False)


@pytest.mark.parametrize(
    "body",
    [
        b'[{"error":{"message":"x","code":429}}]',
        b'{"error":{"message":"x"}}\n\0',
        b'{"error":{"message":"x',
    ],
)
def test_an_error_in_another_shape(body: bytes) -> None:
    """An error in a list, or with bytes behind it, is one."""
    assert run(BodyMeter(Dialect.CHAT), [body]).failed


@pytest.mark.parametrize("chunk_bytes", [61, 5000, 200_000])
def test_body_over_the_cap(chunk_bytes: int) -> None:
    """Rules L4, U9: a body too large to keep still gives the usage at its end, and never a nested one."""
    whole = {"choices": [{"text": LONG}], "usage": FIGURES, "service_tier": "default"}
    body = json.dumps(whole).encode()
    assert over(body, chunk_bytes) == Seen(body, Usage(3, 2), [], 0, "", False, True, False, False)
    nested = json.dumps({"choices": [{"text": LONG}], "x": {"usage": FIGURES}}).encode()
    assert over(nested, chunk_bytes) == Seen(nested, None, [], 0, "", False, False, False, False, unread=len(nested))


def test_usage_before_metadata_that_names_usage() -> None:
    """Rules U9, P2: behind the usage of a long response may stand metadata with the same word; it is not the usage."""
    whole = {"id": "resp_1", "output": [LONG], "usage": FIGURES, "metadata": {"usage": "much", "a": '"usage"'}}
    assert over(json.dumps(whole).encode(), dialect=Dialect.RESPONSES).usage == Usage(3, 2)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        ({"id": "resp_1", "object": "response"}, "resp_1"),
        ({"object": "response", "id": "resp_1"}, "resp_1"),
        ({"choices": [{"id": "inner"}]}, ""),
        ({"id": {"id": "inner"}}, ""),
        ({"id": 7}, ""),
    ],
)
@pytest.mark.parametrize("usage", [FIGURES, None])
def test_name_of_a_body_over_the_cap(start: dict[str, object], name: str, usage: object) -> None:
    """A body too large to keep is still known by the id it begins with, and by no other id that stands in it."""
    body = json.dumps(start | {"output": [LONG], "usage": usage}, indent=1).encode()
    assert over(body, dialect=Dialect.RESPONSES).object_id == name


MODELS = [{"model_name": name, "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5} for name in ("a", "b")]


@pytest.mark.parametrize(
    ("usages", "usage"), [(MODELS, Usage(6, 4)), ([], None), ([None, 7, {}], None), ({}, None), ([*MODELS, "x"], Usage(6, 4))]
)
@pytest.mark.parametrize("items", [[], [LONG]], ids=["kept", "over the cap"])
def test_what_several_models_used(usages: object, usage: Usage | None, items: list[str]) -> None:
    """P3: a run of an eval tells what each of its models used; the sum is its own, also where the body is too large to keep."""
    shown = {"id": "evalrun_1", "items": items, "object": "eval.run", "per_model_usage": usages, "status": "completed"}
    meter = over(json.dumps(shown).encode(), dialect=Dialect.EVENTS)
    assert (meter.usage, meter.unfinished, meter.finished) == (usage, False, True)


@pytest.mark.parametrize(
    ("usages", "usage"),
    [
        (dict(zip("ab", MODELS, strict=True)), Usage(6, 4)),
        ({}, None),
        ({"a": {}}, None),
        ({"a": MODELS[0], "b": 7}, Usage(3, 2)),
        (7, None),
    ],
)
def test_what_the_models_of_a_grader_used(usages: object, usage: Usage | None) -> None:
    """A grader that asks models tells what each of them used by its name, and has no usage else."""
    metadata = {"type": "score_model", "token_usage": 10, "sampled_model_name": "a"}
    shown = {"reward": 1.0, "metadata": metadata, "sub_rewards": {}, "model_grader_token_usage_per_model": usages}
    assert run(BodyMeter(Dialect.EVENTS), [json.dumps(shown).encode()]).usage == usage


@pytest.mark.parametrize("name", ["x" * 257, 7, None, ["resp_1"]])
def test_odd_names_are_none(name: object) -> None:
    """An id of another type or beyond 256 characters is no id."""
    assert run(BodyMeter(Dialect.CHAT, names=True), [json.dumps({"id": name}).encode()]).object_id == ""


@pytest.mark.parametrize(
    ("status", "unfinished"),
    [
        *((status, True) for status in ("queued", "in_progress", "validating", "finalizing", "cancelling", "requires_action")),
        ("pending", True),
        ("completed", False),
        ("failed", False),
        (None, False),
        (["queued"], False),
    ],
)
@pytest.mark.parametrize("dialect", [Dialect.RESPONSES, Dialect.EVENTS])
def test_the_state_of_an_object(status: object, unfinished: bool, dialect: Dialect) -> None:
    """Rule P3: an object whose work goes on says so at its top level, and only there."""
    body = json.dumps({"id": "a1", "status": status, "output": [{"status": "in_progress"}], "usage": None}).encode()
    assert run(BodyMeter(dialect), [body]).unfinished is unfinished


@pytest.mark.parametrize(("dialect", "failed"), [(Dialect.RESPONSES, True), (Dialect.EVENTS, False)])
def test_a_failed_object(dialect: Dialect, failed: bool) -> None:
    """Rule F4: a response that failed is a failed answer; a job that failed is an answer like any other."""
    body = b'{"id":"a1","object":"x","status":"failed","error":{"code":"server_error","message":"no"}}'
    assert run(BodyMeter(dialect), [body]).failed is failed


def test_what_is_no_json_for_one_decoder_is_for_another() -> None:
    """Rules U10, K4: NaN, lone surrogates and bad UTF-8 elsewhere in the body do not hide its usage."""
    for odd in (b"NaN", b'"\\ud83d"', b'"\xc3"'):
        body = b'{"id":"c1","response":"text","x":' + odd + b',"usage":{"prompt_tokens":3,"completion_tokens":2}}'
        assert run(BodyMeter(Dialect.CHAT, names=True), [body])[1:5] == (Usage(3, 2), [], 0, "c1")


@pytest.mark.parametrize(
    ("dialect", "unread"), [(Dialect.CHAT, 300), (Dialect.RESPONSES, 300), (Dialect.EVENTS, 0), (Dialect.NONE, 0)]
)
def test_other_content_is_unread_where_text_was_asked_for(dialect: Dialect, unread: int) -> None:
    """Rule U11: an answer to a chat that nobody can read is known to be unread, and no text; audio and files are neither."""
    seen = run(PassMeter(dialect), [b"\x00\xff" * 150])
    assert (seen.texts, seen.uncounted, seen.unread) == ([], 0, unread)


@pytest.mark.parametrize("meter", [PassMeter(), BodyMeter(Dialect.EVENTS, kept_bytes_max=1 << 16)], ids=["other", "json"])
def test_memory_is_flat(meter: PassMeter | BodyMeter) -> None:
    """Rules H19, L4: 64 MB go through within half a megabyte."""
    chunk = bytes(64 << 10)
    tracemalloc.start()
    for _ in range(1000):
        assert meter.feed(chunk) is chunk
    meter.finish()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 512 << 10
