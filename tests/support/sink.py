"""A raw socket that takes uploads: it remembers the head and a digest of each body, and answers when it is told to."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

TAKEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
HALF = b"HTTP/1.1 413 No\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nnope"
TOO_LARGE = b"HTTP/1.1 413 No\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnope"


@dataclass
class Sink:
    """`early` bytes of a body are taken before it answers; None: all of them. `closed` is set by the end of a connection."""

    early: int | None = None
    refusal: bytes = TOO_LARGE
    reads: bool = True
    url: str = ""
    head: bytes = b""
    length: int = 0
    connections: int = 0
    requests: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    serving: set[asyncio.Task[Any]] = field(default_factory=set)
    digest: Any = field(default_factory=hashlib.sha256)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while True:
                self.head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                self.length, self.digest = 0, hashlib.sha256()
                if not self.reads:
                    await asyncio.sleep(60)
                if await self._take(reader):
                    writer.write(TAKEN)
                else:
                    writer.write(self.refusal)
                    await writer.drain()
                    while await reader.read(65536):
                        pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self.serving.discard(task)
            self.closed.set()
            writer.close()

    async def _take(self, reader: asyncio.StreamReader) -> bool:
        """Whether the whole body was taken."""
        lines = self.head.lower().split(b"\r\n")
        chunked = b"transfer-encoding: chunked" in lines
        left = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        while self.early is None or self.length < self.early:
            if chunked:
                left = int(await reader.readline(), 16)
                part = await reader.readexactly(left)
                await reader.readexactly(2)
            else:
                part = await reader.read(min(left, 65536))
                left -= len(part)
            self.digest.update(part)
            self.length += len(part)
            if not part or (not chunked and left == 0):
                return True
        return False


@asynccontextmanager
async def sink(**options: Any) -> AsyncIterator[Sink]:
    """A sink that listens."""
    one = Sink(**options)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
        for task in one.serving:
            task.cancel()
        if one.serving:
            await asyncio.wait(one.serving)
