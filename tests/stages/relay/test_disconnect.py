"""What becomes of an answer whose client leaves before its usage, and what it is charged. Over both seams, no process."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from sentinel.downstream.cancel_scope import CancelScope
from sentinel.openai.reasoning_models import Reasoning
from sentinel.openai.response.body_meter import BodyMeter
from sentinel.openai.tokens.histories import Histories
from sentinel.ops.errors import ClientGoneError, DrainingError
from sentinel.ops.records import Call, Dialect, Ending, Ids, Outcome, Usage
from sentinel.ops.settings import lists, read
from sentinel.stages.relay import BackgroundDrain, Leaving
from sentinel.upstream.provider import Reply
from tests.openai.test_wire import CHAT, RESPONSE
from tests.openai.test_wire import read as read_call
from tests.stages.test_relay import Answer, call
from tests.support.documents import ROOT

PATTERNS = lists.patterns(read({}, dotenv=ROOT / ".env.example").reasoning_models)
LEFT = Outcome(Ending.CLIENT_CLOSED, 200, started=True)


def leaving(mode: str = "auto", *, answers_max: int = 1) -> Leaving:
    """One of a mode."""
    return Leaving(
        mode, BackgroundDrain(answers_max=answers_max, timeout_s=0.01, bytes_max=10**6), Reasoning(PATTERNS), Histories(7)
    )


@pytest.mark.parametrize(
    ("model", "thinks"),
    [
        *((name, False) for name in ("gpt-4o", "gpt-4.1-mini", "openai/gpt-4o", "ft:gpt-4o-mini:org::id", "gpt-3.5-turbo")),
        *((name, True) for name in ("o1", "o3-mini", "openai/o4-mini", "gpt-5", "gpt-5.1-codex", "deepseek/deepseek-r1")),
        *((name, True) for name in ("xai/grok-4", "google/gemini-2.5-pro", "O3", "ft:o4-mini:org::id", "qwen/qwq-32b")),
        # Nobody knows yet.
        *((name, True) for name in ("", "anthropic/claude-opus-4", "a-new-one")),
    ],
)
def test_models_are_known_by_name(model: str, *, thinks: bool) -> None:
    """Families that think, and those that never do; one of which nothing is known may think."""
    assert Reasoning(PATTERNS).may_think(model) is thinks


def test_models_are_known_by_their_usage() -> None:
    """A usage says whether a model thinks; one that once did may do it again; a name is believed first."""
    reasoning = Reasoning(PATTERNS)
    reasoning.learn("a", Usage(1, 1))
    assert not reasoning.may_think("a")
    reasoning.learn("gpt-4o", Usage(1, 9, reasoning_tokens=8))
    reasoning.learn("gpt-4o", Usage(1, 9))
    reasoning.learn("o3", Usage(1, 9))
    assert reasoning.may_think("gpt-4o")
    assert reasoning.may_think("o3")


def test_what_is_remembered_is_bounded() -> None:
    """The models that were seen longest ago are forgotten, and may think again."""
    reasoning = Reasoning((), models_max=2)
    for model in ("a", "b", "a", "c"):
        reasoning.learn(model, Usage(1, 1))
    assert sorted(reasoning.known) == ["a", "c"]
    assert reasoning.may_think("b")


HOSTED = {"type": "web_search"}
OWN = {"type": "function", "name": "f", "parameters": {}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}
TEMPLATE = {"id": "pmpt_1", "variables": {"a": "b"}}


@pytest.mark.parametrize(
    ("route", "fields", "reads_on"),
    [
        ("chat_completions", {}, False),
        ("chat_completions", {"n": 2, "tools": [{"type": "function", "function": {"name": "f"}}]}, False),
        ("chat_completions", {"tool_choice": "auto"}, False),
        ("chat_completions", {"stream": False}, True),
        ("chat_completions", {"model": "o3"}, True),
        ("chat_completions", {"model": "unheard-of"}, True),
        ("chat_completions", {"reasoning_effort": "high"}, True),
        ("chat_completions", {"providerOptions": {"anthropic": {"thinking": {}}}}, True),
        ("chat_completions", {"prediction": {"type": "content", "content": "a"}}, True),
        ("chat_completions", {"models": ["gpt-4o-mini"]}, False),
        ("chat_completions", {"models": ["gpt-4o-mini", "openai/o3"]}, True),
        ("chat_completions", {"web_search_options": {}}, True),
        ("chat_completions", {"messages": [{"role": "user", "content": [FILE]}]}, True),
        ("completions", {"prompt": "a", "messages": None}, False),
        ("responses", {}, False),
        ("responses", {"tools": [OWN, {"type": "custom", "name": "c"}]}, False),
        ("responses", {"tools": [OWN, HOSTED]}, True),
        ("responses", {"reasoning": {"effort": "low"}}, True),
        ("responses", {"previous_response_id": "resp_1"}, True),
        ("responses", {"conversation": "conv_1"}, True),
        ("responses", {"conversation": {"id": "conv_1"}}, True),
        ("responses", {"prompt": TEMPLATE}, True),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, True),
        ("responses", {"input": [{"id": "msg_1"}]}, True),
        ("responses", {"input": [{"id": "msg_1", "type": None}]}, True),
        ("responses", {"input": [{"id": "msg_1", "role": "assistant", "content": "a"}]}, False),
        (
            "responses",
            {"input": [{"id": "fc_1", "type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}]},
            False,
        ),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a/b"}]}]}, True),
        ("responses", {"input": "caf\u00e9"}, False),
    ],
)
def test_what_is_read_on(route: str, fields: dict[str, Any], *, reads_on: bool) -> None:
    """An answer is ended where all of it was seen, and read on where some of its cost was not."""
    given = (RESPONSE if route == "responses" else CHAT) | {"stream": True} | fields
    assert leaving().reads_on(read_call(given, route)) is reads_on
    assert leaving("drain").reads_on(read_call(given, route))
    assert not leaving("cancel").reads_on(read_call(given, route))


@pytest.mark.parametrize("spelled", [b"item\\u005freference", b"\\u0069tem_reference", b"item_referenc\\u0065"])
def test_no_spelling_hides_a_reference(spelled: bytes) -> None:
    """Who leaves an answer that goes on from elsewhere has it read on, however the request says so."""
    body = b'{"model":"gpt-4o","stream":true,"input":[{"type":"%s","id":"msg_1","content":"a"}]}' % spelled
    assert leaving().reads_on(read_call(body, "responses"))


CHARGES: list[tuple[Call, str]] = [
    (call(Dialect.CHAT, model="gpt-4o", stream=True), ""),
    (call(Dialect.CHAT, model="gpt-4o", stream=True, unseen_input=True), ""),
    (call(Dialect.CHAT, model="gpt-4o"), "unseen"),
    (call(Dialect.CHAT, model="o3", stream=True), "unseen"),
    (call(Dialect.RESPONSES, model="gpt-4o", stream=True, unseen_output=True), "unseen"),
    (call(Dialect.EVENTS, model="gpt-4o", stream=True), "unseen"),
    (call(Dialect.MEDIA, model="gpt-image-1", stream=True), "unseen"),
    (call(Dialect.MEDIA, model="gpt-image-1"), "unseen"),
    (call(Dialect.EVENTS, model="text-embedding-3-small", output_tokens_declared=0), ""),
    (call(Dialect.NONE, referenced_ids=Ids(frozenset({"file-1"}))), ""),
]


@pytest.mark.parametrize(("asked", "unseen"), CHARGES)
def test_what_was_hidden_is_charged_by_its_hold(asked: Call, unseen: str) -> None:
    """Output that was not seen is marked, unless the answer has told its cost, or the client has stayed."""
    for mode in ("auto", "cancel", "drain"):
        assert leaving(mode).judge(asked, LEFT).unseen == unseen
        assert leaving(mode).judge(asked, LEFT, whole=True).unseen == ""
        assert leaving(mode).judge(asked, Outcome(Ending.SUCCESS, 200, started=True)).unseen == ""


async def test_many_large_images_are_read_on_to_their_usage() -> None:
    """Ten of 9 MiB in base64, behind which alone the usage stands, are within what is read on by default."""
    settings = read({}, dotenv=ROOT / ".env.example")
    background_drain = BackgroundDrain(answers_max=1, timeout_s=60, bytes_max=settings.read_on_bytes_max)
    image = b'{"b64_json":"' + b"A" * (9 * 2**20) + b'"}'
    meter = BodyMeter(Dialect.MEDIA)
    parts = [b'{"data":[', *[image, b","] * 9, image, b'],"usage":{"input_tokens":9,"output_tokens":41600}}']
    await background_drain.read(cast("Reply", Answer(b"application/json", parts)), meter)
    assert meter.usage == Usage(9, 41_600)


# ---- before the answer comes -------------------------------------------------------------------------------------------


async def waits(section: CancelScope, stays: bool, *reasons: Exception) -> str:
    """Wait inside of `section`, which may go on after the first of these; what came of it."""
    over = asyncio.Event()
    section.stays = lambda _reason: over.set if stays else None
    done = asyncio.Event()

    async def wait() -> str:
        try:
            with section:
                await done.wait()
        except (ClientGoneError, DrainingError) as error:
            return type(error).__name__
        return "went on"

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    for reason in reasons:
        section.interrupt(reason)
        await asyncio.sleep(0)
    done.set()
    return await task


@pytest.mark.parametrize(
    ("stays", "reasons", "expected"),
    [
        (False, [], "went on"),
        (False, [ClientGoneError()], "ClientGoneError"),
        (True, [ClientGoneError()], "went on"),
        (True, [ClientGoneError(), ClientGoneError()], "ClientGoneError"),
        (True, [ClientGoneError(), DrainingError("It restarts.")], "ClientGoneError"),
    ],
)
async def test_an_answer_is_waited_for_without_its_client(stays: bool, reasons: list[Exception], expected: str) -> None:
    """Where its cost would not be known, an answer is waited for; the next block knows that the client is gone."""
    section = CancelScope()
    assert await waits(section, stays, *reasons) == expected
    if reasons:
        with pytest.raises(ClientGoneError), section:
            pass
    section.close()


async def test_waiting_has_bounds() -> None:
    """No longer than an answer is read on, no more than so many at once, and only where it would be read on."""
    asked, interrupted = call(Dialect.CHAT, model="o3"), asyncio.Event()
    assert leaving().wait(asked, interrupted.set) is not None
    async with asyncio.timeout(5):
        await interrupted.wait()
    assert leaving(answers_max=0).wait(asked, interrupted.set) is None
    assert leaving("cancel").wait(asked, interrupted.set) is None
    assert leaving().wait(call(Dialect.CHAT, model="gpt-4o", stream=True), interrupted.set) is None


async def test_a_wait_takes_a_place_until_it_is_over() -> None:
    """So many leave before their answer as answers are read on, and a worker that ends waits for none."""
    background_drain, interrupted = BackgroundDrain(answers_max=2, timeout_s=60, bytes_max=1), []
    first, second = (background_drain.wait(lambda name=name: interrupted.append(name)) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert background_drain.wait(print) is None
    first()
    first()
    third = background_drain.wait(lambda: interrupted.append("third"))
    assert third is not None
    assert background_drain.wait(print) is None
    background_drain.close()
    assert interrupted == ["second", "third"]
    assert background_drain.wait(print) is None


@pytest.mark.parametrize("ends", ["answer", "failure", "second interruption"])
async def test_a_place_is_given_back_however_the_wait_ends(ends: str) -> None:
    """With the head of the answer, with its failure, or when its time is over."""
    section, over = CancelScope(), asyncio.Event()
    section.stays = lambda _reason: over.set
    with suppress(ClientGoneError), section:
        section.interrupt(ClientGoneError())
        assert not over.is_set()
        if ends == "failure":
            section.stay_no_more()
        elif ends == "second interruption":
            section.interrupt(ClientGoneError())
        await asyncio.sleep(0)
    assert over.is_set()
    section.close()


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_a_failure_is_not_waited_for(leaves_first: bool) -> None:
    """Once the provider has failed nothing is worth staying for, whether the client has left or leaves now."""
    section = CancelScope()
    over = asyncio.Event()
    section.stays = lambda _reason: over.set
    with pytest.raises(ClientGoneError):
        async with asyncio.timeout(5):
            with section:
                if leaves_first:
                    section.interrupt(ClientGoneError())
                section.stay_no_more()
                if not leaves_first:
                    section.interrupt(ClientGoneError())
                await asyncio.sleep(60)
    section.close()


async def test_a_failure_behind_which_nothing_is_waited_for_cancels_nobody() -> None:
    """The client has left, the provider refuses, all of that is here: the task goes on, and is gone at the next block."""
    section, gone = CancelScope(), []

    async def request() -> None:
        with section:
            await asyncio.sleep(0)
            section.stay_no_more()
        try:
            with section:
                raise AssertionError("the client has left")
        except ClientGoneError:
            gone.append(True)
        await asyncio.sleep(0)

    section.stays = lambda _reason: lambda: None
    asking = asyncio.create_task(request())
    asyncio.get_running_loop().call_soon(section.interrupt, ClientGoneError())
    await asking
    assert gone
    section.close()
