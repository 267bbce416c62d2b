"""What goes up: a request's body that is still arriving from the client, and the time the provider has for it.

Fails as what keeps the body from coming fails: the exception of an upload's iterator ends the exchange, and reaches whoever
waits for its answer as it is.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from sentinel.ops.errors import BadRequestError, ClientGoneError
from sentinel.upstream.http1 import Connection


class Upload(Protocol):
    """A body that is passed on as it arrives: `length` bytes, or as many as come where it is None (chunked).

    `consumed` says that a part of it was taken: then it cannot be sent again. The iterator may raise whatever the caller of
    `Provider.send` is to get; it is asked from another task than the one that waits for the answer.
    """

    @property
    def length(self) -> int | None:
        """In bytes; None where the client did not say."""

    @property
    def consumed(self) -> bool:
        """Whether a part was taken."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its parts, once."""


class Timeouts(msgspec.Struct, frozen=True):
    """How long the provider may take, from the end of a request: to the headers of its answer, and to the end of a JSON one."""

    first_byte_s: float
    total_s: float


class Sending:
    """One upload on its way up, in a task of its own, over a connection whose head is sent.

    While the provider does not take a part, `idle_s` counts; while the client does not send one, nothing, since that is bounded
    elsewhere; from its end on, the first byte of the answer. `ends_s` is the loop time by which a JSON answer must be whole.
    """

    __slots__ = ("_answered", "_body", "_connection", "_idle_s", "_loop", "_patience", "_task", "done", "ends_s")

    def __init__(self, body: Upload, connection: Connection, patience: Timeouts, idle_s: float) -> None:
        self.done = False
        self.ends_s = math.inf
        self._answered = False
        self._body = body
        self._connection = connection
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._task = self._loop.create_task(self._pass_on())

    def answered(self) -> None:
        """The headers of the answer are here, perhaps to a request that is still being sent."""
        self._answered = True
        if not self.done:
            self.ends_s = self._loop.time() + self._patience.total_s

    def stop(self) -> None:
        """Take no more of the body. Twice is harmless."""
        self._task.cancel()

    async def _pass_on(self) -> None:
        try:
            await self._send_parts()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's, as it is
            self._connection.fail(error)
            return
        self.done = True
        if not self._answered:
            # Whether the answer is one that is bounded as a whole is known only when its headers are here.
            now_s = self._loop.time()
            self.ends_s = now_s + self._patience.total_s
            self._expect(now_s + self._patience.first_byte_s)

    async def _send_parts(self) -> None:
        length = self._body.length
        sent_bytes = 0
        async for part in self._body:
            sent_bytes += len(part)
            if length is not None and sent_bytes > length:
                # The rest would be read as another request.
                raise BadRequestError("The request body is longer than its Content-Length.")
            if not part:
                continue
            self._expect(self._loop.time() + self._idle_s)
            if length is None:
                await self._connection.send(b"%x\r\n" % len(part), part, b"\r\n")
            else:
                await self._connection.send(part)
            self._expect(math.inf)
        if length is None:
            await self._connection.send(b"0\r\n\r\n")
        elif sent_bytes < length:
            raise ClientGoneError

    def _expect(self, when_s: float) -> None:
        if not self._answered:
            self._connection.expect(when_s)
