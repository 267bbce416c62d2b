"""What a prompt of 1 MB costs the other requests of its worker (rule K3): `python -m bench.large_prompt`.

Small chats go one after another through one worker, first alone, then while another process sends one large prompt after the
other. Printed as JSON: the latency of the small ones, both ways, in ms, and the difference.
"""

import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from sentinel.devstack.stack import Stack

_SMALL = 400
_LARGE_CHARACTERS = 1_000_000
_SENTENCE = "The river was wide and slow in the evening. "
_SETTINGS = {"SENTINEL_RATE_LIMIT_REQUESTS": "0"}
_LIMITS = {"ai_requests": 10**9, "ai_input_tokens": 10**12, "ai_output_tokens": 10**12}


def _body(text: str) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}], "max_tokens": 1}).encode()


async def _chat(http: aiohttp.ClientSession, url: str, token: str, body: bytes) -> float:
    """One chat; its latency in ms. RuntimeError unless it is answered well."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    begun_s = time.perf_counter()
    async with http.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
        answer = await response.read()
        if response.status != 200:
            raise RuntimeError(answer.decode())
    return (time.perf_counter() - begun_s) * 1000


async def _small_ones(http: aiohttp.ClientSession, url: str, token: str) -> list[float]:
    body = _body("Say something about rivers.")
    return [await _chat(http, url, token, body) for _ in range(_SMALL)]


async def _large_ones(url: str, token: str) -> list[float]:
    """One large prompt after the other, until this process is told to stop."""
    # Never the same text twice: counts are remembered.
    bodies = [_body(f"{number} " + _SENTENCE * (_LARGE_CHARACTERS // len(_SENTENCE))) for number in range(200)]
    async with aiohttp.ClientSession() as http:
        return [await _chat(http, url, token, body) for body in bodies]


def _shown(latencies_ms: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies_ms, n=100)
    return {"p50": round(cuts[49], 2), "p90": round(cuts[89], 2), "p99": round(cuts[98], 2), "max": round(max(latencies_ms), 2)}


@asynccontextmanager
async def _child(*arguments: str) -> AsyncIterator[str]:
    """Another process of this bench, with its first line once it is ready."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    try:
        yield (await child.stdout.readline()).decode().strip()
    finally:
        child.kill()
        await child.wait()


async def measure() -> dict[str, object]:
    """The figures. Starts and stops a stack of its own, with a provider that does not count: else it would stall as well."""
    with tempfile.TemporaryDirectory() as directory:
        async with _child("bench.provider") as url:
            settings = _SETTINGS | {"OPENAI_API_URL": url}
            async with Stack(Path(directory), workers=1, settings=settings) as stack, aiohttp.ClientSession() as http:
                user = {"externalId": "bench", "email": "bench@example.test", "permitted": True, "limits": _LIMITS}
                token = (await stack.control("zion", "users", user))["jwt"]
                await _small_ones(http, stack.url, token)
                alone = await _small_ones(http, stack.url, token)
                async with _child("bench.large_prompt", stack.url, token):
                    beside = await _small_ones(http, stack.url, token)
    added = {name: round(_shown(beside)[name] - _shown(alone)[name], 2) for name in ("p50", "p90", "p99")}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.python_implementation()} {platform.python_version()}"
    return {"machine": machine, "alone_ms": _shown(alone), "beside_1_mb_ms": _shown(beside), "added_ms": added}


async def _send_large(url: str, token: str) -> None:
    print("ready", flush=True)
    await _large_ones(url, token)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(_send_large(*sys.argv[1:]))
    else:
        print(json.dumps(asyncio.run(measure()), indent=2))
