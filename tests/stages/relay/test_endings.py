"""How streams end: what comes after the event that ends one, within which bounds, and which choices must have ended."""

import asyncio
import json

import pytest

from sentinel.openai.response import sse
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.errors import UpstreamError, UpstreamTimeoutError
from sentinel.ops.records import Dialect, Ending, Usage
from sentinel.stages.relay import BackgroundDrain, after_end
from tests.stages.test_relay import EVENTS, NONE, Answer, Down, call, copy
from tests.support.metering import cut, run, ways


def said(kind: str, tokens: int | None = None, **more: object) -> bytes:
    """A typed event of a response; with `tokens` it carries the usage (tokens, 1)."""
    usage = None if tokens is None else {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1}
    response = {"id": "resp_1", "object": "response", "status": kind.rpartition(".")[2], "usage": usage}
    fields = {"type": kind, **({"response": response} if kind.startswith("response.") else {}), **more}
    return f"event: {kind}\ndata: {json.dumps(fields)}\n\n".encode()


def choice(index: int, text: str = "", *, finish: str | None = None, tokens: int | None = None) -> bytes:
    """An event of a chat's choice; with `tokens` the usage (3, tokens) rides on it."""
    fields: dict[str, object] = {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}
    if tokens is not None:
        fields["usage"] = {"prompt_tokens": 3, "completion_tokens": tokens}
    return b"data: " + json.dumps({"id": "c1"} | fields).encode() + b"\n\n"


def usage_alone(tokens: int) -> bytes:
    """The usage (3, tokens) in an event of its own."""
    return b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\n' % tokens


ERROR = said("error", code="server_error", message="It broke.")
CREATED = said("response.created")
CHAT_ERROR = b'data: {"error":{"message":"It broke.","type":"server_error","param":null,"code":null}}\n\n'
DELTA = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"word"}\n\n'
WORD = choice(0, "word", finish="stop")
RUN = b"event: done\ndata: [DONE]\n\n"
RUN_USAGE = b'data: {"id":"run_1","object":"thread.run","usage":{"prompt_tokens":6,"completion_tokens":2}}\n\n'

# What is sent, the usage of the bill, how it ended.
TAILS: dict[str, tuple[Dialect, bytes, Usage | None, Ending]] = {
    "error, failed": (Dialect.RESPONSES, CREATED + ERROR + said("response.failed", 7), Usage(7, 1), Ending.UPSTREAM_ERROR),
    "failed, error": (Dialect.RESPONSES, CREATED + said("response.failed", 7) + ERROR, Usage(7, 1), Ending.UPSTREAM_ERROR),
    "error, failed without usage": (Dialect.RESPONSES, CREATED + ERROR + said("response.failed"), None, Ending.UPSTREAM_ERROR),
    "error first, failed": (Dialect.RESPONSES, ERROR + said("response.failed", 7), Usage(7, 1), Ending.UPSTREAM_ERROR),
    "error first, completed": (Dialect.RESPONSES, ERROR + said("response.completed", 7), Usage(7, 1), Ending.SUCCESS),
    "error alone": (Dialect.RESPONSES, CREATED + ERROR, None, Ending.UPSTREAM_ERROR),
    "text, error, failed": (
        Dialect.RESPONSES,
        CREATED + DELTA + ERROR + said("response.failed", 7),
        Usage(7, 1),
        Ending.UPSTREAM_ERROR,
    ),
    "completed, [DONE]": (Dialect.RESPONSES, CREATED + said("response.completed", 7) + sse.DONE, Usage(7, 1), Ending.SUCCESS),
    "completed, comment": (
        Dialect.RESPONSES,
        CREATED + said("response.completed", 7) + b": bye\n\n",
        Usage(7, 1),
        Ending.SUCCESS,
    ),
    "incomplete, completed": (
        Dialect.RESPONSES,
        said("response.incomplete", 5) + said("response.completed", 7),
        Usage(7, 1),
        Ending.SUCCESS,
    ),
    "completed twice": (
        Dialect.RESPONSES,
        said("response.completed", 5) + said("response.completed", 7),
        Usage(7, 1),
        Ending.SUCCESS,
    ),
    "completed, failed": (
        Dialect.RESPONSES,
        said("response.completed", 5) + said("response.failed", 7),
        Usage(7, 1),
        Ending.UPSTREAM_ERROR,
    ),
    "[DONE], comment": (Dialect.CHAT, WORD + usage_alone(2) + sse.DONE + b": bye\n\n", Usage(3, 2), Ending.SUCCESS),
    "[DONE], usage": (Dialect.CHAT, WORD + sse.DONE + usage_alone(2), Usage(3, 2), Ending.SUCCESS),
    "[DONE] twice": (Dialect.CHAT, WORD + usage_alone(2) + sse.DONE + sse.DONE, Usage(3, 2), Ending.SUCCESS),
    "chat error, [DONE]": (Dialect.CHAT, CHAT_ERROR + sse.DONE, None, Ending.UPSTREAM_ERROR),
    "text, chat error, [DONE]": (Dialect.CHAT, WORD + CHAT_ERROR + sse.DONE, None, Ending.SUCCESS),
    "run, [DONE], more": (Dialect.EVENTS, RUN + b": bye\n\n", None, Ending.SUCCESS),
    "streamed again": (Dialect.NONE, CREATED + ERROR + said("response.failed", 7), None, Ending.SUCCESS),
}


