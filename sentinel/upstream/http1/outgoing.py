"""The half of a connection that sends: its transport, and whether there is room on it. What fails is told by the other half."""

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

# What one connection keeps for a reader that is slower than the other side, and for another side that is slower than we.
BUFFERED_BYTES_MAX: Final = 65_536
# Up to here head and body are joined, so that they leave in one piece; above it the copy would cost more than it saves.
JOINED_BYTES_MAX: Final = 16_384


class Outgoing(asyncio.Protocol):
    """`lost` says that the connection is gone. Once it is made, functions that are not ours `write` to it, and tell of it:
    `closes`, whether it is about to end, `unsent`, how many bytes wait to leave, and `stirs` (given 0), whether something has
    come that was not read: a byte or an end, also one the loop has yet to see.
    """

    __slots__ = ("_room", "_transport", "closes", "loop", "lost", "stirs", "unsent", "write")

    write: Callable[[bytes], None]
    closes: Callable[[], bool]
    unsent: Callable[[], int]
    stirs: Callable[[int], object]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost = False
        self.loop = loop
        self._transport: asyncio.Transport | None = None
        # Whoever waits for room to send, None where there is room.
        self._room: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=BUFFERED_BYTES_MAX)
        wire = transport.get_extra_info("socket")
        # uvloop and asyncio both do this by default, and neither promises it.
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll = select.poll()
        poll.register(wire.fileno(), select.POLLIN)
        self.write, self.unsent = self._transport.write, self._transport.get_write_buffer_size
        self.closes, self.stirs = transport.is_closing, poll.poll

    def session(self) -> ssl.SSLSession | None:
        """What a next connection over TLS can resume; None where this one is plain, or the other side gave nothing."""
        assert self._transport is not None
        over_tls = self._transport.get_extra_info("ssl_object")
        return over_tls.session if over_tls is not None else None

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._room = self.loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _begin(self, head: bytes, body: bytes) -> None:
        """Send what a request begins with, or all of it, at once."""
        assert self._transport is not None
        if len(body) <= JOINED_BYTES_MAX:
            self.write(head + body if body else head)
        else:
            self._transport.writelines((head, body))
