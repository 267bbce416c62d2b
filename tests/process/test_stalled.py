"""A client that does not take its answer, through real Granian: it is noticed, ended, and billed for what was produced."""

import asyncio
import json
from pathlib import Path

import pytest

from sentinel.devstack.stack import Stack
from tests.support.running import HELLO, booked, make_user
from tests.support.scripted import Scripted, floods

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def test_who_takes_nothing_is_ended_and_billed(tmp_path: Path) -> None:
    """Rule D6: past the idle bound the request ends, though the client stays connected, and what was produced is paid."""
    async with Scripted() as provider:
        provider.acts["flood"] = floods(1500)
        settings = {
            "OPENAI_API_URL": provider.url,
            "SENTINEL_RATE_LIMIT_REQUESTS": "0",
            "SENTINEL_REPORT_INTERVAL_MS": "20",
            "SENTINEL_DOWNSTREAM_IDLE_TIMEOUT_SECONDS": "1",
        }
        async with Stack(tmp_path, workers=1, settings=settings) as stack:
            user = await make_user(stack)
            body = json.dumps({"model": "gpt-4o", "messages": HELLO, "stream": True, "act": "flood"}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\n"
            _, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=65536)
            writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            async with asyncio.timeout(20):
                while user.email not in (sums := await booked(stack)):
                    await asyncio.sleep(0.05)
            requests, _, output_tokens = sums[user.email]
            assert requests == 1
            assert output_tokens > 1
            assert stack.child("sentinel").output().count("client does not read") == 1
            writer.close()
