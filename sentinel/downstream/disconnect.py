"""A request as the server gives it, part by part, and the moment its client leaves: both come over the same channel.

While nobody asks for the body, its first part may be received ahead, so that it is heard behind it when the client leaves.
Never fails: who leaves interrupts the section.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from sentinel.downstream.cancel_scope import CancelScope
from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import ClientGoneError

Message = MutableMapping[str, Any]

# Bodies whose length has more digits (10 KB and longer) stay with the server, where they count for nothing, until they are
# asked for.
_AHEAD_DIGITS_MAX: Final = 4


class DisconnectListener(CancelScope):
    """A section that ends with ClientGoneError when the client leaves, as soon as somebody listens (`listen`)."""

    headers: Fields

    _receive: Callable[[], Awaitable[Message]]
    _body_read = False
    _watch: "asyncio.Future[Message] | None" = None
    # What was received before it was asked for.
    _ahead: Message | None = None

    @property
    def listens(self) -> bool:
        """Whether the request was read, and it will be heard when the client leaves."""
        return self._body_read and self._watch is not None

    def listen(self) -> None:
        """Listen from now on, where the request was read or its body is not asked for yet."""
        if self._watch is None and (self._body_read or (self._ahead is None and self._is_small())):
            self._listen()

    def leave(self) -> None:
        """The client has left."""
        self.interrupt(ClientGoneError())

    async def take(self) -> Message:
        """The next part of the request. One at a time, and only while the request is not read."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead
        watch, self._watch = self._watch, None
        if watch is None:
            return await self._receive()
        watch.remove_done_callback(self._heard)
        return await watch

    def _is_small(self) -> bool:
        """Whether the body is little, and has not to be asked for."""
        first = self.headers.first
        little = len(first.get(b"content-length", b"")) <= _AHEAD_DIGITS_MAX and not first.get(b"transfer-encoding")
        return little and not first.get(b"expect")

    def _listen(self) -> None:
        # What Granian gives is a future already, which needs no task to wait for it.
        self._watch = asyncio.ensure_future(self._receive())
        self._watch.add_done_callback(self._heard)

    def _heard(self, watch: "asyncio.Future[Message]") -> None:
        if watch.cancelled() or watch is not self._watch:
            return  # whoever took it, when it had come already, has the message
        message = watch.result()
        if message["type"] == "http.disconnect":
            self.leave()
            return
        if not self._body_read and self._ahead is None:
            # The server says that nothing follows in a message of its own; who declared a length has said so before.
            whole = b"%d" % len(message.get("body", b"")) == self.headers.first.get(b"content-length")
            more = message.get("more_body", False) and not whole
            self._ahead = {**message, "more_body": more}
            if more:
                self._watch = None  # the rest waits for whoever reads the body
                return
        self._listen()
