"""One connection to the provider and the exchange that is on it, if there is one.

Fails as BrokenError (what came is no answer, or the connection ended too soon), LateError (nothing came in time), or as what
`fail` was given. Only a connection whose request was sent and whose answer came as a whole, without a byte after it, is used
again; any other is aborted at the end of its exchange, so that nothing of it can reach the next.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from sentinel.upstream.http1 import whole_answer
from sentinel.upstream.http1.answer import Answer
from sentinel.upstream.http1.body_sink import BodySink
from sentinel.upstream.http1.deadline import Deadline
from sentinel.upstream.http1.failures import BrokenError, LateError
from sentinel.upstream.http1.outgoing import BUFFERED_BYTES_MAX, JOINED_BYTES_MAX, Outgoing
from sentinel.upstream.http1.whole_answer import WholeAnswer
from sentinel.upstream.http1.whole_chunks import one


class Connection(Outgoing):
    """Made by a Client. It may wait in the pool until the loop's time is `idle_until_s`.

    An exchange: `ask`, then `answered`, then `read` until b"" or `pipe` until False, then `end`. Where a plain answer is
    likely, `ask_plainly` instead of `ask`; if that comes whole, the exchange is over with it, and no `end` may follow.
    `on_free` is called at its end with how long it may be kept, 0 where it may not; `on_lost` once when it is gone. Between two
    exchanges its Answer is as `begin` leaves it.
    """

    __slots__ = (
        "_answer",
        "_asked",
        "_deadline",
        "_error",
        "_first",
        "_on_free",
        "_on_lost",
        "_pouring",
        "_reading",
        "_waiter",
        "idle_until_s",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_free: Callable[["Connection", float | None], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        super().__init__(loop)
        self.idle_until_s = 0.0
        self._on_free = on_free
        self._on_lost = on_lost
        self._answer = Answer()
        self._asked = False
        self._error: Exception | None = None
        self._reading = True
        # Whoever waits for the answer.
        self._waiter: asyncio.Future[Any] | None = None
        # Who waits for the first read of an answer, which may be all of it.
        self._first: asyncio.Future[WholeAnswer | None] | None = None
        # Who is given what comes of the body; None where somebody waits to be woken up.
        self._pouring: BodySink | None = None
        self._deadline = Deadline(loop, self._late)

    def ask(self, head: bytes, body: bytes, *, bodiless: bool = False, until_s: float = math.inf) -> None:
        """Send a request, or the head of one whose body follows by `send`. `bodiless`: its answer has none (HEAD).

        Its head is waited for until the loop's time is `until_s`, or what `expect` says afterwards.
        """
        assert not self._asked
        self._asked = True
        if bodiless:
            self._answer.begin(bodiless=True)
        self._deadline.put(until_s)
        self._begin(head, body)

    def ask_plainly(self, head: bytes, body: bytes, until_s: float) -> "asyncio.Future[WholeAnswer | None]":
        """Send a whole request whose answer will most likely be plain, and come whole in one read: that answer, and the
        exchange is over. None where it is not so, or fails: `answered` says what it is, after None at once.
        """
        assert not self._asked
        self._asked = True
        deadline = self._deadline
        deadline.when_s = until_s
        if until_s < deadline.rings_s:
            deadline.put(until_s)
        if len(body) <= JOINED_BYTES_MAX:
            self.write(head + body)
        else:
            self._begin(head, body)
        self._first = self._waiter = first = self.loop.create_future()
        return first

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

    async def pipe(self, sink: Callable[[bytes], bool], idle_s: float, ends_s: float) -> bool:
        """Give what comes of the body to `sink` as it comes, without waking a task up: until `sink` says False, for no more now
        (then this is True), or the body ends (False). Waits and raises like `read`, or what `sink` raises.
        """
        assert self._asked
        pouring = BodySink(sink, idle_s, ends_s)
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
        self._first = None
        answer = self._answer
        fit = sent and answer.whole and answer.keeps and self._error is None
        if not fit or self.closes() or self.unsent():
            self._on_free(self, 0)
            return
        if not self._reading:
            self._resume()
        keep_s = answer.keep_s
        answer.begin()
        self._on_free(self, keep_s)

    def abort(self) -> None:
        """Close at once. A close in good order would wait for the other side, for which nobody waits any more."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self._answer.drop()
            self._deadline.close()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        pouring, answer = self._pouring, self._answer
        if pouring is not None and answer.between and (found := one(data)) is not None:
            size, content = found.groups()
            if len(content) == int(size, 16):
                # One whole chunk, as nearly every event of a stream: all that it costs is written out.
                try:
                    takes_more = pouring.sink(content)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is raised to the task that pours
                    pouring.error, takes_more = error, False
                if takes_more:
                    idle_ends_s = self.loop.time() + pouring.idle_s
                    self._deadline.when_s = idle_ends_s if idle_ends_s < pouring.ends_s else pouring.ends_s  # noqa: FURB136
                else:
                    pouring.full, self._pouring = True, None
                    self._wake()
                return
        if not self._asked:
            # Whatever it is, it must not become the answer to the next request.
            self.abort()
            return
        first = self._first
        if first is not None:
            self._first = None
            # An answer to a request that is not all sent yet is an odd one.
            if not first.done() and not self.unsent() and (taken := whole_answer.read(data)) is not None:
                first.set_result(taken)
                self._asked = False
                self._deadline.when_s = math.inf
                self._on_free(self, taken.keep_s)
                return
        try:
            answer.feed(data)
        except BrokenError as error:
            self.fail(error)
            return
        if pouring is not None and self._poured(pouring):
            return
        waiter = self._waiter
        if waiter is not None and answer.begun and not waiter.done():
            waiter.set_result(None)
        if answer.buffered > BUFFERED_BYTES_MAX and self._reading:
            assert self._transport is not None
            self._reading = False
            self._transport.pause_reading()

    def _poured(self, pouring: BodySink) -> bool:
        """Give what came to who takes it. Whether more is to come for it; else the task that pours is woken up."""
        if not pouring.give(self._answer) or self._answer.whole:
            self._pouring = None
            return False
        self._deadline.when_s = min(self.loop.time() + pouring.idle_s, pouring.ends_s)
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