@pytest.mark.parametrize("creates", [(), ("id",)], ids=["nothing left", "an object left"])
@pytest.mark.parametrize("name", TAILS)
async def test_what_comes_after_the_end_goes_down(name: str, creates: tuple[str, ...]) -> None:
    """Whatever follows an event that ends a stream goes down at every split, and its last word is the bill."""
    dialect, stream, usage, ending = TAILS[name]
    for chunks in ways(stream)[:: 1 if len(stream) < 400 else 3]:
        answer = Answer(EVENTS, chunks)
        down = await copy(answer, call(dialect, creates=creates))
        assert (down.body, down.whole, answer.closed) == (stream, True, True)
        assert (down.outcome.usage, down.outcome.ending) == (usage, ending)


def test_a_late_usage_event_stays_hidden() -> None:
    """The usage that Sentinel asked for stays hidden also where it comes behind [DONE]."""
    stream = WORD + sse.DONE + usage_alone(2) + b": bye\n\n"
    for chunks in ways(stream):
        seen = run(StreamMeter(Dialect.CHAT, usage_hidden=True), chunks)
        assert (seen.downstream, seen.usage) == (WORD + sse.DONE + b": bye\n\n", Usage(3, 2))


@pytest.mark.parametrize("creates", [(), ("id",)], ids=["nothing left", "an object left"])
@pytest.mark.parametrize("failure", [UpstreamError("It broke."), UpstreamTimeoutError("It fell silent.")])
@pytest.mark.parametrize("half", [b"", b"data: ha", b"event: response.failed\n"])
async def test_a_failure_after_the_end_is_none(failure: UpstreamError, half: bytes, creates: tuple[str, ...]) -> None:
    """A provider that breaks off or hangs after the last event has answered; half an event is dropped."""
    for dialect, stream in ((Dialect.CHAT, WORD + sse.DONE), (Dialect.RESPONSES, CREATED + said("response.completed", 7))):
        down = await copy(Answer(EVENTS, [stream, half], failure=failure), call(dialect, creates=creates))
        assert (down.body, down.whole, down.outcome.ending) == (stream, True, Ending.SUCCESS)


async def test_the_rest_has_a_bound_of_bytes() -> None:
    """A provider that never stops sending after its last event holds no client's stream open."""
    ping = b": " + b"x" * (1 << 20) + b"\n\n"
    answer = Answer(EVENTS, [WORD + sse.DONE, *[ping] * 100])
    down = await copy(answer, call(Dialect.CHAT))
    assert (down.whole, down.outcome.ending, answer.closed) == (True, Ending.SUCCESS, True)
    assert len(ping) < len(down.body) < 50 * len(ping)


class Hangs(Answer):
    """An answer that does not end."""

    async def more(self, within_s: float) -> bytes | None:
        return await super().more(within_s) or None


