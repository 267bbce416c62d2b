"""What an answer is billed by, through real Granian: usage in events and bodies of any length, half of it, and none at all."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops.vocab import ranks
from tests.support.running import HELLO, User, booked, make_user
from tests.support.scripted import DONE, END, STREAM_HEAD, Asked, Scripted, chunk, event, plain

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_ZION_REQUESTS_PER_SECOND": "1000",
    "SENTINEL_REPORT_INTERVAL_MS": "20",
}
TEXT = "The river was wide and slow in the evening."
TOKENIZER = Tokenizer.load(ranks)
SAID = TOKENIZER.text(TEXT, "gpt-4o")
IMAGE = 765
HELD = 64
LONG_TEXT = 'A word, "usage": {"output_tokens": 9}, and so on. ' * 200_000
MEGABYTES = 1_000_000


@cache
def picture(size_bytes: int) -> str:
    """Base64 of so many bytes of something that does not repeat."""
    return base64.b64encode(random.Random(size_bytes).randbytes(size_bytes)).decode()


@dataclass
class Town:
    """A stack with one worker, whose provider does what a test says."""

    stack: Stack
    provider: Scripted

    async def bill(self, user: User, requests: int = 1) -> tuple[int, int, int]:
        """What Zion has booked for `user` (requests, input, output), once it has so many requests."""
        async with asyncio.timeout(20):
            while (sums := await booked(self.stack)).get(user.email, (0,))[0] < requests:
                await asyncio.sleep(0.02)
        return sums[user.email]

    def reason(self, request_id: str) -> str:
        """Why the bill of a request is an estimate, as its log line says."""
        lines = [json.loads(line) for line in self.stack.child("sentinel").output().splitlines() if request_id in line]
        (line,) = [line for line in lines if line["event"] == "request"]
        return str(line["estimated"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """One stack for all of these."""
    async with (
        Scripted() as provider,
        Stack(tmp_path_factory.mktemp("bills"), workers=1, settings=SETTINGS | {"OPENAI_API_URL": provider.url}) as stack,
    ):
        yield Town(stack, provider)


def said(fields: dict[str, Any], *, escaped: bool = False) -> bytes:
    """JSON; `escaped` as PHP and .NET write it."""
    text = json.dumps(fields)
    return (text.replace("/", "\\/").replace("+", "\\u002B") if escaped else text).encode()


def typed(kind: str, **fields: Any) -> bytes:
    """An event of a response."""
    return b"event: " + kind.encode() + b"\ndata: " + said({"type": kind} | fields) + b"\n\n"


def completed(*, escaped: bool = False, **response: Any) -> bytes:
    """The last event of a response."""
    fields = {"type": "response.completed", "response": {"id": "resp_long1"} | response, "sequence_number": 9}
    return b"event: response.completed\ndata: " + said(fields, escaped=escaped) + b"\n\n"


CREATED = typed("response.created", response={"id": "resp_long1", "status": "in_progress", "usage": None})
DELTA = typed("response.output_text.delta", output_index=0, content_index=0, delta=TEXT)
FIGURES = {"input_tokens": 5, "output_tokens": 4, "total_tokens": 9}
CHAT_FIGURES = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
STOP = event("", finish="stop")


def painted() -> dict[str, Any]:
    """An item of a response that is a large picture."""
    return {"type": "image_generation_call", "id": "ig_1", "result": picture(15 * MEGABYTES)}


def written() -> dict[str, Any]:
    """An item of a response that is a long text."""
    return {"type": "message", "content": [{"type": "output_text", "text": LONG_TEXT * 2}]}


def value() -> str:
    """A picture that is not so large."""
    return picture(2 * MEGABYTES)


def delta(**fields: Any) -> bytes:
    """An event of a chat with these fields in its delta."""
    return b"data: " + said({"choices": [{"index": 0, "delta": fields}]}) + b"\n\n"


def message(*, before: Any = None, after: Any = None, **fields: Any) -> bytes:
    """A plain chat with these fields in its message, and others before and after its choices."""
    choices = [{"index": 0, "message": {"role": "assistant"} | fields, "finish_reason": "stop"}]
    return said({"id": "chatcmpl-1", **(before or {}), "choices": choices, **(after or {})})


def images(size_bytes: int) -> list[Any]:
    """One image as image models in chats give it."""
    return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture(size_bytes)}"}, "index": 0}]


# Requests, input, output, and why that is an estimate.
Bill = tuple[int, int, int, str]
PROMPT = TOKENIZER.text(HELLO[0]["content"], "gpt-4o") + 7


class Case(NamedTuple):
    """One answer, made when it is needed: it may be 40 MB long. `output` and `reason` are what it must be billed by; `input`
    None: by the estimate of the prompt.
    """

    answer: Callable[[], bytes]
    output: int
    reason: str = ""
    input: int | None = 5

    @property
    def bill(self) -> Bill:
        """What it must be billed by."""
        return 1, PROMPT if self.input is None else self.input, self.output, self.reason


RESPONSES = {
    "a painting, then usage": Case(lambda: CREATED + DELTA + completed(output=[painted()], usage=FIGURES, metadata={}), 4),
    "usage, then a painting": Case(lambda: CREATED + DELTA + completed(usage=FIGURES, output=[painted()]), 4),
    "usage between paintings": Case(lambda: CREATED + completed(output=[painted()], usage=FIGURES, more=[painted()]), 4),
    "a painting with escapes": Case(lambda: CREATED + completed(escaped=True, output=[painted()], usage=FIGURES), 4),
    "a long text, then usage": Case(lambda: CREATED + DELTA + completed(output=[written()], usage=FIGURES, user=None), 4),
    "usage, then a long text": Case(lambda: CREATED + DELTA + completed(usage=FIGURES, output=[written()]), 4),
    "a long text, no usage": Case(lambda: CREATED + DELTA + completed(output=[written()], usage=None), SAID, "no_usage", None),
    "a painting, no usage": Case(lambda: CREATED + DELTA + completed(output=[painted()]), SAID + IMAGE, "no_usage", None),
    "a painted item, no usage": Case(
        lambda: (
            CREATED + DELTA + typed("response.output_item.done", output_index=0, item=painted()) + completed(output=[painted()])
        ),
        SAID + IMAGE,
        "no_usage",
        None,
    ),
}
CHATS = {
    "an image": Case(
        lambda: event(TEXT) + delta(images=images(MEGABYTES * 3 // 2)) + STOP + DONE, SAID + IMAGE, "no_usage", None
    ),
    "b64_json": Case(lambda: event(TEXT) + delta(image={"b64_json": value()}) + STOP + DONE, SAID + IMAGE, "no_usage", None),
    "inline data": Case(
        lambda: event(TEXT) + delta(inline_data={"mime_type": "image/png", "data": picture(9_000)}) + STOP + DONE,
        SAID + IMAGE,
        "no_usage",
        None,
    ),
    "a field of nobody": Case(lambda: event(TEXT) + delta(x_blob=value()) + STOP + DONE, SAID + IMAGE, "no_usage", None),
    "in the content": Case(
        lambda: delta(content=f"{TEXT}![it](data:image/png;base64,{value()})") + STOP + DONE,
        TOKENIZER.text(f"{TEXT}![it]()", "gpt-4o") + IMAGE,
        "no_usage",
        None,
    ),
    "audio": Case(
        lambda: event(TEXT) + delta(audio={"id": "a", "data": picture(48_000)}) + STOP + DONE, SAID + 10, "no_usage", None
    ),
    "a signature": Case(lambda: event(TEXT) + delta(thought_signature=picture(30_000)) + STOP + DONE, SAID, "no_usage", None),
    "an image and usage": Case(
        lambda: (
            event(TEXT) + b"data: " + message(images=images(1_400_000), after={"usage": CHAT_FIGURES}) + b"\n\n" + STOP + DONE
        ),
        4,
    ),
    "a long text": Case(lambda: delta(content=LONG_TEXT) + STOP + DONE, HELD, "unread", None),
    "a long text and usage": Case(
        lambda: b"data: " + message(content=LONG_TEXT, after={"usage": CHAT_FIGURES}) + b"\n\n" + STOP + DONE, 4
    ),
    "usage and a long text": Case(
        lambda: b"data: " + message(content=LONG_TEXT, before={"usage": CHAT_FIGURES}) + b"\n\n" + STOP + DONE, 4
    ),
}
BODIES = {
    "an image": Case(lambda: message(content=TEXT, images=images(MEGABYTES * 3 // 2)), SAID + IMAGE, "no_usage", None),
    "a large image": Case(lambda: message(content=TEXT, images=images(15 * MEGABYTES)), SAID + IMAGE, "no_usage", None),
    "a large image, then usage": Case(
        lambda: message(images=images(15 * MEGABYTES), after={"usage": CHAT_FIGURES, "x": "y"}), 4
    ),
    "usage, then a large image": Case(lambda: message(images=images(15 * MEGABYTES), before={"usage": CHAT_FIGURES}), 4),
    "a long text, then usage": Case(lambda: message(content=LONG_TEXT, after={"usage": CHAT_FIGURES, "x": {"usage": 1}}), 4),
    "usage, then a long text": Case(lambda: message(content=LONG_TEXT, before={"usage": CHAT_FIGURES}), 4),
    "a long text, no usage": Case(lambda: message(content=LONG_TEXT), HELD, "unread", None),
    "no JSON": Case(lambda: b'{"choices": oops}', 0, "unread", None),
    "too deep": Case(lambda: b'{"a":' * 2000 + b"1" + b"}" * 2000, 0, "unread", None),
    "a zero byte behind it": Case(lambda: message(content=TEXT * 20, after={"usage": CHAT_FIGURES}) + b"\n\0", 4),
    "twice in a row": Case(lambda: message(content=TEXT * 20, after={"usage": CHAT_FIGURES}) * 2, 4),
    "in a list": Case(lambda: b"[" + message(content=TEXT * 20, after={"usage": CHAT_FIGURES}) + b"]", 4),
    "an empty list": Case(lambda: b"[]", 0, "no_usage", None),
    "lines of JSON": Case(lambda: b"\n".join(message(content=part) for part in ("The river", " was")), 3, "no_usage", None),
}


async def billed(town: Town, http: aiohttp.ClientSession, path: str, case: Case, *, stream: bool, **fields: Any) -> Bill:
    """What was billed for the answer of `case`, which must have come down as it is."""
    user, answer = await make_user(town.stack), case.answer()

    async def answers(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        if not stream:
            writer.write(plain(answer))
            return
        writer.write(STREAM_HEAD)
        for at in range(0, len(answer), 65_536):
            writer.write(chunk(answer[at : at + 65_536]))
            await writer.drain()
        writer.write(END)

    town.provider.acts["answers"] = answers
    body = {"model": "gpt-4o", "stream": stream, "act": "answers", **fields}
    headers = {"authorization": f"Bearer {user.token}"}
    async with http.post(f"{town.stack.base_url}{path}", json=body, headers=headers) as response:
        assert await response.read() == answer
        request_id = response.headers["x-request-id"]
    return *await town.bill(user), town.reason(request_id)


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("name", RESPONSES)
async def test_responses_of_any_length(town: Town, http: aiohttp.ClientSession, name: str, store: bool) -> None:
    """Usage is found in a last event of 20 MB wherever it stands, and what was not read is no text."""
    case, fields = RESPONSES[name], {"input": HELLO, "store": store, "max_output_tokens": HELD}
    assert await billed(town, http, "/responses", case, stream=True, **fields) == case.bill


@pytest.mark.parametrize("name", CHATS)
async def test_chats_of_any_length(town: Town, http: aiohttp.ClientSession, name: str) -> None:
    """Base64 in any field of a chat's stream costs what docs/tokens.md says; a text nobody could read, the hold."""
    case, fields = CHATS[name], {"messages": HELLO, "max_tokens": HELD}
    assert await billed(town, http, "/chat/completions", case, stream=True, **fields) == case.bill


