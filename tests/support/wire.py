"""A server on raw sockets that says given bytes, in given pieces, to each request, over TCP or TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HANG_UP = b""  # As a piece: the connection ends there.


@dataclass
class Wire:
    """`says` gives the pieces of the answer to request number n (from 0); `heads` are those that came, `connections` how many.

    `open` are the connections that the other side has not closed yet; `gate` holds every piece after the first back.
    """

    says: Callable[[int], list[bytes]]
    url: str = ""
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: list[bool] = field(default_factory=list)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.open.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        over_tls = writer.get_extra_info("ssl_object")
        if over_tls is not None:
            self.resumed.append(over_tls.session_reused)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                await reader.readexactly(length)
                self.heads.append(head)
                for number, piece in enumerate(self.says(len(self.heads) - 1)):
                    if number and not self.gate.is_set():
                        await self._held(reader)
                    if piece == HANG_UP:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self.open.discard(writer)
            self.tasks.discard(task)
            writer.close()

    async def _held(self, reader: asyncio.StreamReader) -> None:
        """Until the gate opens. ConnectionError where the other side closes before."""
        opened = asyncio.create_task(self.gate.wait())
        closed = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait([opened, closed], return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                raise ConnectionResetError
        finally:
            for one in (opened, closed):
                one.cancel()
            await asyncio.wait([opened, closed])


@asynccontextmanager
async def wire(
    says: Callable[[int], list[bytes]] | list[bytes], *, tls: ssl.SSLContext | None = None, hold: bool = False
) -> AsyncIterator[Wire]:
    """A server that listens on 127.0.0.1; a list is the answer to every request."""
    one = Wire(says if callable(says) else lambda _number: says)
    if not hold:
        one.gate.set()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=tls)
    one.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield one
    finally:
        server.close()
        for task in one.tasks:
            task.cancel()
        if one.tasks:
            await asyncio.wait(one.tasks)
