"""A request body that streams by: each part goes on as it arrives, nothing is kept (rule H18).

Fails like a body that is read whole: BodyTooLargeError over its bound, by declared length before a byte is read and by counted
bytes; OverLimitError where its caller lets too many bodies arrive; BodyTimeoutError where it comes too slowly, or no more;
ClientGoneError where the client leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from sentinel.downstream.body_budget import Bodies, Receive, too_large, too_many
from sentinel.downstream.body_pace import Pace
from sentinel.ops.errors import BodyTimeoutError, ClientGoneError


class Upload:
    """One body of `caller` on its way through, to be iterated once. It counts among what its caller lets arrive, until `close`.

    `length` is what was declared, None where the body comes in chunks; `consumed` says that a part was taken, so that it cannot
    be sent again. `on_end` is called when the last part was given out, `on_gone` when the client leaves before that.
    """

    __slots__ = ("_bodies", "_bytes_max", "_caller", "_closed", "_on_end", "_on_gone", "_receive", "consumed", "length")

    def __init__(
        self,
        receive: Receive,
        length: int | None,
        bodies: Bodies,
        caller: str,
        *,
        bytes_max: int,
        on_end: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        if (length or 0) > bytes_max:
            raise too_large(bytes_max)
        if not bodies.arriving.take(caller):
            raise too_many()
        self._bodies = bodies
        self._bytes_max = bytes_max
        self._caller = caller
        self._closed = False
        self._receive = receive
        self._on_end = on_end
        self._on_gone = on_gone
        self.length = length
        self.consumed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts as they arrive, at the rate that any body must keep while it is waited for."""
        clock = asyncio.get_running_loop().time
        pace = Pace(self._bodies.bytes_per_s_min, self._bodies.timeout_s, clock())
        arrived_bytes, more = 0, True
        while more:
            try:
                async with asyncio.timeout_at(pace.due_s):
                    message = await self._receive()
            except TimeoutError:
                raise BodyTimeoutError("The request body did not arrive in time.") from None
            self.consumed = True
            if message["type"] == "http.disconnect":
                self._on_gone()
                raise ClientGoneError
            part = message.get("body", b"")
            arrived_bytes += len(part)
            if arrived_bytes > self._bytes_max:
                raise too_large(self._bytes_max)
            more = message.get("more_body", False)
            arrived_s = clock()
            pace.arrived(len(part), arrived_s)
            if part:
                yield part
                pace.paused(clock() - arrived_s)  # the provider took its time, not the client
        self._on_end()

    def close(self) -> None:
        """It arrives no more. Twice is harmless."""
        if not self._closed:
            self._closed = True
            self._bodies.arriving.give(self._caller)
