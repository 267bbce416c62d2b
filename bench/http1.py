"""The least of HTTP/1.1 that a stand-in needs: requests come in whole, answers go out as they are given.

For the clients of benches alone: a length that is none raises ValueError, which ends the connection. A body in chunks, as some
gateways send it, is not put together: nobody here reads one.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Final, cast

import uvloop

_LENGTH: Final = b"content-length:"
_CODING: Final = b"transfer-encoding:"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection; a subclass answers each request in `asked`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self.on_resume: Callable[[], None] | None = None

    def asked(self, head: bytes, body: bytes) -> None:
        """One request: its head as it came, with the request line, and its body."""
        raise AssertionError(f"nobody answers {head!r}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own are no subclass

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.on_resume is not None:
            self.on_resume()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[: end + 2])
            if header(head, _CODING):
                whole = self._buffer.find(_LAST_CHUNK, end + 2) + len(_LAST_CHUNK)
                if whole < len(_LAST_CHUNK):
                    return
            else:
                whole = end + 4 + int(header(head, _LENGTH) or b"0")
            if len(self._buffer) < whole:
                return
            body = bytes(self._buffer[end + 4 : whole])
            del self._buffer[:whole]
            self.asked(head, body)

    def write(self, data: bytes) -> None:
        """Send, unless the other side has left."""
        if self.transport is not None:
            self.transport.write(data)


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header, `name` in lower case and with its colon; b"" where it is not there."""
    lower = head.lower()
    at = lower.find(b"\r\n" + name)
    if at < 0:
        return b""
    start = at + 2 + len(name)
    return head[start : head.index(b"\r\n", start)].strip()


def plain(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    """A whole answer in JSON."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def chunk(data: bytes) -> bytes:
    """One chunk of a body without a length."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def serve(made: Callable[[], Connection], path: str) -> None:
    """Listen on a free port, print `http://127.0.0.1:PORT{path}` as the first line, and serve until SIGTERM or SIGINT."""
    uvloop.run(_serve(made, path))


async def _serve(made: Callable[[], Connection], path: str) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    server = await loop.create_server(made, "127.0.0.1", 0, backlog=8192)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
