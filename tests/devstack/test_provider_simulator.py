"""The provider's simulator over real HTTP: OpenAI's shapes, faults on demand, and a journal that tells the truth."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from sentinel.devstack.stack import Stack
from sentinel.openai.response.texts import Texts, read_choices, read_response
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import vocab

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], "user": "a@b.test"}
TEXT = {"model": "gpt-3.5-turbo-instruct", "prompt": ["One", "Two"], "max_tokens": 5, "n": 2}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
PARAMETERS = {"type": "object", "properties": {"days": {"type": "integer"}, "city": {"type": "string"}}, "required": ["city"]}
LOOK = {"name": "look", "parameters": PARAMETERS}
CALLING = {**CHAT, "tools": [{"type": "function", "function": LOOK}], "simulate": {"call": "look", "output_tokens": 3}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The provider's simulator alone."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        await stack.start("provider")
        yield stack
    finally:
        await stack.stop()


class Client:
    """Asks the simulator as Sentinel would, and reads its journal."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.http = http

    def send(self, body: Any = None, path: str = "chat/completions", key: str = "") -> Any:
        """One call: a context manager with the response."""
        headers = {"Authorization": f"Bearer {key or self.stack.provider_key}", "X-Request-ID": "r-1"}
        url = URL(f"{self.stack.provider_url}/v1/{path}", encoded=True)
        return self.http.request("GET" if body is None else "POST", url, json=body, headers=headers)

    async def ask(self, body: Any = None, path: str = "chat/completions", key: str = "") -> tuple[int, Any]:
        """(status, body) of one call; text where it is a stream."""
        async with self.send(body, path, key) as response:
            text = await response.text()
            return response.status, json.loads(text) if "json" in response.content_type else text

    async def row(self) -> dict[str, Any]:
        """The newest row of the journal."""
        return dict((await self.stack.control("provider", "served"))["rows"][-1])

    async def gone(self) -> dict[str, Any]:
        """The newest row, once the simulator noticed that its peer left: a second at most."""
        async with asyncio.timeout(1):
            while not (row := await self.row())["client_gone"]:
                await asyncio.sleep(0.02)
        return row


@pytest_asyncio.fixture(loop_scope="module")
async def client(started: Stack) -> AsyncIterator[Client]:
    """A client of a simulator with an empty journal."""
    await started.control("provider", "reset", {})
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield Client(started, session)


def events(text: str) -> list[Any]:
    """The JSON events of a stream, without [DONE]."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def said(stream: list[Any]) -> str:
    """What the first choice of a chat stream says."""
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in stream if event["choices"])


async def test_a_plain_answer_is_openais(client: Client) -> None:
    """Shape, usage, and a row that says the same; a real edge's headers come along."""
    async with client.send(CHAT) as response:
        answer = await response.json()
        assert {"alt-svc", "set-cookie", "openai-organization", "x-request-id"} <= {name.lower() for name in response.headers}
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("chat.completion", "stop")
    assert answer["usage"]["completion_tokens"] == 48
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 48
    row = await client.row()
    assert (row["input_tokens"], row["output_tokens"]) == (answer["usage"]["prompt_tokens"], 48)
    assert (row["request_id"], row["user"], row["model"], row["status"]) == ("r-1", "a@b.test", "gpt-4o", 200)
    assert row["complete"]
    assert row["authorization_seen"]
    assert row["headers"]["authorization"] == "(hidden)"
    assert row["body_sha256"] == hashlib.sha256(json.dumps(CHAT).encode()).hexdigest()


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_is_openais(client: Client, *, asked: bool) -> None:
    """Role, pieces, finish reason, [DONE]; usage null in each and one extra event only for those who asked."""
    body = {**STREAM, "stream_options": {"include_usage": asked}, "max_tokens": 7, "n": 2}
    _, text = await client.ask(body)
    assert text.endswith("data: [DONE]\n\n")
    stream = events(text)
    chunks = [event for event in stream if event["choices"]]
    assert len(chunks) == 2 * (1 + 7 + 1)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == ["length", "length"]
    assert all(("usage" in chunk) is asked and chunk.get("usage") is None for chunk in chunks)
    assert len({event["id"] for event in stream}) == 1
    row = await client.row()
    assert (row["output_tokens"], row["complete"], row["stream"]) == (14, True, True)
    if asked:
        assert (stream[-1]["choices"], stream[-1]["usage"]["completion_tokens"]) == ([], 14)
    else:
        assert stream[-1] == chunks[-1]


