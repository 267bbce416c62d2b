"""An answer of the provider as others see it: its status and headers, and its body as it arrives.

Every failure of the body is UpstreamTimeoutError (silence, or a JSON answer that takes too long as a whole) or UpstreamError
(it broke off, or is not what it says). A reply that is not read to its end closes its connection, so that no half-read one
returns to the pool.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from sentinel.openai.response.content_kind import Kind
from sentinel.ops.records import Origin
from sentinel.upstream.http1.whole_answer import WholeAnswer

Headers = tuple[tuple[bytes, bytes], ...]

# Of whatever the provider itself says to what it was asked.
PLAINLY: Final = Origin()


class Reply(Protocol):
    """An answer whose headers are here and whose body is still arriving. `origin` says where it comes from."""

    status: int
    origin: Origin

    @property
    def headers(self) -> Headers:
        """All lines of its head."""
        ...

    async def read(self) -> bytes:
        """The next bytes as they arrive, b"" at the end. Raises UpstreamError or UpstreamTimeoutError."""
        ...

    async def pipe(self, sink: Callable[[bytes], bool]) -> bool:
        """Give the bytes to `sink` as they arrive, outside of any task: it must not fail, and says False where it wants no more
        for now. Then the answer is True, and `pipe` is to be called again; it is False at the end. Raises like `read`.
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
    stream, or its first bytes, or its end, came with the head. `kind` is what its label says, and `fits` that what came with
    the head does not contradict it; of JSON something must have come.
    """

    @property
    def ready(self) -> bool:
        """See above."""
        ...

    @property
    def kind(self) -> Kind:
        """See above."""
        ...

    @property
    def fits(self) -> bool:
        """See above."""
        ...

    def bound(self, *, as_stream: bool) -> None:
        """Bound the body by its moving alone, as a stream, or as a whole, as JSON (rule O1): by what it turned out to be."""
        ...


class ReplyWrapper:
    """A reply seen through another one: what a subclass does not change is the inner one's."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.status = reply.status
        self.headers: Headers = reply.headers
        self.origin = reply.origin

    async def read(self) -> bytes:
        """See Reply."""
        return await self._reply.read()

    async def pipe(self, sink: Callable[[bytes], bool]) -> bool:
        """See Reply. By `read`, since that is what subclasses change."""
        while chunk := await self.read():
            if not sink(chunk):
                return True
        return False

    async def more(self, within_s: float) -> bytes | None:
        """See Reply. By `read`, as `pipe`."""
        return await within(self, within_s)

    async def drain(self, timeout_s: float) -> None:
        """See Reply."""
        await self._reply.drain(timeout_s)

    def close(self) -> None:
        """See Reply."""
        self._reply.close()


class _AtOnce:
    """A success whose `body` is here."""

    __slots__ = ()

    body: bytes

    async def read(self) -> bytes:
        """See Reply."""
        body, self.body = self.body, b""  # type: ignore[misc]  # each subclass has its own place for it
        return body

    async def pipe(self, sink: Callable[[bytes], bool]) -> bool:
        """See Reply."""
        body = await self.read()
        return bool(body) and not sink(body)

    async def more(self, within_s: float) -> bytes | None:  # noqa: ARG002  there is nothing to wait for
        """See Reply: all of it is here."""
        return await self.read()

    async def drain(self, timeout_s: float) -> None:
        """See Reply: nothing is left that a connection would wait for."""

    def close(self) -> None:
        """See Reply: there is no connection."""


class Whole(_AtOnce):
    """One that was kept, or that was changed. `headers` are those beside its length."""

    __slots__ = ("body", "headers", "origin", "status")

    def __init__(self, headers: Headers, body: bytes, origin: Origin) -> None:
        self.status = 200
        self.headers: Headers = (*headers, (b"content-length", b"%d" % len(body)))
        self.origin = origin
        self.body = body


class Plain(_AtOnce, Struct, eq=False):
    """The `answer` of the provider in JSON, which came whole and in one read, so that its connection is given back."""

    answer: WholeAnswer
    body: bytes
    fits: bool
    origin: Origin = PLAINLY
    status: int = 200
    ready: bool = True
    kind: Kind = Kind.JSON

    @property
    def headers(self) -> Headers:
        """See Reply."""
        return self.answer.lines()

    def bound(self, *, as_stream: bool) -> None:
        """See Opened: there is nothing to wait for."""


class PrefetchedReply(ReplyWrapper):
    """A reply whose first bytes were read to see what they say: they come `first`, then the rest."""

    ready = True
    fits = True

    def __init__(self, reply: Opened, first: bytes) -> None:
        super().__init__(reply)
        self.kind = reply.kind
        self.bound = reply.bound
        self.first = first

    async def read(self) -> bytes:
        """See Reply."""
        first, self.first = self.first, b""
        return first or await self._reply.read()


async def begin(reply: Opened) -> PrefetchedReply:
    """`reply` with the first bytes of its body here: the server sends no head before them either, so a body that fails at its
    first byte can still be told as what it is, not as a defect of this gateway (rule E6).
    """
    try:
        return PrefetchedReply(reply, await reply.read())
    except BaseException:
        reply.close()
        raise


async def within(reply: Reply, within_s: float) -> bytes | None:
    """What `reply` gives within `within_s`, else None."""
    try:
        async with asyncio.timeout(within_s):
            return await reply.read()
    except TimeoutError:
        return None
