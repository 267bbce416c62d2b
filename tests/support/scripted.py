"""A provider on a raw socket whose answers a test writes itself, to the byte and to the moment.

A request is given to the act that its body names (`"act": "name"`), or, where that is no JSON, to the one of its path. It also
records when its client, which is Sentinel, closed the connection.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str, *, finish: str | None = None, index: int = 0) -> bytes:
    """One event of a chat stream."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return (
        b"data: " + json.dumps({"id": "chatcmpl-x", "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    )


def usage(prompt: int, completion: int) -> bytes:
    """The usage event of a chat stream."""
    figures = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    body = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "choices": [], "usage": figures}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def plain(body: bytes, *, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    """A whole answer with its length."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


@dataclass
class Asked:
    """One request as it arrived; `gone` is set when the other side closed its connection before the answer was whole."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def header(self, name: str) -> str | None:
        """The value of a header, None where it was not sent."""
        return next((value for key, value in self.headers if key == name), None)


Act = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def answers(body: bytes) -> Act:
    """An act that is `body` where no stream was asked for, and a short stream where one was."""

    async def act(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if b'"stream": true' in asked.body:
            writer.write(STREAM_HEAD + chunk(event("a", finish="stop")) + chunk(usage(3, 1) + DONE) + END)
        else:
            writer.write(plain(body))

    return act


def floods(events: int) -> Act:
    """An act that streams so many events of 60 kB, as fast as they are taken."""

    async def act(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for _ in range(events):
            writer.write(chunk(event("x" * 60_000)))
            await writer.drain()
        writer.write(chunk(event("", finish="stop") + usage(1, 1) + DONE) + END)

    return act


class Scripted:
    """`url` is what OPENAI_API_URL is to be; `acts` are what it plays, `asked` what it was asked, in order."""

    def __init__(self) -> None:
        self.acts: dict[str, Act] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "Scripted":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while (asked := await _read(reader)) is not None:
                self.asked.append(asked)
                await self._play(asked, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._open.discard(task)
            writer.close()

    async def _play(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play the act, and notice if the other side closes meanwhile. ConnectionError then, or where the act has closed."""
        path = asked.target.partition("?")[0]
        name = json.loads(asked.body)["act"] if asked.body.startswith(b"{") else path
        act = asyncio.ensure_future(self.acts[name](asked, writer))
        closed = asyncio.create_task(_closed(reader))
        try:
            await asyncio.wait([act, closed], return_when=asyncio.FIRST_COMPLETED)
            if not act.done():
                asked.gone.set()
                raise ConnectionResetError
            await act
            await writer.drain()
        finally:
            for one in (act, closed):
                one.cancel()
            await asyncio.wait([act, closed])
        if writer.is_closing():
            raise ConnectionResetError


async def _closed(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.005)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    return Asked(method, target, headers, await reader.readexactly(length))