async def test_a_chat_calls_a_tool(client: Client) -> None:
    """The tool that `call` names, once a choice, with compact JSON that fits its parameters; only for those who gave tools."""
    _, answer = await client.ask({**CALLING, "n": 2})
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["tool_calls"] * 2
    assert [choice["message"]["content"] for choice in answer["choices"]] == [None, None]
    calls = [call for choice in answer["choices"] for call in choice["message"]["tool_calls"]]
    assert [call["function"] for call in calls] == [{"name": "look", "arguments": '{"city":"The river was"}'}] * 2
    assert [(call["type"], call["id"][:5]) for call in calls] == [("function", "call_")] * 2
    assert calls[0]["id"] != calls[1]["id"]
    assert (await client.row())["output_tokens"] == answer["usage"]["completion_tokens"]
    _, answer = await client.ask({**CHAT, "simulate": CALLING["simulate"]})
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("The river was", "stop")


async def test_a_streamed_call_is_openais(client: Client) -> None:
    """Its id, type and name with no arguments, then their pieces by its index, the finish reason, and usage as ever."""
    _, text = await client.ask({**STREAM, **CALLING, "n": 2})
    stream = events(text)
    choices = [event["choices"][0] for event in stream[:-1] if event["choices"][0]["index"] == 1]
    opening = choices[0]["delta"]
    assert (opening["role"], opening["content"]) == ("assistant", None)
    assert opening["tool_calls"][0].pop("id").startswith("call_")
    assert opening["tool_calls"] == [{"index": 0, "type": "function", "function": {"name": "look", "arguments": ""}}]
    pieces = ['{"city":"', "The", " river", " was", '"}']
    assert [choice["delta"] for choice in choices[1:-1]] == [
        {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces
    ]
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "tool_calls")
    assert stream[-1]["usage"]["completion_tokens"] == (await client.row())["output_tokens"]


@pytest.mark.parametrize("cut", [{}, {"cut_after_events": 4}])
@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_a_call_costs_what_sentinel_counts(client: Client, path: str, cut: dict[str, int]) -> None:
    """Rule L1: the name and the arguments, as far as they came, are in the journal as Sentinel counts them without usage."""
    tools = CALLING["tools"] if path == "chat/completions" else [{"type": "function", **LOOK}]
    body = {**CALLING, "tools": tools, "input": "Hello!", "stream": True, "simulate": {"call": "look", **cut}}
    received = b""
    async with client.send(body, path) as response:
        with contextlib.suppress(aiohttp.ClientPayloadError):
            async for chunk in response.content.iter_any():
                received += chunk
    texts = Texts(10**6)
    for fields in events(received.decode()):
        (read_choices if path == "chat/completions" else read_response)(fields, texts)
    tokenizer = Tokenizer.load(vocab.ranks)
    (whole,) = texts.joined()
    assert whole.startswith("look{")
    assert (await client.row())["output_tokens"] == tokenizer.text(whole, "gpt-4o")


async def test_completions_answer_each_prompt(client: Client) -> None:
    """Plain and streamed, every prompt n times, and each up to the cap."""
    _, answer = await client.ask(TEXT, "completions")
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("text_completion", "length")
    assert answer["usage"]["completion_tokens"] == 20
    _, text = await client.ask({**TEXT, "stream": True}, "completions")
    assert (
        "".join(event["choices"][0]["text"] for event in events(text) if event["choices"][0]["index"] == 3)
        == (answer["choices"][3]["text"])
    )
    _, tokens = await client.ask({**TEXT, "prompt": [[1, 2, 3], [4]], "n": 1}, "completions")
    assert tokens["usage"]["prompt_tokens"] == 4


async def test_models_are_listed_and_found(client: Client) -> None:
    """Ids with a slash too, raw or escaped; an unknown one is OpenAI's 404."""
    _, listed = await client.ask(path="models")
    assert {"gpt-4o", "openai/gpt-4o"} <= {model["id"] for model in listed["data"]}
    for path in ("models/openai/gpt-4o", "models/openai%2Fgpt-4o"):
        status, model = await client.ask(path=path)
        assert (status, model["id"]) == (200, "openai/gpt-4o")
    status, answer = await client.ask(path="models/nothing")
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("body", "path", "status", "words"),
    [
        ({**CHAT, "stream_options": {}}, "chat/completions", 400, "only allowed when 'stream' is enabled"),
        ({**CHAT, "model": "none"}, "chat/completions", 404, "does not exist or you do not have access"),
        ({"model": "gpt-4o"}, "chat/completions", 400, "Missing required parameter"),
        ({**CHAT, "messages": []}, "chat/completions", 400, "Invalid 'messages': empty array"),
        ({}, "completions", 400, "you must provide a model parameter"),
        ([], "completions", 400, "you must provide a model parameter"),
        (None, "completions", 405, "Not allowed to GET"),
        ({**CHAT, "n": "two"}, "chat/completions", 400, "wrong type"),
        ({"model": "text-embedding-3-small", "input": [{"a": 1}]}, "embeddings", 400, "is invalid"),
        ({}, "nothing", 404, "Invalid URL (POST /v1/nothing)"),
    ],
)
async def test_what_openai_refuses_is_refused(client: Client, body: Any, path: str, status: int, words: str) -> None:
    """Rules E1, I1: in OpenAI's shape, all four keys, with a request id."""
    async with client.send(body, path) as response:
        given, answer = response.status, await response.json()
    assert given == status
    assert response.headers["x-request-id"].startswith("req_")
    assert words in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


