"""One connection to the provider and the exchange that is on it, if there is one.

Fails as BrokenError (what came is no answer, or the connection ended too soon), LateError (nothing came in time), or as what
`fail` was given. Only a connection whose request was sent and whose answer came as a whole, without a byte after it, is used
again; any other is aborted at the end of its exchange, so that nothing of it can reach the next.
"""

import asyncio
import math
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from sentinel.edges.http.answer import Answer
from sentinel.edges.http.deadline import Deadline
from sentinel.edges.http.failures import BrokenError, LateError
from sentinel.edges.http.pouring import Pouring

# What one connection keeps for a reader that is slower than the other side, and for another side that is slower than we.
BUFFERED_BYTES_MAX: Final = 65_536
# Up to here head and body are joined, so that they leave in one piece; above it the copy would cost more than it saves.
_JOINED_BYTES_MAX: Final = 16_384


class Connection(asyncio.Protocol):
    """Made by a Client. It may wait in the pool until the loop's time is `idle_until_s`.

    An exchange: `ask`, then `answered`, then `read` until b"" or `pour` until False, then `end`. `on_free` is called where it
    may be used again, `on_lost` once when it is gone.
    """

    __slots__ = (
        "_answer",
        "_asked",
        "_deadline",
        "_error",
        "_on_free",
        "_on_lost",
        "_poll",
        "_pouring",
        "_reading",
        "_room",
        "_transport",
        "_waiter",
        "idle_until_s",
        "loop",
        "lost",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_free: Callable[["Connection", float | None], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.idle_until_s = 0.0
        self.lost = False
        self.loop = loop
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._answer = Answer()
        self._asked = False
        self._error: Exception | None = None
        self._reading = True
        # Whoever waits for the answer; and whoever waits for room to send, None where there is room.
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        # Who is given what comes of the body; None where somebody waits to be woken up.
        self._pouring: Pouring | None = None
        self._deadline = Deadline(loop, self._late)

    def ask(self, head: bytes, body: bytes, *, bodiless: bool = False, until_s: float = math.inf) -> None:
        """Send a request, or the head of one whose body follows by `send`. `bodiless`: its answer has none (HEAD).

        Its head is waited for until the loop's time is `until_s`, or what `expect` says afterwards.
        """
        assert self._transport is not None
        assert not self._asked
        self._asked = True
        self._answer.begin(bodiless=bodiless)
        self._deadline.put(until_s)
        if len(body) <= _JOINED_BYTES_MAX:
            self._transport.write(head + body if body else head)
        else:
            self._transport.writelines((head, body))

    async def send(self, *parts: bytes) -> None:
        """Send more of the request's body; waits until the other side has taken enough of it. Raises BrokenError."""
        if self._error is None and not self.lost:
            assert self._transport is not None
            self._transport.writelines(parts)
            if self._room is not None:
                await self._room
        if self._error is not None or self.lost:
            raise BrokenError("the connection ended before the request did")

    def expect(self, when_s: float) -> None:
        """Let whoever waits for the answer wait until the loop's time is `when_s`, and no longer; `math.inf` for ever."""
        self._deadline.put(when_s)

    async def answered(self) -> Answer:
        """The answer, once its head is here. Raises BrokenError, LateError, or what `fail` was given."""
        assert self._asked
        answer = self._answer
        while not answer.begun:
            if self._error is not None:
                raise self._error
            self._waiter = self.loop.create_future()
            await self._waiter
        return answer

    async def read(self, idle_s: float, ends_s: float) -> bytes:
        """What came of the body in one arrival, b"" at its end. Waits `idle_s` at most, and not beyond the loop time `ends_s`.

        Raises like `answered`, after what had arrived before.
        """
        assert self._asked
        while not self._answer.arrivals:
            if self._answer.whole:
                return b""
            await self._arrival(idle_s, ends_s)
        arrived = self._answer.take()
        self._make_room()
        return arrived

    async def pour(self, sink: Callable[[bytes], bool], idle_s: float, ends_s: float) -> bool:
        """Give what comes of the body to `sink` as it comes, without waking a task up: until `sink` says False, for no more now
        (then this is True), or the body ends (False). Waits and raises like `read`, or what `sink` raises.
        """
        assert self._asked
        pouring = Pouring(sink, idle_s, ends_s)
        while pouring.give(self._answer):
            if self._answer.whole:
                return False
            self._make_room()
            self._pouring = pouring
            try:
                await self._arrival(idle_s, ends_s)
            finally:
                self._pouring = None
        if pouring.error is not None:
            self.fail(pouring.error)
            raise pouring.error
        self._make_room()
        return True

    async def _arrival(self, idle_s: float, ends_s: float) -> None:
        """Wait until something has come, or an end."""
        if self._error is not None:
            raise self._error
        now_s = self.loop.time()
        if now_s >= ends_s:
            raise LateError
        self._deadline.put(min(now_s + idle_s, ends_s))
        self._waiter = self.loop.create_future()
        await self._waiter

    def _make_room(self) -> None:
        if not self._reading and self._answer.buffered < BUFFERED_BYTES_MAX // 2:
            self._resume()

    def fail(self, error: Exception) -> None:
        """End the exchange by `error`: it is raised to its reader, and the connection is lost."""
        self._error = self._error or error
        self.abort()
        self._wake()

    def end(self, *, sent: bool) -> None:
        """The exchange is over; `sent` says that its request was sent as a whole. Twice is harmless."""
        if not self._asked:
            return
        self._asked = False
        self._deadline.when_s = math.inf
        answer, transport = self._answer, self._transport
        assert transport is not None
        fit = sent and answer.whole and answer.keeps and self._error is None
        if fit and not transport.is_closing() and not transport.get_write_buffer_size():
            if not self._reading:
                self._resume()
            self._on_free(self, answer.keep_s)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once. A close in good order would wait for the other side, for which nobody waits any more."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self._answer.drop()
            self._deadline.close()

    def quiet(self) -> bool:
        """Whether nothing has come since the last exchange: no byte and no end, also not one the loop has yet to see."""
        assert self._transport is not None
        assert self._poll is not None
        return not (self.lost or self._transport.is_closing() or self._poll.poll(0))

    def session(self) -> ssl.SSLSession | None:
        """What a next connection over TLS can resume; None where this one is plain, or the other side gave nothing."""
        assert self._transport is not None
        over_tls = self._transport.get_extra_info("ssl_object")
        return over_tls.session if over_tls is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=BUFFERED_BYTES_MAX)
        wire = transport.get_extra_info("socket")
        # uvloop and asyncio both do this by default, and neither promises it.
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(wire.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._asked:
            # Whatever it is, it must not become the answer to the next request.
            self.abort()
            return
        answer = self._answer
        try:
            answer.feed(data)
        except BrokenError as error:
            self.fail(error)
            return
        if self._pouring is not None and self._poured(self._pouring):
            return
        waiter = self._waiter
        if waiter is not None and answer.begun and not waiter.done():
            waiter.set_result(None)
        if answer.buffered > BUFFERED_BYTES_MAX and self._reading:
            assert self._transport is not None
            self._reading = False
            self._transport.pause_reading()

    def _poured(self, pouring: Pouring) -> bool:
        """Give what came to who takes it. Whether more is to come for it; else the task that pours is woken up."""
        if not pouring.give(self._answer) or self._answer.whole:
            self._pouring = None
            return False
        idle_ends_s = self.loop.time() + pouring.idle_s
        # Written out: `min` would be a call for each event of a stream.
        self._deadline.when_s = idle_ends_s if idle_ends_s < pouring.ends_s else pouring.ends_s  # noqa: FURB136
        return True

    def eof_received(self) -> None:
        """See asyncio.Protocol; the transport closes itself after this."""
        if not self._asked:
            return
        try:
            self._answer.end()
        except BrokenError as error:
            self._error = self._error or error
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.lost = True
        self._deadline.close()
        self._error = self._error or BrokenError(str(exc or "the connection was closed"))
        self._answer.drop()
        self._wake()
        self.resume_writing()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._room = self.loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _resume(self) -> None:
        assert self._transport is not None
        self._reading = True
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _late(self) -> None:
        # Where nobody waits, nothing is late; whoever waits next puts the deadline anew.
        if self._wake():
            self._error = LateError()

    def _wake(self) -> bool:
        """Whether somebody has waited."""
        if self._waiter is None or self._waiter.done():
            return False
        self._waiter.set_result(None)
        return True