@pytest.mark.parametrize(
    ("dialect", "stream", "most_s"),
    [
        (Dialect.CHAT, WORD + sse.DONE, 0.1),
        (Dialect.EVENTS, RUN, 0.1),
        (Dialect.RESPONSES, CREATED + said("response.completed", 7), 1.0),
        (Dialect.RESPONSES, CREATED + ERROR, 1.0),
        (Dialect.NONE, said("response.completed", 7), 1.0),
    ],
)
async def test_the_rest_has_a_bound_of_time(dialect: Dialect, stream: bytes, most_s: float) -> None:
    """The provider has 0.1 s behind [DONE], and a second behind a last event, to end its stream."""
    answer = Hangs(EVENTS, [*cut(stream, [20]), b": bye\n\n"])
    down = await copy(answer, call(dialect))
    assert (down.body, down.whole, answer.drained, answer.closed) == (stream + b": bye\n\n", True, True, True)
    assert [wait_s <= most_s for wait_s in answer.waits_s] == [True, True]
    assert down.outcome.ending is (Ending.UPSTREAM_ERROR if ERROR in stream else Ending.SUCCESS)


@pytest.mark.parametrize("creates", [(), ("id",)], ids=["nothing left", "an object left"])
@pytest.mark.parametrize(
    ("dialect", "stream", "rest_first"),
    [
        (Dialect.CHAT, WORD + usage_alone(2) + sse.DONE, False),
        (Dialect.CHAT, WORD + sse.DONE, True),
        (Dialect.EVENTS, RUN_USAGE + RUN, False),
        (Dialect.EVENTS, RUN, True),
        (Dialect.RESPONSES, CREATED + said("response.completed", 7), True),
    ],
)
async def test_the_bill_waits_for_nothing_that_cannot_change_it(
    dialect: Dialect, stream: bytes, rest_first: bool, creates: tuple[str, ...]
) -> None:
    """Behind [DONE] a usage that is known is the bill at once; what else is said goes down after that."""

    class Drained(Hangs):
        async def drain(self, timeout_s: float) -> None:
            drained.append(not answer.closed)
            await super().drain(timeout_s)

    drained: list[bool] = []
    answer = Drained(EVENTS, [*cut(stream, [20]), b": bye\n\n"])
    down = await copy(answer, call(dialect, creates=creates))
    assert down.before_bill == stream + (b": bye\n\n" if rest_first else b"")
    assert (down.body, down.whole, drained, answer.closed) == (stream + b": bye\n\n", True, [True], True)


async def test_a_client_that_leaves_behind_its_bill_waits_for_nothing() -> None:
    """Where the usage was said nothing more is read for a client that closes at the end."""
    for dialect, end in ((Dialect.CHAT, sse.DONE), (Dialect.RESPONSES, said("response.completed", 7))):
        answer = Answer(EVENTS, [WORD + usage_alone(2), end, b": bye\n\n"])
        down = await copy(answer, call(dialect), parts_taken=2)
        assert (down.outcome.ending, answer.closed) == (Ending.SUCCESS, True)
        assert down.before_bill == WORD + usage_alone(2) + end