async def test_a_websocket_is_refused_at_once(client: Client) -> None:
    """By the status after which clients go on over plain HTTP."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    async with client.http.get(f"{client.stack.provider_url}/v1/responses", headers=upgrade) as response:
        assert (response.status, response.headers["upgrade"]) == (426, "HTTP/1.1")
    assert (await client.row())["status"] == 426


async def test_a_wrong_key_is_quoted_in_part(client: Client) -> None:
    """As OpenAI does, which is why that text may never reach a caller."""
    status, answer = await client.ask(CHAT, key="sk-wrong-0123456789")
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert "sk-wrong*******6789" in answer["error"]["message"]
    assert (await client.row())["status"] == 401


async def test_answers_go_wrong_as_asked(client: Client) -> None:
    """A status for the first requests of a key, raw bodies and headers, other usage or none."""
    failing = {**CHAT, "simulate": {"status": 503, "times": 2, "headers": {"retry-after": "3"}}}
    assert [(await client.ask(failing))[0] for _ in range(3)] == [503, 503, 200]
    status, text = await client.ask({**CHAT, "simulate": {"status": 502, "body": "<html>"}})
    assert (status, text) == (502, "<html>")
    _, answer = await client.ask({**CHAT, "simulate": {"usage_offset": 100, "output_tokens": 3}})
    row = await client.row()
    assert answer["usage"]["completion_tokens"] == row["output_tokens"] == 103
    assert answer["usage"]["prompt_tokens"] == row["input_tokens"]
    _, answer = await client.ask({**CHAT, "simulate": {"no_usage": True}})
    assert "usage" not in answer
    assert (await client.row())["output_tokens"] == 48
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.ask({**CHAT, "simulate": {"delay_plain_ms": 60_000}}), 0.2)
    row = await client.gone()
    assert (row["complete"], row["output_tokens"]) == (False, 0)
    assert row["input_tokens"] > 0


async def test_streams_go_wrong_as_asked(client: Client) -> None:
    """Cut, without [DONE], with an error first; the journal has what was produced until then."""
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.ask({**STREAM, "simulate": {"cut_after_events": 6}})
    row = await client.row()
    assert (row["complete"], row["output_tokens"], row["status"]) == (False, 5, 200)
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.ask({**CHAT, "simulate": {"cut_after_events": 0}})
    _, text = await client.ask({**STREAM, "simulate": {"no_done": True, "no_usage": True}})
    assert "[DONE]" not in text
    assert all(event["choices"] for event in events(text))
    _, text = await client.ask({**STREAM, "simulate": {"error_first_event": True}})
    assert events(text)[0]["error"]["type"] == "server_error"
    row = await client.row()
    assert (row["complete"], row["input_tokens"], row["output_tokens"]) == (False, 0, 0)


async def test_a_stalled_stream_goes_on_or_is_left(client: Client) -> None:
    """It goes on after its silence; a client that leaves is noticed within a second and pays for what was produced."""
    _, text = await client.ask({**STREAM, "simulate": {"stall_after_events": 4, "stall_s": 0.05}})
    assert said(events(text)).startswith("The river was wide")
    assert (await client.row())["complete"]
    async with client.send({**STREAM, "simulate": {"stall_after_events": 4}}) as response:
        begun = ""
        while begun.count("\n\n") < 4:
            begun += (await response.content.readany()).decode()
        assert (await client.stack.control("provider", "connections"))["active"] == 1
        response.close()
    row = await client.gone()
    assert said(events(begun)) == "The river was"
    assert (row["output_tokens"], row["complete"], row["status"]) == (3, False, 200)
    assert (await client.stack.control("provider", "connections"))["active"] == 0
