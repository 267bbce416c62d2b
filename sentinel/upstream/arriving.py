"""Replies over an answer that is arriving on a connection, which is given back where the answer came as a whole.

Fails as `Reply` says.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

from sentinel.openai.response.content_kind import Kind, is_usual
from sentinel.ops.errors import UpstreamError, UpstreamTimeoutError
from sentinel.upstream.decompressed import Inflated, coding_of
from sentinel.upstream.http1 import Answer, BrokenError, Connection, LateError
from sentinel.upstream.reply import PLAINLY, Headers, Opened, within
from sentinel.upstream.upload import Sending

_STREAM: Final = b"text/event-stream"


def opened(connection: Connection, answer: Answer, sending: Sending | None, idle_s: float, ends_s: float) -> Opened:
    """The reply over an answer whose headers are here.

    An answer in JSON has an end in sight, so it is bounded as a whole, by the loop time `ends_s`; a stream or a download may go
    on as long as it moves (rule O1). JSON and streams are read here, so they are made plain where they came compressed
    (rule H5). Raises UpstreamError where they came compressed in another way; the connection is still the caller's then.
    """
    media = answer.media
    is_json = media == b"application/json" or media.endswith(b"+json")
    is_stream = media == _STREAM
    coding = coding_of(answer.codings, answer.status) if answer.codings and (is_json or is_stream) else b""
    reply = _Answered(connection, answer, sending, idle_s, ends_s)
    if is_json:
        reply.bounded_s = ends_s
        reply.kind = Kind.JSON
        reply.fits = bool(answer.arrivals) and is_usual(answer.arrivals[0]) is not None
    elif is_stream:
        reply.ready = True
        reply.kind = Kind.EVENTS
        # Markup is what a page begins with, and no event; nor is there one in what is empty.
        reply.fits = not answer.arrivals[0].startswith(b"<") if answer.arrivals else not answer.whole
    return Inflated(reply, coding, reply.kind) if coding else reply


class _Answered:
    """A reply over an answer that is arriving; `sending` is the upload it answers, if it is one."""

    __slots__ = (
        "_answer",
        "_connection",
        "_ends_s",
        "_idle_s",
        "_sending",
        "bounded_s",
        "fits",
        "headers",
        "kind",
        "origin",
        "ready",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        answer: Answer,
        sending: Sending | None,
        idle_s: float,
        ends_s: float,
    ) -> None:
        self._connection: Connection | None = connection
        self._answer = answer
        self._sending = sending
        self._idle_s = idle_s
        self._ends_s = ends_s
        self.status = answer.status
        self.headers: Headers = answer.headers
        self.origin = PLAINLY
        self.ready = answer.whole or bool(answer.arrivals)
        self.kind = Kind.OTHER
        self.fits = False
        # Until when it must be whole.
        self.bounded_s = math.inf

    async def read(self) -> bytes:
        """See Reply. What ended the request's own body, if something did, is raised as it is."""
        if self._connection is None:
            raise _closed()
        if self._answer.whole and not self._answer.arrivals:
            return b""
        try:
            return await self._connection.read(self._idle_s, self.bounded_s)
        except (LateError, BrokenError) as error:
            raise _failure(error) from error

    async def pipe(self, sink: Callable[[bytes], bool]) -> bool:
        """See Reply, and `read`."""
        if self._connection is None:
            raise _closed()
        try:
            return await self._connection.pipe(sink, self._idle_s, self.bounded_s)
        except (LateError, BrokenError) as error:
            raise _failure(error) from error

    def bound(self, *, as_stream: bool) -> None:
        """See Opened."""
        self.bounded_s = math.inf if as_stream else self._ends_s

    async def more(self, within_s: float) -> bytes | None:
        """See Reply. A timer is made only where there is something to wait for."""
        if self._connection is None or self._answer.whole or self._answer.arrivals:
            return await self.read()
        return await within(self, within_s)

    async def drain(self, timeout_s: float) -> None:
        """See Reply."""
        if self._connection is None or self._answer.whole:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while await self.read():
                    pass
        except (TimeoutError, UpstreamError):
            # The client has its whole answer; only the connection is lost.
            self.close()

    def close(self) -> None:
        """See Reply."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._sending is not None:
            self._sending.stop()
        connection.end(sent=self._sending is None or self._sending.done)


def _closed() -> UpstreamError:
    return UpstreamError("This answer was closed before it was read to its end.", retry=False)


def _failure(error: LateError | BrokenError) -> UpstreamError:
    if isinstance(error, LateError):
        return UpstreamTimeoutError("The provider fell silent in the middle of its answer.")
    return UpstreamError("The provider broke off in the middle of its answer.", retry=False)