async def test_the_rest_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on and on after its last event is left after five seconds, however often it says something."""

    class Ticks(Hangs):
        async def more(self, within_s: float) -> bytes | None:
            if within_s <= 0:
                return None
            clock[0] += 0.6
            return await super().more(within_s)

    clock = [asyncio.get_running_loop().time()]
    answer = Ticks(EVENTS, [said("response.completed", 7), *[b": ping\n\n"] * 100])
    monkeypatch.setattr(after_end, "_now", lambda: clock[0])
    down = await copy(answer, call(Dialect.RESPONSES))
    assert (down.body.count(b": ping"), down.whole, down.outcome.ending) == (9, True, Ending.SUCCESS)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(
    "background_drain", [NONE, BackgroundDrain(answers_max=1, timeout_s=5, bytes_max=10**6)], ids=["cancel", "drain"]
)
async def test_a_client_that_leaves_after_the_end_has_all(background_drain: BackgroundDrain, detached: bool) -> None:
    """Leaving at the last event is a success that frees all; a usage on its way is still read."""
    pieces = [CREATED, ERROR, said("response.failed", 7)]
    answer = Answer(EVENTS, pieces)
    down = await copy(answer, call(Dialect.RESPONSES, detached=detached), background_drain, parts_taken=2)
    assert (down.outcome.ending, down.outcome.usage, answer.closed) == (Ending.UPSTREAM_ERROR, Usage(7, 1), True)
    answer = Answer(EVENTS, [WORD, sse.DONE, usage_alone(2)])
    down = await copy(answer, call(Dialect.CHAT, detached=detached), background_drain, parts_taken=2)
    assert (down.outcome.ending, down.outcome.usage, answer.closed) == (Ending.SUCCESS, Usage(3, 2), True)


async def test_the_rest_is_read_on_for_a_client_that_left_before() -> None:
    """With SENTINEL_ON_DISCONNECT=drain the last usage counts too, not the first end."""
    answer = Answer(EVENTS, [CREATED, DELTA, ERROR, said("response.failed", 7)])
    background_drain = BackgroundDrain(answers_max=1, timeout_s=5, bytes_max=10**6)
    down = await copy(answer, call(Dialect.RESPONSES), background_drain, parts_taken=1)
    assert down.outcome.usage == Usage(7, 1)


# ---- choices -----------------------------------------------------------------------------------------------------------

ENDED0, ENDED1 = choice(0, finish="stop"), choice(1, finish="length")
# By name: how many were asked for, the stream, and whether it is whole though [DONE] is missing.
CHOICES: dict[str, tuple[int, bytes, bool]] = {
    "one, ended": (1, choice(0, "a") + ENDED0, True),
    "one, cut": (1, choice(0, "a"), False),
    "two, both ended": (2, choice(0, "a") + choice(1, "b") + ENDED1 + ENDED0, True),
    "two, one cut": (2, choice(0, "a") + choice(1, "b") + ENDED0, False),
    "two, the other cut": (2, choice(0, "a") + choice(1, "b") + ENDED1, False),
    "two, cut behind the other's end": (2, ENDED0 + choice(1, "b"), False),
    "two, none ended": (2, choice(0, "a") + choice(1, "b"), False),
    "two asked, one came": (2, choice(0, "a") + ENDED0, True),
    "two, both in one event": (
        2,
        b'data: {"choices":[{"index":0,"finish_reason":"stop"},{"index":1,"finish_reason":"stop"}]}\n\n',
        True,
    ),
    "one, usage, no end": (1, choice(0, "a") + usage_alone(2), False),
    "two, usage, no end": (2, choice(0, "a") + choice(1, "b") + usage_alone(2), False),
    "two, one ended, usage alone": (2, choice(0, "a") + choice(1, "b") + ENDED0 + usage_alone(2), True),
    "two, one ended, usage alone, more": (2, ENDED0 + usage_alone(2) + choice(1, "b"), False),
    "two, one ended, usage rides": (2, choice(1, "b", tokens=1) + choice(0, "a", finish="stop", tokens=2), False),
    "two, both ended, usage rides": (2, choice(1, "b", finish="stop", tokens=1) + choice(0, finish="stop", tokens=2), True),
    "two, usage as it goes, cut": (2, choice(0, finish="stop", tokens=1) + choice(1, "b", tokens=2), False),
    "two, usage as it goes, ended": (2, choice(0, finish="stop", tokens=1) + choice(1, "b", tokens=2) + ENDED1, True),
}


@pytest.mark.parametrize("name", CHOICES)
async def test_every_choice_that_began_must_end(name: str) -> None:
    """A stream whose choices have not all ended is cut, unless its usage was its last word."""
    choices, stream, whole = CHOICES[name]
    for chunks in ways(stream)[::3]:
        down = await copy(Answer(EVENTS, chunks), call(Dialect.CHAT, choices=choices))
        _assert_ended(down, stream, whole=whole)
    done = await copy(Answer(EVENTS, [stream + sse.DONE]), call(Dialect.CHAT, choices=choices))
    assert (done.body, done.outcome.ending) == (stream + sse.DONE, Ending.SUCCESS)


@pytest.mark.parametrize("kept_bytes_max", [1, 300, 1 << 20])
@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_known_past_what_is_kept(name: str, kept_bytes_max: int) -> None:
    """Which choices ended is known also of events that were not kept."""
    choices, stream, whole = CHOICES[name]
    filler = choice(0, "x" * 200) * 90
    meter = StreamMeter(Dialect.CHAT, choices=choices, kept_bytes_max=kept_bytes_max)
    assert run(meter, [filler, *sse.events(stream)]).finished is whole


def _assert_ended(down: Down, stream: bytes, *, whole: bool) -> None:
    assert down.whole
    assert down.body.startswith(stream)
    rest = down.body.removeprefix(stream)
    assert (rest == sse.DONE) is whole
    assert (b"upstream_truncated" in rest) is not whole
    assert down.outcome.ending is (Ending.SUCCESS if whole else Ending.TRUNCATED)
