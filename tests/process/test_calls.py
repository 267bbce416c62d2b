"""The main job over real processes: the official SDK, plain and streamed, gets what the provider gave."""

import asyncio

import aiohttp
import pytest
from openai import OpenAI

from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, User, booked, make_user, reconciled, sdk

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def test_a_chat_completion_arrives(stack: Stack, user: User) -> None:
    """A plain chat completion comes with its usage, a request id, and the caller's own limits."""
    async with sdk(stack, user.token) as client:
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO, user=user.email)
        answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-ratelimit-limit-requests"] == "1000000"
    assert raw.headers["x-ratelimit-remaining-requests"] == "999999"
    assert raw.headers["x-upstream-request-id"]
    given, taken = await reconciled(stack, [user])
    assert given == taken == {user.email: (1, answer.usage.prompt_tokens, answer.usage.completion_tokens)}


async def test_a_stream_arrives_without_the_usage_nobody_asked_for(stack: Stack, user: User) -> None:
    """Rules U2, U5: usage is asked for upstream, billed, and hidden from a client that did not ask."""
    async with sdk(stack, user.token) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert taken[user.email][2] > 0


async def test_a_stream_shows_the_usage_somebody_asked_for(stack: Stack, user: User) -> None:
    """Rule U6: a client that asked gets the usage event, unchanged and once."""
    async with sdk(stack, user.token) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, user=user.email, stream=True, stream_options={"include_usage": True}
        )
        usages = [chunk.usage async for chunk in stream if chunk.usage is not None]
    assert len(usages) == 1
    given, taken = await reconciled(stack, [user])
    assert given == taken == {user.email: (1, usages[0].prompt_tokens, usages[0].completion_tokens)}


async def test_the_providers_usage_wins_over_the_estimate(stack: Stack, user: User) -> None:
    """Where the provider counts otherwise, its figures are billed, plain and streamed."""
    async with sdk(stack, user.token) as client:
        extra = {"simulate": {"usage_offset": 7}}
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO, user=user.email, extra_body=extra)
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, user=user.email, extra_body=extra, stream=True
        )
        async for _ in stream:
            pass
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert answer.usage is not None
    assert taken[user.email][1] == 2 * answer.usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_arrive(stack: Stack, user: User, *, stream: bool) -> None:
    """`/v1/completions` is the same path."""
    async with sdk(stack, user.token) as client:
        answer = await client.completions.create(
            model="gpt-3.5-turbo-instruct", prompt=["One river", "Two rivers"], user=user.email, stream=stream
        )
        text = "".join([chunk.choices[0].text async for chunk in answer]) if stream else answer.choices[0].text
    assert text
    given, taken = await reconciled(stack, [user])
    assert given == taken
    assert taken[user.email][1] > 0


async def test_no_output_left_is_none_for_any_route(stack: Stack, http: aiohttp.ClientSession) -> None:
    """Rule R2: what an answer produces is unknown before it comes; but once a limit is used up, nothing produces more."""
    user = await make_user(stack, output=60)
    headers = {"authorization": f"Bearer {user.token}"}
    embedding = {"model": "text-embedding-3-small", "input": "x"}
    picture = {"model": "gpt-image-1", "prompt": "A river"}
    async with http.post(f"{stack.base_url}/images/generations", json=picture, headers=headers) as response:
        assert response.status == 200
        assert (await response.json())["usage"]["output_tokens"] > 60
    async with asyncio.timeout(10):
        while user.email not in await booked(stack):
            await asyncio.sleep(0.05)
    form = aiohttp.FormData({"model": "whisper-1"})
    form.add_field("file", b"0000", filename="a.wav")
    for path, body, status in (
        ("/images/generations", {"json": picture}, 429),
        ("/audio/transcriptions", {"data": form}, 429),
        ("/embeddings", {"json": embedding}, 200),
        ("/conversations", {"json": {}}, 200),
    ):
        async with http.post(f"{stack.base_url}{path}", headers=headers, **body) as response:
            assert response.status == status, path


