"""What a worker's memory grows to under each attack on it: `python -m bench.attacked_memory [NAME ...]`.

One worker with the default settings, a real Redis, a provider that does not answer, four callers who mean ill. For each attack
the most resident memory that the worker had (the kernel's own figure) less what it had before, and what it has five seconds
after. docs/guarantees.md has the figures of a run. Nothing is asserted. Linux only.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sentinel.devstack.stack import Stack
from tests.support.memory import begin_peak, peak_bytes, rss_bytes, worker_pid
from tests.support.raw import RawConnection, request
from tests.support.running import User, make_user
from tests.support.scripted import Asked, Scripted

MB: Final = 2**20
_SETTINGS: Final = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_DRAIN_SECONDS": "1",
    "SENTINEL_UPSTREAM_IDLE_TIMEOUT_SECONDS": "60",
}
_CALLERS: Final = 4
_HOLD_S: Final = 9.0
_AFTER_S: Final = 5.0
_EMOJI: Final = "\N{GRINNING FACE}".encode()


def _chat(user: User, content: bytes, *, length: int = 0) -> bytes:
    """A chat, or the beginning of one of this length."""
    body = b'{"model":"gpt-4o","act":"waits","messages":[{"role":"user","content":' + content + b"}]}"
    lines = [f"Authorization: Bearer {user.token}", "Content-Type: application/json"]
    return request("POST", "/v1/chat/completions", *lines)[:-2] + b"Content-Length: %d\r\n\r\n" % (length or len(body)) + body


def _emoji(user: User) -> bytes:
    return _chat(user, b'"' + b"x" * (32 * MB - 200) + _EMOJI + b'"')


def _text(user: User) -> bytes:
    return _chat(user, b'"' + b"x" * (32 * MB - 200) + b'"')


def _objects(user: User) -> bytes:
    return _chat(user, b"[" + b",".join([b'{"":0}'] * 160_000) + b"]")


def _small_objects(user: User) -> bytes:
    return _chat(user, b"[" + b",".join([b'{"":0}'] * 570) + b"]")


def _unended(user: User) -> bytes:
    return _chat(user, b'"' + b"x" * (31 * MB), length=32 * MB)


def _promised(user: User) -> bytes:
    return _chat(user, b'"', length=32 * MB)


def _half_a_head(_user: User) -> bytes:
    return request("POST", "/v1/chat/completions", *_LINES)[:-2]


def _a_head_without_a_token(_user: User) -> bytes:
    return request("POST", "/v1/chat/completions", *_LINES)[:-2] + b"Content-Length: 1000000\r\n\r\n"


_LINES: Final = [f"X-{number}: {'x' * 1200}" for number in range(97)]
# How many at a time, and what each says.
ATTACKS: Final[dict[str, tuple[int, Callable[[User], bytes]]]] = {
    "8 texts of 32 MiB": (8, _text),
    "8 texts of 32 MiB with an emoji": (8, _emoji),
    "20 x 1.1 MiB of 160 000 objects": (20, _objects),
    "1000 x 4 KiB of 570 objects": (1000, _small_objects),
    "64 bodies of 31 of 32 MiB": (64, _unended),
    "1000 promises of 32 MiB": (1000, _promised),
    "1000 x 120 kB, half a head": (1000, _half_a_head),
    "1000 x 120 kB, a head without a token": (1000, _a_head_without_a_token),
}


async def _waits(asked: Asked, _writer: asyncio.StreamWriter) -> None:
    asked.body = b""
    await asyncio.sleep(3600)


async def _one(stack: Stack, said: bytes, seen: Counter[str]) -> None:
    """Say this and wait for an answer, for a while after all of it was said."""
    async with RawConnection(stack.port) as connection:
        await connection.send(said)
        try:
            async with asyncio.timeout(_HOLD_S):
                seen[str((await connection.answer()).status)] += 1
        except TimeoutError:
            seen["waits"] += 1
        except (EOFError, ConnectionError):
            seen["closed"] += 1
        else:
            await asyncio.sleep(_HOLD_S)


@asynccontextmanager
async def _running() -> AsyncIterator[tuple[Stack, list[User]]]:
    """A fresh stack, warm, and its callers."""
    with tempfile.TemporaryDirectory() as directory:
        async with Scripted() as provider:
            provider.acts["waits"] = _waits
            async with Stack(Path(directory), workers=1, settings=_SETTINGS | {"OPENAI_API_URL": provider.url}) as stack:
                users = [await make_user(stack, input=10**12, output=10**12) for _ in range(_CALLERS)]
                for user in users:
                    async with RawConnection(stack.port) as connection:
                        await connection.send(_chat(user, b'"hi"'))
                        await asyncio.sleep(0.5)
                yield stack, users


async def measure(name: str) -> dict[str, object]:
    """One attack on a stack of its own."""
    count, says = ATTACKS[name]
    async with _running() as (stack, users):
        said = [says(user) for user in users]
        pid = worker_pid(stack)
        begin_peak(pid)
        before, seen, begun_s = rss_bytes(stack), Counter[str](), time.monotonic()
        await asyncio.gather(*(_one(stack, said[number % _CALLERS], seen) for number in range(count)))
        seconds, peak = time.monotonic() - begun_s, peak_bytes(pid)
        await asyncio.sleep(_AFTER_S)
        return {
            "attack": name,
            "sent_mib": round(count * len(said[0]) / MB, 1),
            "before_mib": round(before / MB),
            "peak_mib": round((peak - before) / MB),
            "after_mib": round((rss_bytes(stack) - before) / MB),
            "seconds": round(seconds, 1),
            "answers": dict(seen),
        }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacked_memory")
    parser.add_argument("names", nargs="*", help=f"which attacks: words of {', '.join(ATTACKS)}")
    words = parser.parse_args().names
    for name in ATTACKS:
        if not words or any(word in name for word in words):
            print(json.dumps(asyncio.run(measure(name))), flush=True)


if __name__ == "__main__":
    main()
