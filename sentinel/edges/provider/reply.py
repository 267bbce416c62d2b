"""An answer of the provider: its status and headers, and its body as it arrives.

Every failure of the body is UpstreamTimeoutError (silence, or a JSON answer that takes too long as a whole) or UpstreamError
(it broke off, or is not what it says). A reply that is not read to its end closes its connection, so that no half-read one
returns to the pool.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import aiohttp

from sentinel.edges.provider.upload import Sending
from sentinel.errors import UpstreamError, UpstreamTimeoutError
from sentinel.protocol.inflate import Inflater, readable
from sentinel.records import Origin

Headers = tuple[tuple[bytes, bytes], ...]


class Reply(Protocol):
    """An answer whose headers are here and whose body is still arriving. `origin` says where it comes from."""

    status: int
    headers: Headers
    origin: Origin

    async def read(self) -> bytes:
        """The next bytes as they arrive, b"" at the end. Raises UpstreamError or UpstreamTimeoutError."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Read and drop what is left, for at most `timeout_s`, so that the connection can be used again."""
        ...

    def close(self) -> None:
        """Give the connection back if the body is complete, else close it. Twice is harmless."""
        ...


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

    async def drain(self, timeout_s: float) -> None:
        """See Reply."""
        await self._reply.drain(timeout_s)

    def close(self) -> None:
        """See Reply."""
        self._reply.close()


class Begun(Through):
    """A reply whose first bytes were read to see what they say: they come first, then the rest."""

    def __init__(self, reply: Reply, first: bytes) -> None:
        super().__init__(reply)
        self._first = first

    async def read(self) -> bytes:
        """See Reply."""
        first, self._first = self._first, b""
        return first or await self._reply.read()


def opened(response: aiohttp.ClientResponse, sending: Sending, release: Callable[[], None], idle_s: float) -> Reply:
    """The reply over a response whose headers are here; `release` is called once when it is closed.

    An answer in JSON has an end in sight, so it is bounded as a whole; a stream or a download may go on as long as it moves
    (wire.md O1). JSON and streams are read here, so they are made plain where they came compressed (wire.md H5). Raises
    UpstreamError, with the response closed, where they came compressed in another way.
    """
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media == "application/json" or media.endswith("+json")
    connection = response.connection
    if connection is not None and connection.protocol is not None and not response.content.is_eof():
        connection.protocol.read_timeout = idle_s
        connection.protocol.start_timeout()
    reply = _AiohttpReply(response, sending, release, sending.ends_s if is_json else None)
    encoded = response.headers.getall("content-encoding", None)
    codings = _codings(encoded) if encoded and (is_json or media == "text/event-stream") else []
    if not codings:
        return reply
    if len(codings) > 1 or not readable(codings[0]):
        response.close()
        raise UpstreamError("The provider's answer is compressed in a way nobody asked for.", retry=False)
    return _Inflated(reply, codings[0])


def _codings(lists: list[str]) -> list[bytes]:
    names = [name.strip().lower().encode("utf-8", "surrogateescape") for value in lists for name in value.split(",")]
    return [name for name in names if name not in {b"", b"identity"}]


class _AiohttpReply:
    """A reply over an aiohttp response; `ends_s` is the loop time by which it must be whole, None where there is none."""

    __slots__ = ("_ends_s", "_release", "_response", "_sending", "headers", "origin", "status")

    def __init__(
        self, response: aiohttp.ClientResponse, sending: Sending, release: Callable[[], None], ends_s: float | None
    ) -> None:
        self._response = response
        self._sending = sending
        self._release: Callable[[], None] | None = release
        self._ends_s = ends_s
        self.status = response.status
        self.headers: Headers = response.raw_headers
        self.origin = Origin()
        # A request that fails on its way up ends the answer to it.
        sending.on_failure = response.close

    async def read(self) -> bytes:
        """See Reply. What ended the request's own body, if something did, is raised as it is."""
        try:
            if self._ends_s is None or self._response.content.is_eof():
                # Unbounded, or all of it is here: nothing is waited for.
                return await self._response.content.readany()
            async with asyncio.timeout_at(self._ends_s):
                return await self._response.content.readany()
        except TimeoutError:  # also aiohttp's own
            raise UpstreamTimeoutError("The provider fell silent in the middle of its answer.") from None
        except (aiohttp.ClientError, OSError) as error:
            if self._sending.failure is not None:
                raise self._sending.failure from None
            raise UpstreamError("The provider broke off in the middle of its answer.", retry=False) from error

    async def drain(self, timeout_s: float) -> None:
        """See Reply."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.read():
                    pass
        except (TimeoutError, UpstreamError):
            # The client has its whole answer; only the connection is lost.
            self._response.close()

    def close(self) -> None:
        """See Reply."""
        if self._release is None:
            return
        self._release()
        self._release = None
        self._sending.on_failure = None
        if self._response.content.at_eof() and self._sending.done:
            self._response.release()
        else:
            self._response.close()


class _Inflated(Through):
    """A reply made plain: without the headers that speak of the compressed bytes, of which neither may stay alone."""

    def __init__(self, reply: Reply, coding: bytes) -> None:
        super().__init__(reply)
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
