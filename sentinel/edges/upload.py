"""A request body that streams by: each part goes on as it arrives, nothing is kept (wire.md H18).

Fails like a body that is read whole: BodyTooLargeError over its bound, by declared length before a byte is read and by counted
bytes; BodyTimeoutError where parts stop to arrive; ClientGoneError where the client leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from sentinel.edges.bodies import Receive, too_large
from sentinel.errors import BodyTimeoutError, ClientGoneError


class Upload:
    """One body on its way through, to be iterated once.

    `length` is what was declared, None where the body comes in chunks; `consumed` says that a part was taken, so that it cannot
    be sent again. `on_end` is called when the last part was given out, `on_gone` when the client leaves before that.
    """

    __slots__ = ("_bytes", "_bytes_max", "_on_end", "_on_gone", "_receive", "_timeout_s", "consumed", "length")

    def __init__(
        self,
        receive: Receive,
        length: int | None,
        *,
        bytes_max: int,
        timeout_s: float,
        on_end: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._bytes = 0
        self._bytes_max = bytes_max
        self._receive = receive
        self._timeout_s = timeout_s
        self._on_end = on_end
        self._on_gone = on_gone
        self.length = length
        self.consumed = False
        if (length or 0) > bytes_max:
            raise too_large(bytes_max)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts as they arrive; `timeout_s` bounds the wait for each."""
        more = True
        while more:
            try:
                async with asyncio.timeout(self._timeout_s):
                    message = await self._receive()
            except TimeoutError:
                raise BodyTimeoutError(f"No part of the request body arrived within {self._timeout_s:g} s.") from None
            self.consumed = True
            if message["type"] == "http.disconnect":
                self._on_gone()
                raise ClientGoneError
            part = message.get("body", b"")
            self._bytes += len(part)
            if self._bytes > self._bytes_max:
                raise too_large(self._bytes_max)
            more = message.get("more_body", False)
            if part:
                yield part
        self._on_end()
