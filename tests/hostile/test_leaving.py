"""Leaving before the usage, through real Granian: what nobody saw is read on, or charged by its hold."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops.vocab import ranks
from tests.support.running import HELLO, User, booked, make_user
from tests.support.scripted import DONE, END, STREAM_HEAD, Asked, Scripted, chunk, event, plain

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = {"SENTINEL_RATE_LIMIT_REQUESTS": "0", "SENTINEL_REPORT_INTERVAL_MS": "20", "SENTINEL_READ_ON_SECONDS": "3"}
TOKENIZER = Tokenizer.load(ranks)
WORD = "Forty-two is the answer."
SAID = TOKENIZER.text(WORD, "gpt-4o")
PROMPT = TOKENIZER.text(HELLO[0]["content"], "gpt-4o") + 7
CAP = 700
# What the provider charges.
GIVEN, PRODUCED, THOUGHT = 50_000, 90_000, 89_990


@dataclass
class Town:
    """A stack of a mode, whose provider does what a test says."""

    stack: Stack
    provider: Scripted
    mode: str

    async def bill(self, user: User, requests: int = 1) -> tuple[int, int]:
        """Input and output that Zion has booked for `user`, once it has so many requests."""
        async with asyncio.timeout(20):
            while (sums := await booked(self.stack)).get(user.email, (0,))[0] < requests:
                await asyncio.sleep(0.02)
        return sums[user.email][1:]

    async def left(self, act: str, path: str, *, sees: bytes, user: User | None = None, **fields: Any) -> User:
        """The user (a new one) who has asked, and left when it saw `sees` (b"": as soon as the provider was asked)."""
        user, known = user or await make_user(self.stack), len(self.provider.asked)
        asks = {"input": HELLO} if path == "/responses" else {"messages": HELLO}
        body = json.dumps({"model": "gpt-4o", "stream": True, "act": act} | asks | fields).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.stack.port)
        head = f"POST /v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(10):
            if sees:
                await reader.readuntil(sees)
            while len(self.provider.asked) == known:
                await asyncio.sleep(0.01)
        writer.transport.abort()
        return user


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["auto", "cancel", "drain"])
async def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """One stack for each mode; what the default is, a unit test says."""
    async with Scripted() as provider:
        # Where answers are ended, long enough for any machine to notice that the client has left; else nobody waits for it.
        pause_s = 5.0 if request.param == "cancel" else 0.5
        provider.acts |= {
            "stream": partial(stream, pause_s),
            "plain": whole,
            "endless": endless,
            "no end": no_end,
            "responds": partial(responds, pause_s),
            "fails": fails,
            "paints": partial(paints, pause_s),
            "speaks": partial(speaks, pause_s),
        }
        settings = SETTINGS | {"OPENAI_API_URL": provider.url, "SENTINEL_ON_DISCONNECT": request.param}
        async with Stack(tmp_path_factory.mktemp("leaving"), workers=1, settings=settings) as stack:
            yield Town(stack, provider, request.param)


def figures(names: tuple[str, str]) -> dict[str, Any]:
    """The usage of an answer, in the words of its route."""
    details = {"reasoning_tokens": THOUGHT}
    return {names[0]: GIVEN, names[1]: PRODUCED, "total_tokens": GIVEN + PRODUCED, f"{names[1]}_details": details}


CHAT_USAGE = {"id": "chatcmpl-x", "choices": [], "usage": figures(("prompt_tokens", "completion_tokens"))}
RESPONSE = {
    "id": "resp_left1",
    "object": "response",
    "status": "completed",
    "usage": figures(("input_tokens", "output_tokens")),
}


async def stream(pause_s: float, _asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A word, and after a pause what it has cost."""
    writer.write(STREAM_HEAD + chunk(event(WORD, finish="stop")))
    await writer.drain()
    await asyncio.sleep(pause_s)
    writer.write(chunk(b"data: " + json.dumps(CHAT_USAGE).encode() + b"\n\n") + chunk(DONE) + END)


