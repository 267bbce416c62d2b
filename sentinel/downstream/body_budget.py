"""The bodies of requests that a worker reads into memory: the bounds of one, and what all of them share (rule H13).

Fails closed: BodyTooLargeError (413) by declared length before a byte is read and by counted bytes, BodyTimeoutError (408)
where it is late or too slow, OverLimitError (429) where its caller has taken its share, OverloadedError (503) where others
leave too little, ClientGoneError where the client leaves. Nothing waits for room, since whoever waits holds a body too.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from msgspec import Struct

from sentinel.downstream.body_pace import GRACE_S, Pace
from sentinel.downstream.fair_share import Shares
from sentinel.ops.errors import BodyTimeoutError, BodyTooLargeError, ClientGoneError, OverLimitError, OverloadedError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_RETRY_AFTER_S: Final = 1


class Bodies:
    """What a worker has for bodies. One may have `bytes_max` and take `timeout_s` in all, at `bytes_per_s_min` or more.

    `memory` are the bytes of all that are held, but for those of up to `small_bytes`: these always find room, since as many of
    them as there are connections take little. `arriving` counts those that are waited for. `first_s` is how long a first part
    may take.
    """

    __slots__ = ("arriving", "bytes_max", "bytes_per_s_min", "first_s", "memory", "small_bytes", "timeout_s")

    def __init__(
        self, memory: Shares, arriving: Shares, *, bytes_max: int, small_bytes: int, timeout_s: float, bytes_per_s_min: int
    ) -> None:
        self.memory = memory
        self.arriving = arriving
        self.bytes_max = bytes_max
        self.small_bytes = min(small_bytes, bytes_max)
        self.timeout_s = timeout_s
        self.bytes_per_s_min = bytes_per_s_min
        self.first_s = min(GRACE_S if bytes_per_s_min else timeout_s, timeout_s)


class Body(Struct):
    """One body, declared to be of `length` bytes (-1: it comes in chunks), of `caller`, waited for since `begun_s`.

    Its bytes count from when they are here, not from when they are promised, until `forget`: `bytes_taken`, with those of what
    is decoded of it. `arriving` says that it counts among what its caller lets arrive, until `arrived`. `due_s` is when its
    next part is late; 0 before the first.
    """

    bodies: Bodies
    caller: str
    length: int
    begun_s: float
    due_s: float = 0.0
    arriving: bool = False
    bytes_taken: int = 0

    async def read(self, come: list[Message], receive: Receive, clock: Callable[[], float]) -> bytes:
        """All of it: what has `come`, which is taken out of there, and then what `receive` gives.

        Raises BodyTooLargeError, OverLimitError, OverloadedError or ClientGoneError.
        """
        bodies = self.bodies
        pace: Pace | None = None
        body: bytes | bytearray = b""
        try:
            while True:
                message = come.pop() if come else await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                size = len(body) + len(part)
                if size > bodies.bytes_max:
                    raise too_large(bodies.bytes_max)
                # The server says that nothing follows in a message of its own; who declared a length has said so before.
                last = size == self.length or not message.get("more_body", False)
                if size > bodies.small_bytes:
                    self.take(size)
                if not body and last:
                    return bytes(part)
                # A bytearray joins tiny parts in place: a list of 1-byte parts would cost 60 bytes each.
                body = bytearray(body) if isinstance(body, bytes) else body
                body += part
                if last:
                    return bytes(body)
                pace = pace or Pace(bodies.bytes_per_s_min, bodies.timeout_s, self.begun_s)
                pace.arrived(len(part), clock())
                self.due_s = min(pace.due_s, self.begun_s + bodies.timeout_s)
        finally:
            body = b""  # an error keeps this frame for as long as it is known

    def late(self, now_s: float) -> BodyTimeoutError | OverLimitError | None:
        """Why it is not waited for any longer, None where it is: then it counts among what its caller lets arrive."""
        if now_s > (self.due_s or self.begun_s + self.bodies.first_s):
            return BodyTimeoutError("The request body did not arrive in time.")
        if not self.arriving:
            self.arriving = self.bodies.arriving.take(self.caller)
        return None if self.arriving else too_many()

    def arrived(self) -> None:
        """It is waited for no more."""
        self.arriving = False
        self.bodies.arriving.give(self.caller)

    def take(self, count: int) -> None:
        """Room for `count` bytes, of which some may be taken already.

        Raises BodyTooLargeError where there is never so much, else OverLimitError or OverloadedError.
        """
        more = count - self.bytes_taken
        if more > 0:
            if not self.bodies.memory.take(self.caller, more):
                raise _no_room(self.bodies.memory, self.caller, count, more)
            self.bytes_taken = count

    def keep(self, count: int) -> None:
        """Only `count` bytes are left of it, and of what was read of it: make room for others."""
        if self.bytes_taken <= count:
            return
        self.bodies.memory.give(self.caller, self.bytes_taken - count)
        self.bytes_taken = count

    def forget(self) -> None:
        """It is in memory no more: make room for others. Twice is harmless."""
        if self.bytes_taken:
            self.bodies.memory.give(self.caller, self.bytes_taken)
            self.bytes_taken = 0


def too_large(bytes_max: int) -> BodyTooLargeError:
    """The 413 of a body over `bytes_max`."""
    return BodyTooLargeError(f"The request body is larger than the {bytes_max} bytes this gateway takes.")


def too_many() -> OverLimitError:
    """The 429 of a caller who lets too many bodies arrive at a time."""
    return OverLimitError(
        "Too many requests of this account are still being sent. Please try again when one of them has arrived.",
        code="concurrency_limit_exceeded",
        retry_after_s=_RETRY_AFTER_S,
    )


def _no_room(memory: Shares, caller: str, count: int, more: int) -> BodyTooLargeError | OverLimitError | OverloadedError:
    if count > min(memory.share, memory.total):
        return BodyTooLargeError("The request takes more memory, once it is read, than this gateway has for one caller.")
    if memory.of(caller) + more <= memory.share:
        return OverloadedError("This gateway is busy with other large requests.", retry_after_s=_RETRY_AFTER_S)
    return OverLimitError(
        "The requests of this account under way are too large together. Please try again when one of them has ended.",
        code="concurrency_limit_exceeded",
        retry_after_s=_RETRY_AFTER_S,
    )
