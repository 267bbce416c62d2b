"""Sentinel inside this process, called as the server calls it, with a real Redis, a Zion and a provider as processes beside it.

What does not come up raises `StackError`; an answer that is not the expected one raises AssertionError.
"""

import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from bench.zion import token
from sentinel import app
from sentinel.devstack.child import Child
from sentinel.devstack.redis_server import RedisServer

BODY: Final = (
    b'{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a patient teacher of geography who answers in a '
    b'few plain sentences, and who says so where something is not known."},{"role":"user","content":"Why does a river grow '
    b'wider and slower towards its mouth, and what becomes of the sand it carries with it on its way to the sea?"}]'
    b',"temperature":0.7,"max_tokens":256,"user":"bench"}'
)
STREAMED: Final = BODY[:-1] + b',"stream":true}'
# A turn of a coding agent: its calls are named after functions, and it says who it is in maps of its own.
AGENT: Final = (
    BODY[:-1].replace(
        b"}],",
        b'},{"role":"assistant","tool_calls":[{"id":"file_read-1758","type":"function","function":{"name":"file_read",'
        b'"arguments":"{}"}}]},{"role":"tool","tool_call_id":"file_read-1758","content":"# Of \\"rivers\\""}],',
    )
    + b',"metadata":{"session_id":"0199a1c4","thread_id":"0199a1c4"},"prompt_cache_key":"thread_7"}'
)
_STEP: Final = b"GET /step HTTP/1.1\r\n\r\n"
_URL: Final = re.compile(r"http://\S+")


def everything_on(redis: str, zion: str, provider: str, directory: Path) -> dict[str, str]:
    """The environment of a Sentinel with all that a request can cost: three limits, the window, journal, reports and metrics.

    The window is wide, so that it counts and never refuses, and who waits for its turn may wait long. The log says errors only,
    unless the caller sets it.
    """
    return {
        "REDIS_URL": redis,
        "ZION_API_URL": zion,
        "ZION_API_KEY": "bench",
        "SENTINEL_ZION_REQUESTS_PER_SECOND": "9999",
        "SENTINEL_PROVIDER": "openai",
        "OPENAI_API_KEY": "sk-bench",
        "OPENAI_API_URL": provider,
        "SENTINEL_RATE_LIMIT_REQUESTS": "100000000",
        "SENTINEL_REDIS_TIMEOUT_SECONDS": "1",
        "SENTINEL_TURN_WAIT_SECONDS": "60",
        "SENTINEL_DATA_DIR": str(directory / "journal"),
        "SENTINEL_LOG_LEVEL": "error",
        "SENTINEL_DRAIN_SECONDS": "5",
        "SENTINEL_WORKERS": "1",
    }


async def start_stand_in(name: str, directory: Path) -> tuple[Child, str]:
    """`bench.{name}` as a process, and its URL. StackError where it does not come up."""
    child = Child(name, [sys.executable, "-m", f"bench.{name}"], log=directory / f"{name}.log", environ=os.environ)

    async def says_where() -> bool:
        return _URL.search(child.output()) is not None

    await child.start(says_where, timeout_s=30)
    found = _URL.search(child.output())
    assert found is not None
    return child, found[0]


class InProcess:
    """The application and what it needs; everything on, log off, with `more` settings."""

    def __init__(self, directory: Path, more: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._more = more or {}
        self._redis = RedisServer(directory / "redis")
        self._children: list[Child] = []
        self._app = app.create()
        self._inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._outbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._lifespan: asyncio.Task[None] | None = None
        self._steps: socket.socket | None = None

    @property
    def redis_url(self) -> str:
        """The Redis that Sentinel uses."""
        return self._redis.url

    @property
    def application(self) -> Any:
        """The ASGI callable."""
        return self._app

    async def open(self) -> None:
        """Start all of it."""
        await self._redis.start()
        urls = []
        for name in ("zion", "provider"):
            child, url = await start_stand_in(name, self._directory)
            self._children.append(child)
            urls.append(url)
        host, port = urls[1].removeprefix("http://").partition("/")[0].split(":")
        self._steps = socket.create_connection((host, int(port)))
        os.environ.update({**everything_on(self._redis.url, urls[0], urls[1], self._directory), **self._more})
        self._lifespan = asyncio.ensure_future(self._app({"type": "lifespan"}, self._inbox.get, self._outbox.put))
        await self._tell("startup")

    async def close(self) -> None:
        """Stop all of it."""
        await self._tell("shutdown")
        assert self._steps is not None
        self._steps.close()
        for child in reversed(self._children):
            await child.stop(timeout_s=5)
        await self._redis.stop()

    async def chat(self, body: bytes = BODY, wish: bytes = b"", name: str = "bench", status: int = 200) -> bytes:
        """One chat completion of a caller; the body of its answer. `wish` is for the provider (`bench.provider`)."""
        return await call(self._app, body, token_of(name), wish, status, self._step if b"stepped" in wish else None)

    def _step(self) -> None:
        assert self._steps is not None
        self._steps.send(_STEP)

    async def _tell(self, what: str) -> None:
        self._inbox.put_nowait({"type": f"lifespan.{what}"})
        answer = await self._outbox.get()
        assert answer["type"] == f"lifespan.{what}.complete", answer


_tokens: dict[str, bytes] = {}


def token_of(name: str) -> bytes:
    """The token of a caller, made once."""
    if name not in _tokens:
        _tokens[name] = token(name).encode()
    return _tokens[name]


async def call(
    application: Any, body: bytes, bearer: bytes, wish: bytes, status: int = 200, seen: Callable[[], None] | None = None
) -> bytes:
    """One request to an ASGI application that is to answer with `status`: what a server would give it, without the server.

    `seen` is called at each part of the answer but the last.
    """
    parts: list[bytes] = []
    given = False
    gone = asyncio.get_running_loop().create_future()
    headers = [
        (b"host", b"127.0.0.1:8080"),
        (b"user-agent", b"OpenAI/Python 2.0.0"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"authorization", b"Bearer " + bearer),
        (b"x-stainless-lang", b"python"),
        (b"x-stainless-retry-count", b"0"),
    ]
    if wish:
        headers.append((b"x-title", wish))
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await gone
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == status, message
        else:
            parts.append(message["body"])
            if seen is not None and message.get("more_body", False):
                seen()

    await application(scope, receive, send)
    return b"".join(parts)