async def responds(pause_s: float, _asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The same as a response."""
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": WORD}
    writer.write(STREAM_HEAD + chunk(b"data: " + json.dumps(delta).encode() + b"\n\n"))
    await writer.drain()
    await asyncio.sleep(pause_s)
    last = {"type": "response.completed", "response": RESPONSE}
    writer.write(chunk(b"data: " + json.dumps(last).encode() + b"\n\n") + END)


async def paints(pause_s: float, _asked: Asked, writer: asyncio.StreamWriter) -> None:
    """An image in part, and after a pause all of it, with what it has cost."""
    part = {"type": "image_generation.partial_image", "b64_json": "AAAA", "partial_image_index": 0}
    writer.write(STREAM_HEAD + chunk(b"data: " + json.dumps(part).encode() + b"\n\n"))
    await writer.drain()
    await asyncio.sleep(pause_s)
    usage = {"input_tokens": GIVEN, "output_tokens": PRODUCED, "total_tokens": GIVEN + PRODUCED}
    last = {"type": "image_generation.completed", "b64_json": "AAAA", "usage": usage}
    writer.write(chunk(b"data: " + json.dumps(last).encode() + b"\n\n") + END)


async def speaks(pause_s: float, _asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Sound, of which no usage is ever told."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head + chunk(b"\xff\xfbsound"))
    await writer.drain()
    await asyncio.sleep(pause_s)
    writer.write(chunk(b"more") + END)


async def whole(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A plain answer that takes its time."""
    await asyncio.sleep(1.0)
    message = {"index": 0, "message": {"role": "assistant", "content": WORD}, "finish_reason": "stop"}
    writer.write(plain(json.dumps(CHAT_USAGE | {"choices": [message]}).encode()))


async def endless(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A word, and no end."""
    writer.write(STREAM_HEAD + chunk(event(WORD)))
    await writer.drain()
    await asyncio.sleep(60)


async def no_end(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The beginning of a response, and no end."""
    created = {"type": "response.created", "response": {"id": "resp_left2", "object": "response", "status": "in_progress"}}
    writer.write(STREAM_HEAD + chunk(b"data: " + json.dumps(created).encode() + b"\n\n"))
    await writer.drain()
    await asyncio.sleep(60)


async def fails(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The head of an error, whose body does not come."""
    writer.write(b"HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n")
    await asyncio.sleep(60)


async def test_who_leaves_a_failure_is_asked_for_no_more_and_owes_nothing(town: Town) -> None:
    """No second attempt is made for nobody, and an attempt that failed has cost nothing, in every mode."""
    user = await town.left("fails", "/chat/completions", sees=b"", stream=False, model="o3")
    asked = len(town.provider.asked)
    await asyncio.sleep(1.0)  # far more than it takes to ask again
    assert len(town.provider.asked) == asked
    assert user.email not in await booked(town.stack)


@pytest.mark.parametrize("model", ["o3", "vendor/unheard-of"])
@pytest.mark.parametrize("capped", [True, False])
async def test_hidden_thought_is_paid(town: Town, model: str, capped: bool) -> None:
    """Whoever leaves with the visible answer pays what was thought: what it cost, or what was held for it."""
    cap = {"max_completion_tokens": CAP} if capped else {}
    user = await town.left("stream", "/chat/completions", sees=WORD.encode(), model=model, **cap)
    held = (PROMPT, CAP if capped else 4096)
    assert await town.bill(user) == (held if town.mode == "cancel" else (GIVEN, PRODUCED))


async def test_what_was_all_seen_is_ended(town: Town) -> None:
    """The usual chat costs what was said, and its provider is left at once, unless it is always read on."""
    user = await town.left("stream", "/chat/completions", sees=WORD.encode())
    assert await town.bill(user) == ((GIVEN, PRODUCED) if town.mode == "drain" else (PROMPT, SAID))


async def test_a_plain_answer_is_paid_by_who_did_not_wait(town: Town) -> None:
    """Of an answer that does not stream nothing is seen before its end, so that leaving it is not free."""
    user = await town.left("plain", "/chat/completions", sees=b"", model="gpt-4.1", stream=False, max_tokens=CAP)
    assert await town.bill(user) == ((PROMPT, CAP) if town.mode == "cancel" else (GIVEN, PRODUCED))


@pytest.mark.parametrize("fields", [{"prompt": {"id": "pmpt_1"}}, {"tools": [{"type": "web_search"}]}], ids=["prompt", "tool"])
async def test_what_only_the_provider_sees_is_read_on(town: Town, fields: dict[str, Any]) -> None:
    """A prompt template, or what the provider's tools find, is input that only its usage tells."""
    user = await town.left("responds", "/responses", sees=WORD.encode(), model="gpt-4.1", max_output_tokens=CAP, **fields)
    given, produced = await town.bill(user)
    if town.mode == "cancel":
        assert given >= PROMPT
        assert produced == (CAP if "tools" in fields else SAID)
    else:
        assert (given, produced) == (GIVEN, PRODUCED)


async def test_an_image_that_was_seen_in_part_is_not_free(town: Town) -> None:
    """What an image costs its usage alone tells; who leaves before it pays that, or what was held for it."""
    fields = {"model": "gpt-image-1", "prompt": WORD}
    user = await town.left("paints", "/images/generations", sees=b"partial_image", **fields)
    assert await town.bill(user) == ((SAID, 4096) if town.mode == "cancel" else (GIVEN, PRODUCED))


async def test_sound_costs_what_it_would_have_cost(town: Town) -> None:
    """Nothing that is held is charged where the answer could not have told a usage."""
    user = await town.left("speaks", "/audio/speech", sees=b"sound", model="tts-1", input=WORD, voice="alloy")
    assert await town.bill(user) == (SAID, 0)


async def test_beyond_the_bounds_the_hold_is_charged(town: Town) -> None:
    """An answer that is not over in time is ended, and what was hidden of it costs what was held."""
    user = await town.left("endless", "/chat/completions", sees=WORD.encode(), model="o4-mini", max_completion_tokens=CAP)
    assert await town.bill(user) == (PROMPT, CAP)


async def test_a_history_costs_what_it_was_last_seen_to_be(town: Town) -> None:
    """Of an answer that goes on from an earlier one and is never seen to its end, the input is what that was."""
    user = await town.left("responds", "/responses", sees=b"response.completed", model="o3", max_output_tokens=CAP)
    assert await town.bill(user) == (GIVEN, PRODUCED)
    more = {"model": "o3", "max_output_tokens": CAP, "previous_response_id": "resp_left1"}
    await town.left("no end", "/responses", sees=b"resp_left2", user=user, **more)
    assert await town.bill(user, 2) == (GIVEN + PROMPT + GIVEN + PRODUCED, PRODUCED + CAP)


async def test_a_model_is_known_by_its_usage(town: Town) -> None:
    """A model whose usage had tokens of thought is read on from then on, whatever its name says."""
    for _ in range(2):
        user = await town.left("stream", "/chat/completions", sees=DONE, model="gpt-4-hidden")
        assert await town.bill(user) == (GIVEN, PRODUCED)
    user = await town.left("stream", "/chat/completions", sees=WORD.encode(), model="gpt-4-hidden", max_tokens=CAP)
    assert await town.bill(user) == ((PROMPT, CAP) if town.mode == "cancel" else (GIVEN, PRODUCED))
