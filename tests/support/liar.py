"""A provider on a raw socket that does what no HTTP library would: what the body's `act` says, to the byte."""

import asyncio
import json
from typing import Any

HELLO = (
    b'{"id":"x","object":"chat.completion","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
)


class Liar:
    """`url` is what OPENAI_API_URL is to be; `asked` lists the acts in the order of their requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "Liar":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
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
        try:
            while head := await _head(reader):
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                body = json.loads(await reader.readexactly(length))
                self.asked.append(body["act"])
                if not await self._act(body["act"], writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._open.discard(task)
            writer.close()

    async def _act(self, act: str, writer: asyncio.StreamWriter) -> bool:
        """Answer; whether the connection stays open."""
        plain = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        answers = {
            "well": b"HTTP/1.1 200 OK\r\n" + plain % (len(HELLO), HELLO),
            "huge header": b"HTTP/1.1 200 OK\r\nx-big: " + b"x" * 70_000 + b"\r\n" + plain % (len(HELLO), HELLO),
            "status 99": b"HTTP/1.1 099 Odd\r\n" + plain % (len(HELLO), HELLO),
            "status 700": b"HTTP/1.1 700 Odd\r\n" + plain % (len(HELLO), HELLO),
            "redirect": b"HTTP/1.1 307 Away\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            "garbage": b"\x00\x01 this is not HTTP\r\n\r\n",
            "key quoted": b"HTTP/1.1 401 No\r\n" + plain % (len(HELLO), HELLO),
            "500 without a body": b"HTTP/1.1 500 Oh\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
            "short": b"HTTP/1.1 200 OK\r\n" + plain % (len(HELLO) + 50, HELLO),
            "reset": b"",
            "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        }
        writer.write(answers[act])
        await writer.drain()
        if act == "500 without a body":
            await asyncio.sleep(60)
        return act in {"well", "redirect", "key quoted"}


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
