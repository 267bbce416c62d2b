"""What goes up: a request's body, known or still arriving from the client, and the time the provider has for it.

Fails as what keeps the body from coming fails: the exception of an upload's iterator ends the request, and is kept as it is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import msgspec

from sentinel.errors import ClientGoneError, UpstreamError

# The slowest that a known body is waited for; a provider that takes less than this does not take the request.
_UPLOAD_BYTES_PER_S: Final = 65_536


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


class Patience(msgspec.Struct, frozen=True):
    """How long the provider may take, from the end of a request: to the headers of its answer, and to the end of a JSON one."""

    first_byte_s: float
    total_s: float


class Sending:
    """One request on its way up. `deadline` is when its answer is late; it moves as the request does.

    Whoever waits sets it for the connection. While the provider does not take a part of an upload, `idle_s` counts; while the
    client does not send one, nothing, since that is bounded elsewhere; from its end on, the first byte of the answer.
    """

    __slots__ = (
        "_body",
        "_deadline",
        "_idle_s",
        "_loop",
        "_on_sent",
        "_parts",
        "_patience",
        "_sent_bytes",
        "done",
        "ends_s",
        "failure",
        "on_failure",
        "sent",
    )

    def __init__(
        self,
        body: bytes | Upload,
        on_sent: Callable[[], None],
        deadline: asyncio.Timeout,
        patience: Patience,
        idle_s: float,
    ) -> None:
        self.sent = False
        self.done = False
        self.ends_s = 0.0
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] | None = None
        self._body = body
        self._parts: AsyncIterator[bytes] | None = None
        self._sent_bytes = 0
        self._on_sent = on_sent
        self._deadline: asyncio.Timeout | None = deadline
        self._patience = patience
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()

    @property
    def content(self) -> "bytes | Sending | None":
        """What the library is to send."""
        return self._body or None if isinstance(self._body, bytes) else self

    def head_sent(self) -> None:
        """The head is on its way: from now on the provider may work. Raises UpstreamError where its body is gone.

        The library sends some methods again by itself where a pooled connection turns out to be dead.
        """
        if isinstance(self._body, bytes):
            # The library's own time-out for reading begins when the body is written, which a provider could delay for ever.
            self._wait_for_answer(len(self._body) / _UPLOAD_BYTES_PER_S)
            self.done = True
        elif self._body.consumed:
            raise UpstreamError("The provider broke off before it answered.", retry=False)
        else:
            self._move(None)
        self.sent = True
        self._on_sent()

    def stop_waiting(self) -> None:
        """The headers of the answer are here, or will never be: `deadline` has served."""
        self._deadline = None
        if not self.ends_s:
            # An answer to a request that is still being sent.
            self.ends_s = self._loop.time() + self._patience.total_s

    def __aiter__(self) -> "Sending":
        return self

    async def __anext__(self) -> bytes:
        """The next part of an upload; asked for when the provider has taken the one before."""
        assert not isinstance(self._body, bytes)
        if self._parts is None:
            self._parts = aiter(self._body)
        self._move(None)
        try:
            part = await anext(self._parts)
        except StopAsyncIteration:
            if self._body.length is not None and self._sent_bytes < self._body.length:
                raise self._fail(ClientGoneError()) from None
            self._wait_for_answer(0)
            self.done = True
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's, as it is
            raise self._fail(error) from None
        self._sent_bytes += len(part)
        self._move(self._loop.time() + self._idle_s)
        return part

    def _fail(self, error: Exception) -> Exception:
        self.failure = error
        if self.on_failure is not None:
            self.on_failure()
        return error

    def _wait_for_answer(self, allowance_s: float) -> None:
        now_s = self._loop.time() + allowance_s
        self.ends_s = now_s + self._patience.total_s
        # Whether the answer is one that is bounded as a whole is known only when its headers are here.
        self._move(now_s + self._patience.first_byte_s)

    def _move(self, when_s: float | None) -> None:
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(when_s)