@pytest.mark.parametrize("name", BODIES)
async def test_bodies_of_any_length(town: Town, http: aiohttp.ClientSession, name: str) -> None:
    """The same answers as plain bodies cost the same as streams."""
    case, fields = BODIES[name], {"messages": HELLO, "max_tokens": HELD}
    assert await billed(town, http, "/chat/completions", case, stream=False, **fields) == case.bill


# What is sent of an answer that goes on no further.
def partial() -> bytes:
    """A part of a picture, as a response tells it."""
    return typed("response.image_generation_call.partial_image", output_index=1, partial_image_b64=picture(15 * MEGABYTES))


BROKEN_STREAMS = {
    "/responses": {
        "a partial image": Case(lambda: CREATED + DELTA + partial()[: 17 * MEGABYTES], SAID + IMAGE),
        "a second partial image": Case(lambda: CREATED + DELTA + partial() + partial()[: 17 * MEGABYTES], SAID + IMAGE),
        "a last event": Case(
            lambda: CREATED + DELTA + completed(output=[painted(), painted()], usage=FIGURES)[: 25 * MEGABYTES],
            SAID + 2 * IMAGE,
        ),
    },
    "/chat/completions": {
        "an image": Case(lambda: event(TEXT) + delta(images=images(15 * MEGABYTES))[: 17 * MEGABYTES], SAID + IMAGE),
        "a field of nobody": Case(lambda: event(TEXT) + delta(x_blob=picture(15 * MEGABYTES))[: 17 * MEGABYTES], SAID + IMAGE),
        "a signature": Case(lambda: event(TEXT) + delta(signature=picture(15 * MEGABYTES))[: 17 * MEGABYTES], SAID),
        "a long text": Case(lambda: event(TEXT) + delta(content=LONG_TEXT)[: 8 * MEGABYTES], HELD),
    },
}


