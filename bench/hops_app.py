"""What `bench.hops` has served: Sentinel with a clock at each of its hops, and two applications that do next to nothing.

Each answer tells in the header `x-marks` when it was where, in ns of the machine's monotonic clock, as `name:ns` in order.
"""

import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from bench.provider import COMPLETION
from sentinel import app
from sentinel.ledger.redis.connection import Connection as Redis
from sentinel.upstream.http1.connection import Connection as Provider

Message = MutableMapping[str, Any]
_marks: Final[list[bytes]] = []
_LENGTH: Final = (b"content-length", b"%d" % len(COMPLETION))


def mark(name: str) -> None:
    """It is here now."""
    _marks.append(b"%s:%d" % (name.encode(), time.monotonic_ns()))


class Floor:
    """Answers at once, after the body where it `reads`: what the server costs, with nothing behind it."""

    def __init__(self, *, reads: bool) -> None:
        self._reads = reads
        self.listener: socket.socket | None = None

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        """ASGI 3."""
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        _marks.clear()
        mark("called")
        if self._reads:
            await receive()
            mark("body")
        mark("answered")
        await send({"type": "http.response.start", "status": 200, "headers": [_LENGTH, (b"x-marks", b",".join(_marks))]})
        await send({"type": "http.response.body", "body": COMPLETION, "more_body": False})


class Marked(app.App):
    """Sentinel, that marks where a request is. For one request at a time."""

    def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> Any:
        """ASGI 3."""
        if scope["type"] != "http":
            return super().__call__(scope, receive, send)
        _marks.clear()
        mark("called")

        async def received() -> Message:
            message = await receive()
            mark("body")
            return message

        def sent(message: Message) -> Any:
            if message["type"] == "http.response.start":
                mark("answered")
                message["headers"] = [*message["headers"], (b"x-marks", b",".join(_marks))]
            return send(message)

        return super().__call__(scope, received, sent)


def marked() -> Marked:
    """Sentinel, with its two ways out watched."""
    _watch(Redis, "write", "Redis asked", before=False)
    _watch(Redis, "data_received", "Redis answered", before=True)
    _watch(Provider, "connection_made", "connected", before=True)
    _watch(Provider, "ask", "provider asked", before=False)
    _watch(Provider, "ask_plainly", "provider asked", before=False)
    _watch(Provider, "data_received", "provider answered", before=True)
    return Marked()


def constant() -> Floor:
    """Reads nothing."""
    return Floor(reads=False)


def reading() -> Floor:
    """Reads the body."""
    return Floor(reads=True)


def _watch(owner: type, name: str, said: str, *, before: bool) -> None:
    original = getattr(owner, name)

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        if before:
            mark(said)
            return original(self, *arguments, **options)
        done = original(self, *arguments, **options)
        mark(said)
        return done

    setattr(owner, name, watched)