async def test_the_synchronous_sdk_is_served(stack: Stack, user: User) -> None:
    """The SDK without asyncio gets plain answers, streams and models."""

    def call() -> tuple[str | None, str, list[str]]:
        with OpenAI(base_url=stack.base_url, api_key=user.token, max_retries=0) as client:
            plain = client.chat.completions.create(model="gpt-4o", messages=HELLO)
            with client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True) as stream:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return plain.choices[0].message.content, text, [model.id for model in client.models.list()]

    plain, streamed, models = await asyncio.to_thread(call)
    assert plain == streamed
    assert "gpt-4o" in models


async def test_models_are_listed_and_shown(stack: Stack, user: User) -> None:
    """Rule H8: an id with a slash travels raw; models cost a request and no tokens."""
    async with sdk(stack, user.token) as client:
        listed = [model.id async for model in client.models.list()]
        assert "anthropic/claude-sonnet-4" in listed
        for name in ("gpt-4o", "anthropic/claude-sonnet-4"):
            assert (await client.models.retrieve(name)).id == name
        raw = await client.models.with_raw_response.retrieve("gpt-4o")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) <= 10**6 - 3


async def test_bytes_are_the_providers(stack: Stack, user: User, http: aiohttp.ClientSession) -> None:
    """A plain answer and an error have the length, type and status of the provider's own (their ids differ)."""
    for body in ({"model": "gpt-4o", "messages": HELLO}, {"model": "gpt-none", "messages": HELLO}):
        answers = []
        for url, key in ((stack.url, user.token), (stack.provider_url, stack.provider_key)):
            headers = {"authorization": f"Bearer {key}"}
            async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                answers.append((response.status, response.headers["content-type"], len(await response.read())))
        assert answers[0] == answers[1]


async def test_a_stream_flows_event_by_event(stack: Stack, user: User, http: aiohttp.ClientSession) -> None:
    """Rule S6: an event is on its way before the next one exists: the first arrives while the provider is still silent."""
    body = {"model": "gpt-4o", "messages": HELLO, "stream": True, "simulate": {"stall_after_events": 3}}
    headers = {"authorization": f"Bearer {user.token}"}
    async with asyncio.timeout(10), http.post(f"{stack.base_url}/chat/completions", json=body, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers
        seen = b""
        while seen.count(b"\n\n") < 3:
            seen += await response.content.readany()
    assert seen.count(b"\n\n") == 3


async def test_neither_key_crosses(stack: Stack, user: User) -> None:
    """The caller's token never goes up, the provider's key never comes down."""
    async with sdk(stack, user.token) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=HELLO, user=user.email, extra_headers={"cookie": "a=b", "openai-organization": "org-x"}
        )
    assert stack.provider_key not in str(raw.headers) + raw.text
    rows = (await stack.control("provider", "served"))["rows"]
    row = next(row for row in rows if row["user"] == user.email)
    assert user.token not in str(row)
    assert row["request_id"] == raw.headers["x-request-id"]
    assert not {"cookie", "openai-organization", "x-forwarded-for"} & set(row["headers"])
    assert user.token not in stack.child("sentinel").output()
    assert stack.provider_key not in stack.child("sentinel").output()


async def test_input_tokens_are_counted_by_the_provider(stack: Stack, user: User) -> None:
    """Rule P4: OpenAI's own count of a response's input is a route like any other: a request, and no tokens."""
    async with sdk(stack, user.token) as client:
        counted = await client.responses.input_tokens.count(model="gpt-4o", input="Say something about rivers.")
        made = await client.responses.create(model="gpt-4o", input="Say something about rivers.", user=user.email)
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens
    async with asyncio.timeout(20):
        while (sums := (await booked(stack)).get(user.email)) != (2, made.usage.input_tokens, made.usage.output_tokens):
            assert sums is None or sums[0] <= 2
            await asyncio.sleep(0.05)