@pytest.mark.parametrize("creates", [True, False], ids=["the client leaves", "the provider breaks off"])
@pytest.mark.parametrize(("path", "name"), [(path, name) for path, cases in BROKEN_STREAMS.items() for name in cases])
async def test_half_an_event_is_no_text(town: Town, http: aiohttp.ClientSession, path: str, name: str, creates: bool) -> None:
    """What came of a long event before the stream ended costs nothing as text; the text before it still counts."""
    case, user, done = BROKEN_STREAMS[path][name], await make_user(town.stack), asyncio.Event()
    answer = case.answer()

    async def breaks(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for at in range(0, len(answer), 65_536):
            writer.write(chunk(answer[at : at + 65_536]))
            await writer.drain()
        if creates:
            await done.wait()
        else:
            writer.close()

    town.provider.acts["breaks"] = breaks
    asks = {"input": HELLO, "max_output_tokens": HELD} if path == "/responses" else {"messages": HELLO, "max_tokens": HELD}
    body = {"model": "gpt-4o", "stream": True, "act": "breaks", **asks}
    headers = {"authorization": f"Bearer {user.token}"}
    async with http.post(f"{town.stack.base_url}{path}", json=body, headers=headers) as response:
        came = await response.content.readexactly(len(answer))
        if not creates:
            await response.read()
    done.set()
    assert came == answer
    assert await town.bill(user) == (1, PROMPT, case.output)


BROKEN_BODIES = {
    "in an image": Case(lambda: message(content=TEXT, images=images(15 * MEGABYTES))[: 17 * MEGABYTES], SAID + IMAGE),
    "in a text": Case(lambda: b'{"id":"chatcmpl-1","choices":[{"message":{"content":"The river', 2),
    "before a text": Case(lambda: b'{"id":"chatcmpl-1","choices":[{"index":0,"mess', 0),
    "in a long text": Case(lambda: message(content=LONG_TEXT)[: 9 * MEGABYTES], HELD),
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_half_a_body_is_read_as_far_as_it_came(town: Town, http: aiohttp.ClientSession, name: str) -> None:
    """Of a plain body that breaks off its texts count, not its bytes."""
    case, user = BROKEN_BODIES[name], await make_user(town.stack)
    body = case.answer()

    async def breaks(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(body).replace(b"content-length: ", b"content-length: 9", 1))
        await writer.drain()
        writer.close()

    town.provider.acts["body breaks"] = breaks
    asks = {"model": "gpt-4o", "messages": HELLO, "max_tokens": HELD, "act": "body breaks"}
    headers = {"authorization": f"Bearer {user.token}"}
    with pytest.raises(aiohttp.ClientPayloadError):
        async with http.post(f"{town.stack.base_url}/chat/completions", json=asks, headers=headers) as response:
            await response.read()
    assert await town.bill(user) == (1, PROMPT, case.output)


class Half(NamedTuple):
    """A usage as a provider gives it, what it said, and what must be billed; None: what the prompt is estimated at."""

    usage: dict[str, Any]
    said: str
    billed: tuple[int | None, int]
    reason: str = "half_usage"


HALVES = {
    "no input": Half({"prompt_tokens": 0, "completion_tokens": 4}, TEXT, (None, 4)),
    "no input, but a total": Half({"prompt_tokens": 0, "completion_tokens": 4, "total_tokens": 59}, TEXT, (55, 4)),
    "input missing": Half({"completion_tokens": 4}, TEXT, (None, 4)),
    "input absurd": Half({"prompt_tokens": -1, "completion_tokens": 4}, TEXT, (None, 4)),
    "input null, a total": Half({"prompt_tokens": None, "completion_tokens": 4, "total_tokens": 59}, TEXT, (55, 4)),
    "a total too small": Half({"prompt_tokens": 0, "completion_tokens": 4, "total_tokens": 4}, TEXT, (None, 4)),
    "no output": Half({"prompt_tokens": 50, "completion_tokens": 0}, TEXT, (50, SAID)),
    "no output, but a total": Half({"prompt_tokens": 50, "completion_tokens": 0, "total_tokens": 59}, TEXT, (50, 9)),
    "no output, a total that agrees": Half({"prompt_tokens": 50, "completion_tokens": 0, "total_tokens": 50}, TEXT, (50, SAID)),
    "output missing": Half({"prompt_tokens": 50}, TEXT, (50, SAID)),
    "output missing, a total": Half({"prompt_tokens": 50, "total_tokens": 59}, TEXT, (50, 9)),
    "neither": Half({"prompt_tokens": 0, "completion_tokens": 0}, TEXT, (None, SAID), "no_usage"),
    "neither, but a total": Half({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 59}, TEXT, (None, -59)),
    "a total alone": Half({"total_tokens": 59}, TEXT, (None, -59)),
    "a total alone that is small": Half({"total_tokens": SAID + 2}, TEXT, (2, SAID)),
    "whole": Half({"prompt_tokens": 50, "completion_tokens": 4, "total_tokens": 54}, TEXT, (50, 4), ""),
    "an empty answer": Half({"prompt_tokens": 50, "completion_tokens": 0, "total_tokens": 50}, "", (50, 0), ""),
    "an empty answer without a total": Half({"prompt_tokens": 50, "completion_tokens": 0}, "", (50, 0), ""),
}


def half(route: str, case: Half, *, stream: bool) -> bytes:
    """The answer of a provider that gives this usage."""
    if route == "/responses":
        names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
        figures = {names.get(name, name): figure for name, figure in case.usage.items()}
        output = [{"type": "message", "content": [{"type": "output_text", "text": case.said}]}]
        response = {"id": "resp_half1", "object": "response", "status": "completed", "output": output, "usage": figures}
        delta_event = typed("response.output_text.delta", output_index=0, content_index=0, delta=case.said)
        return CREATED + delta_event + completed(**response) if stream else said(response)
    where = {"text": case.said} if route == "/completions" else {"delta" if stream else "message": {"content": case.said}}
    fields = {"id": "c", "choices": [{"index": 0, **where, "finish_reason": "stop"}]}
    if not stream:
        return said(fields | {"usage": case.usage})
    return b"data: " + said(fields) + b"\n\ndata: " + said({"choices": [], "usage": case.usage}) + b"\n\n" + DONE


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ["/chat/completions", "/completions", "/responses"])
async def test_half_a_usage_is_completed(town: Town, http: aiohttp.ClientSession, route: str, stream: bool) -> None:
    """The side that is missing is estimated alone, and marked; a side that is truly zero stays so."""
    prompt = HELLO[0]["content"]
    asks: dict[str, Any] = {"/responses": {"input": prompt}, "/completions": {"prompt": prompt}}.get(route, {"messages": HELLO})
    estimate = TOKENIZER.text(prompt, "gpt-4o") + (0 if route == "/completions" else 7)
    options = {"stream_options": {"include_usage": True}} if stream and route != "/responses" else {}
    for name, case in HALVES.items():
        user, answer = await make_user(town.stack), half(route, case, stream=stream)

        async def halves(_asked: Asked, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            writer.write(STREAM_HEAD + chunk(answer) + END if stream else plain(answer))

        town.provider.acts["halves"] = halves
        body = {"model": "gpt-4o", "stream": stream, "act": "halves", **asks, **options}
        headers = {"authorization": f"Bearer {user.token}"}
        async with http.post(f"{town.stack.base_url}{route}", json=body, headers=headers) as response:
            assert await response.read() == answer
            request_id = response.headers["x-request-id"]
        given, produced = case.billed
        given = estimate if given is None else given
        # Below 0: so many tokens less the prompt.
        assert await town.bill(user) == (1, given, produced if produced >= 0 else -produced - given), name
        assert town.reason(request_id) == case.reason, name


async def test_true_zeros_stay(town: Town, http: aiohttp.ClientSession) -> None:
    """Embeddings produce nothing, nor does a completion that echoes its prompt and no more."""
    embeddings = said({"object": "list", "data": [{"embedding": [0.5] * 9}], "usage": {"prompt_tokens": 8, "total_tokens": 8}})
    echo = said({"choices": [{"text": TEXT, "finish_reason": "length"}], "usage": {"prompt_tokens": 9, "completion_tokens": 0}})
    more = embeddings.replace(b'"total_tokens": 8', b'"total_tokens": 12')
    unpaid = said({"choices": [{"text": TEXT, "finish_reason": "length"}]})
    for route, answer, asks, billed in (
        ("/embeddings", embeddings, {"input": "x"}, (1, 8, 0)),
        ("/embeddings", more, {"input": "x"}, (1, 8, 0)),
        ("/completions", unpaid, {"prompt": TEXT, "echo": True, "max_tokens": 0}, (1, SAID, 0)),
        ("/completions", echo, {"prompt": TEXT, "echo": True, "max_tokens": 0, "logprobs": 1}, (1, 9, 0)),
    ):
        user = await make_user(town.stack)

        async def zeros(_asked: Asked, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            writer.write(plain(answer))

        town.provider.acts["zeros"] = zeros
        headers = {"authorization": f"Bearer {user.token}"}
        body = {"model": "text-embedding-3-small", "act": "zeros", **asks}
        async with http.post(f"{town.stack.base_url}{route}", json=body, headers=headers) as response:
            assert (response.status, await response.read()) == (200, answer)
            request_id = response.headers["x-request-id"]
        assert await town.bill(user) == billed
        assert town.reason(request_id) == {more: "half_usage", unpaid: "no_usage"}.get(answer, "")


HIDDEN: dict[str, dict[str, Any]] = {
    "no choices at all": {},
    "null": {"choices": None, "provider": "a"},
    "empty": {"choices": [], "cost": 1e-05, "x_groq": {"id": "r"}, "service_tier": "default", "system_fingerprint": "fp"},
    "an empty delta": {"choices": [{"index": 0, "delta": {}, "finish_reason": None}], "prompt_filter_results": [{"a": 1}]},
    "an empty word": {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    "an empty text": {"choices": [{"index": 0, "text": "", "finish_reason": None, "logprobs": None}]},
}
SHOWN: dict[str, dict[str, Any]] = {
    "a word": {"choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": None}]},
    "the end": {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    "a text": {"choices": [{"index": 0, "text": "!", "finish_reason": None}]},
}


@pytest.mark.parametrize("route", ["/chat/completions", "/completions"])
async def test_usage_nobody_asked_for_is_hidden(town: Town, http: aiohttp.ClientSession, route: str) -> None:
    """Whatever the shape of the extra event, only who asked for it sees it; usage with content goes down."""
    first = (
        event(TEXT, finish="stop") if route == "/chat/completions" else event(TEXT).replace(b'"delta"', b'"text": "a", "delta"')
    )
    asks: dict[str, Any] = {"messages": HELLO} if route == "/chat/completions" else {"prompt": TEXT}
    for name, fields in (HIDDEN | SHOWN).items():
        extra = b"data: " + said({"id": "chatcmpl-x", "usage": CHAT_FIGURES, **fields}) + b"\n\n"

        async def extras(_asked: Asked, writer: asyncio.StreamWriter, extra: bytes = extra) -> None:
            writer.write(STREAM_HEAD + chunk(first) + chunk(extra) + chunk(DONE) + END)

        town.provider.acts["extras"] = extras
        for asked_for in (True, False):
            user = await make_user(town.stack)
            body = {"model": "gpt-4o", "stream": True, "act": "extras", "stream_options": {"include_usage": asked_for}, **asks}
            headers = {"authorization": f"Bearer {user.token}"}
            async with http.post(f"{town.stack.base_url}{route}", json=body, headers=headers) as response:
                down = await response.read()
            assert down == first + (extra if asked_for or name in SHOWN else b"") + DONE, name
            assert await town.bill(user) == (1, 5, 4), name
