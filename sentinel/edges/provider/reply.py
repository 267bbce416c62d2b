"""An answer of the provider: its status and headers, and its body as it arrives.

Every failure of the body is UpstreamTimeoutError (silence, or a JSON answer that takes too long as a whole) or UpstreamError
(it broke off, or is not what it says). A reply that is not read to its end closes its connection, so that no half-read one
returns to the pool.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol

from sentinel.edges.http import Answer, BrokenError, Connection, LateError
from sentinel.edges.provider.upload import Sending
from sentinel.errors import UpstreamError, UpstreamTimeoutError
from sentinel.protocol.inflate import Inflater, readable
from sentinel.records import Origin

Headers = tuple[tuple[bytes, bytes], ...]

_STREAM: Final = b"text/event-stream"
# Of whatever the provider itself says to what it was asked.
_PLAINLY: Final = Origin()


class Reply(Protocol):
    """An answer whose headers are here and whose body is still arriving. `origin` says where it comes from."""

    status: int
    headers: Headers
    origin: Origin

    async def read(self) -> bytes:
        """The next bytes as they arrive, b"" at the end. Raises UpstreamError or UpstreamTimeoutError."""
        ...

    async def pour(self, sink: Callable[[bytes], bool]) -> bool:
        """Give the bytes to `sink` as they arrive, outside of any task: it must not fail, and says False where it wants no more
        for now. Then the answer is True, and `pour` is to be called again; it is False at the end. Raises like `read`.
        """
        ...

    async def more(self, within_s: float) -> bytes | None:
        """Like `read`, but None where nothing comes within `within_s`; the answer can still be read on."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Read and drop what is left, for at most `timeout_s`, so that the connection can be used again."""
        ...

    def close(self) -> None:
        """Give the connection back if the body is complete, else close it. Twice is harmless."""
        ...


class Opened(Reply, Protocol):
    """A reply as the edge gives it. `ready`: nothing of its body need be waited for before its head may go down, since it is a
    stream, or its first bytes, or its end, came with the head.
    """

    ready: bool


class Through:
    """A reply seen through another one: what a subclass does not change is the inner one's."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.status = reply.status
        self.headers = reply.headers
        self.origin = reply.origin

    async def read(self) -> bytes:
        """See Reply."""
        return await self._reply.read()

    async def pour(self, sink: Callable[[bytes], bool]) -> bool:
        """See Reply. By `read`, since that is what subclasses change."""
        while chunk := await self.read():
            if not sink(chunk):
                return True
        return False

    async def more(self, within_s: float) -> bytes | None:
        """See Reply. By `read`, as `pour`."""
        return await _within(self, within_s)

    async def drain(self, timeout_s: float) -> None:
        """See Reply."""
        await self._reply.drain(timeout_s)

    def close(self) -> None:
        """See Reply."""
        self._reply.close()


class Begun(Through):
    """A reply whose first bytes were read to see what they say: they come first, then the rest."""

    ready = True

    def __init__(self, reply: Reply, first: bytes) -> None:
        super().__init__(reply)
        self._first = first

    async def read(self) -> bytes:
        """See Reply."""
        first, self._first = self._first, b""
        return first or await self._reply.read()


def opened(
    connection: Connection, answer: Answer, sending: Sending | None, release: Callable[[], None], idle_s: float, ends_s: float
) -> Opened:
    """The reply over an answer whose headers are here; `release` is called once when it is closed.

    An answer in JSON has an end in sight, so it is bounded as a whole, by the loop time `ends_s`; a stream or a download may go
    on as long as it moves (wire.md O1). JSON and streams are read here, so they are made plain where they came compressed
    (wire.md H5). Raises UpstreamError where they came compressed in another way; the connection is still the caller's then.
    """
    media = answer.media
    is_json = media == b"application/json" or media.endswith(b"+json")
    is_stream = media == _STREAM
    codings = _codings(answer.codings) if answer.codings and (is_json or is_stream) else []
    if codings and (len(codings) > 1 or not readable(codings[0])):
        raise UpstreamError("The provider's answer is compressed in a way nobody asked for.", retry=False)
    reply = _Answered(connection, answer, sending, release, idle_s, ends_s if is_json else math.inf)
    if codings:
        return _Inflated(reply, codings[0], ready=is_stream)
    reply.ready = is_stream or reply.ready
    return reply


async def _within(reply: Reply, within_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(within_s):
            return await reply.read()
    except TimeoutError:
        return None


def _codings(lists: list[bytes]) -> list[bytes]:
    names = [name.strip().lower() for value in lists for name in value.split(b",")]
    return [name for name in names if name not in {b"", b"identity"}]


class _Answered:
    """A reply over an answer that is arriving; `sending` is the upload it answers, if it is one."""

    __slots__ = ("_answer", "_connection", "_ends_s", "_idle_s", "_release", "_sending", "headers", "origin", "ready", "status")

    def __init__(
        self,
        connection: Connection,
        answer: Answer,
        sending: Sending | None,
        release: Callable[[], None],
        idle_s: float,
        ends_s: float,
    ) -> None:
        self._connection: Connection | None = connection
        self._answer = answer
        self._sending = sending
        self._release = release
        self._idle_s = idle_s
        self._ends_s = ends_s
        self.status = answer.status
        self.headers: Headers = answer.headers
        self.origin = _PLAINLY
        self.ready = answer.whole or bool(answer.arrivals)

    async def read(self) -> bytes:
        """See Reply. What ended the request's own body, if something did, is raised as it is."""
        if self._connection is None:
            raise _closed()
        if self._answer.whole and not self._answer.arrivals:
            return b""
        try:
            return await self._connection.read(self._idle_s, self._ends_s)
        except (LateError, BrokenError) as error:
            raise _failure(error) from error

    async def pour(self, sink: Callable[[bytes], bool]) -> bool:
        """See Reply, and `read`."""
        if self._connection is None:
            raise _closed()
        try:
            return await self._connection.pour(sink, self._idle_s, self._ends_s)
        except (LateError, BrokenError) as error:
            raise _failure(error) from error

    async def more(self, within_s: float) -> bytes | None:
        """See Reply. A timer is made only where there is something to wait for."""
        if self._connection is None or self._answer.whole or self._answer.arrivals:
            return await self.read()
        return await _within(self, within_s)

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
        self._release()


def _closed() -> UpstreamError:
    return UpstreamError("This answer was closed before it was read to its end.", retry=False)


def _failure(error: LateError | BrokenError) -> UpstreamError:
    if isinstance(error, LateError):
        return UpstreamTimeoutError("The provider fell silent in the middle of its answer.")
    return UpstreamError("The provider broke off in the middle of its answer.", retry=False)


class _Inflated(Through):
    """A reply made plain: without the headers that speak of the compressed bytes, of which neither may stay alone."""

    def __init__(self, reply: Reply, coding: bytes, *, ready: bool) -> None:
        super().__init__(reply)
        self.ready = ready
        self.headers = tuple(
            (name, value) for name, value in reply.headers if name.lower() not in {b"content-encoding", b"content-length"}
        )
        self._inflater = Inflater(coding)

    async def read(self) -> bytes:
        """See Reply; a piece at a time, however much one read holds."""
        try:
            while True:
                if piece := self._inflater.piece():
                    return piece
                chunk = await self._reply.read()
                if not chunk:
                    self._inflater.end()
                    return b""
                self._inflater.feed(chunk)
        except ValueError as error:
            raise UpstreamError("The provider broke off in the middle of its answer.", retry=False) from error
