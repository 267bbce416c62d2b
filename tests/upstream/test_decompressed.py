"""relay: a chat that came whole goes down the usual way, which says and bills the same as the general one."""

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from sentinel.downstream.exchange import Exchange
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.response.usage import usage_of
from sentinel.ops.errors import ClientGoneError, DrainingError
from sentinel.ops.records import Dialect, Ending, Origin
from sentinel.stages.relay import BackgroundDrain
from sentinel.upstream.http1 import whole_answer
from sentinel.upstream.provider import Plain, Whole
from tests.stages.test_relay import NONE, Down, call, copy

CHAT: Final = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi. \u00e9"}, "finish_reason": "stop"}],
}
USAGES: Final[tuple[Any, ...]] = (
    {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}},
    {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": None},
    {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": None}},
    {"prompt_tokens": 9, "completion_tokens": 3, "input_tokens": 7, "output_tokens": "7"},
    {"input_tokens": 9, "output_tokens": 3},
    {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": "2"}},
    {"prompt_tokens": 9, "completion_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}},
    {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2**40}},
    {"prompt_tokens": 9, "completion_tokens": 0},
    {"prompt_tokens": 0, "completion_tokens": 3, "total_tokens": 12},
    {"prompt_tokens": "9", "completion_tokens": 3.0},
    {"prompt_tokens": True, "completion_tokens": True},
    {"prompt_tokens": 2**40, "completion_tokens": -1},
    {"total_tokens": 12},
    {},
    [],
    "9",
    None,
)
BODIES: Final = (
    *(json.dumps({**CHAT, "usage": usage}).encode() for usage in USAGES),
    json.dumps(CHAT).encode(),
    *(json.dumps({**CHAT, "usage": USAGES[0], "error": error}).encode() for error in ("", {}, "no", {"message": "no"}, [1])),
    *(json.dumps({**CHAT, "usage": USAGES[0], "type": kind}).encode() for kind in ("error", "message", "response.x", 1, None)),
    *(json.dumps({**CHAT, "usage": USAGES[0], "status": status}).encode() for status in ("queued", "completed", 1, None)),
    json.dumps({**CHAT, "usage": USAGES[0], "id": 7}).encode(),
    json.dumps({"usage": USAGES[0], "choices": []}).encode(),
    b'{"error":{"message":"no"}}',
    b'[{"usage":{"prompt_tokens":9,"completion_tokens":3}}]',
    b'{"usage":{"prompt_tokens":9,"completion_tokens":3}}\n{"usage":{"prompt_tokens":1,"completion_tokens":1}}',
    b'{"choices":[{"message":{"content":"\\ud800"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}',
    b'{"choices":[{"message":{"content":"\xff"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}',
    b'{"choices":[{"message":{"content":"half',
    b"[" * 5000,
    b'data: {"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\ndata: [DONE]\n\n',
    b" ",
)
HEADS: Final = (
    b"",
    b"X-Request-ID: req_up\r\nCache-Control: no-store\r\nOpenAI-Model: m\r\nserver: x\r\n",
    b"connection: keep-alive\r\nretry-after: 3\r\nx-request-id: " + b"\xc3\xa9" * 200 + b"\r\nx-request-id: second\r\n",
)


def plain(body: bytes, head: bytes = b"") -> Plain:
    """A reply that came whole."""
    said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
    answer = whole_answer.read(said)
    assert answer is not None
    return Plain(answer, body, fits=True)


async def both(body: bytes, head: bytes = b"", **how: Any) -> tuple[Down, Down]:
    """What comes down of the same answer, the usual way and the general one."""
    usual = plain(body, head)
    lines = [line for line in usual.headers if line[0] != b"Content-Length"]
    general = Whole(tuple(lines), body, Origin())
    return await copy(usual, call(Dialect.CHAT), **how), await copy(general, call(Dialect.CHAT), **how)


def told(down: Down) -> tuple[Any, ...]:
    """All that a client and a bill see."""
    return down.headers, down.body, down.whole, down.before_bill, msgspec.structs.asdict(down.outcome), repr(down.untold)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("body", BODIES)
async def test_both_ways_say_and_bill_the_same(body: bytes, head: bytes) -> None:
    """Headers, bytes, usage, what was produced, and how it ended are the same for every kind of body and head."""
    usual, general = await both(body, head)
    assert told(usual) == told(general)
    assert usual.body == body


@pytest.mark.parametrize("body", BODIES)
def test_what_the_usual_reader_takes_the_meter_reads_the_same(body: bytes) -> None:
    """Where the usual reader knows the figures, a BodyMeter has the same and sees no failure, nor work that goes on."""
    meter = BodyMeter(Dialect.CHAT)
    meter.feed(body)
    meter.finish()
    usage = usage_of(body)
    assert usage is None or (usage, False, False, True) == (meter.usage, meter.failed, meter.unfinished, meter.finished)


def test_the_usual_answers_are_taken() -> None:
    """The usual reader is not for nothing: what a provider says on most days needs no meter."""
    assert [usage_of(body) is not None for body in BODIES[:10]] == [True] * 5 + [False] * 5
    assert usage_of(BODIES[len(USAGES)]) is None


@pytest.mark.parametrize("drains", [False, True])
@pytest.mark.parametrize("body", [BODIES[0], BODIES[9], BODIES[len(USAGES)]])
async def test_a_client_that_leaves_pays_the_same(body: bytes, *, drains: bool) -> None:
    """Where a client leaves within its body, both ways end and bill alike, also where what it left is read on."""
    background_drain = BackgroundDrain(answers_max=1, timeout_s=1, bytes_max=1 << 20) if drains else NONE
    usual, general = await both(body, parts_taken=1, background_drain=background_drain)
    assert told(usual) == told(general)
    assert usual.outcome.ending is Ending.CLIENT_CLOSED


@pytest.mark.parametrize("reason", [DrainingError("Restarting."), ClientGoneError()])
async def test_what_ends_before_it_began_is_told_the_same(reason: Exception) -> None:
    """A section that was interrupted before the answer came lets nothing down, either way."""
    before: Callable[[Exchange], None] = lambda exchange: exchange.interrupt(reason)  # noqa: E731
    usual, general = await both(BODIES[0], before=before)
    assert told(usual) == told(general)
    assert (usual.body, usual.untold is reason) == (b"", True)
