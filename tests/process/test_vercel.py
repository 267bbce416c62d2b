"""Vercel AI Gateway in place of OpenAI: its address, its key, its attribution headers, its usage with costs in it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from sentinel.devstack.stack import Stack
from tests.process.conftest import SETTINGS
from tests.support.running import HELLO, booked, make_user, sdk
from tests.support.scripted import DONE, END, STREAM_HEAD, Asked, Scripted, chunk, event, plain

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

KEY = "vck_simulated_key"
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16, "cost": 0.00012, "market_cost": 0.0002}


@dataclass
class Town:
    """A stack whose provider is Vercel."""

    stack: Stack
    provider: Scripted


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """One stack, one worker."""
    async with Scripted() as provider:
        settings = SETTINGS | {
            "SENTINEL_PROVIDER": "vercel",
            "VERCEL_AI_GATEWAY_API_KEY": KEY,
            "VERCEL_AI_GATEWAY_URL": provider.url,
            "OPENAI_API_URL": "http://127.0.0.1:9/v1",
        }
        async with Stack(tmp_path_factory.mktemp("vercel"), workers=1, settings=settings) as stack:
            yield Town(stack, provider)


async def test_vercel_is_asked_in_its_own_way(town: Town) -> None:
    """Issue item 2: its URL and key; attribution headers and the request id go up, the caller's token does not."""

    async def well(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Slow."}, "finish_reason": "stop"}
        writer.write(plain(json.dumps({"id": "gen-1", "choices": [choice], "usage": USAGE}).encode()))

    town.provider.acts["well"] = well
    # So little is left that the answer must be capped, by the name that every vendor behind it understands.
    user = await make_user(town.stack, output=50)
    headers = {"http-referer": "https://app.example", "x-title": "App"}
    async with sdk(town.stack, user.token) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="anthropic/claude-sonnet-4", messages=HELLO, extra_body={"act": "well"}, extra_headers=headers
        )
    asked = town.provider.asked[-1]
    assert (asked.method, asked.target) == ("POST", "/v1/chat/completions")
    assert asked.header("authorization") == f"Bearer {KEY}"
    assert (asked.header("http-referer"), asked.header("x-title")) == ("https://app.example", "App")
    assert asked.header("x-request-id") == raw.headers["x-request-id"]
    assert user.token not in str(asked)
    body = json.loads(asked.body)
    assert (body["model"], body["max_tokens"]) == ("anthropic/claude-sonnet-4", 50)
    assert "max_completion_tokens" not in body
    assert KEY not in str(raw.headers) + raw.text


async def test_a_stream_with_costs_is_billed_and_hidden(town: Town, http: aiohttp.ClientSession) -> None:
    """Rules U5, U10: the usage event that Vercel puts costs into is read, and withheld from who did not ask."""
    last = {"id": "gen-1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}

    async def streams(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event("Slow.", finish="stop")))
        writer.write(chunk(b"data: " + json.dumps(last).encode() + b"\n\n" + DONE) + END)

    town.provider.acts["streams"] = streams
    user = await make_user(town.stack)
    body = {"model": "openai/gpt-4o", "messages": HELLO, "stream": True, "act": "streams"}
    url, headers = f"{town.stack.base_url}/chat/completions", {"authorization": f"Bearer {user.token}"}
    async with http.post(url, json=body, headers=headers) as response:
        assert await response.read() == event("Slow.", finish="stop") + DONE
    assert json.loads(town.provider.asked[-1].body)["stream_options"] == {"include_usage": True}
    async with asyncio.timeout(15):
        while (await booked(town.stack)).get(user.email) != (1, 11, 5):
            await asyncio.sleep(0.05)
