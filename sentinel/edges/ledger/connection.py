"""One connection to Redis that many calls share: what was asked is answered in its order, and each reply finds its call.

A connection fails as a whole (OSError): when it breaks, when it sends what is not Redis' protocol, what nobody asked for, or a
reply without an end, and when it says nothing for too long while something is asked. An error that Redis answers concerns its
call alone. A call that nobody waits for any more keeps its place, and its reply is dropped: no reply can shift to another call.
"""

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from hiredis import ProtocolError, PushNotification, Reader, ReplyError
from msgspec import Struct

_NOTHING: Final = object()
# One write; more waits until the socket has taken most of it, so that what waits there is not called sent.
_WRITE_BYTES_MAX: Final = 2**20
_REPLY_BYTES_MAX: Final = 2**26


class Call(Struct, eq=False):
    """One call on its way, `packed` as RESP. `reply` gets a value even where it is an error: nobody may be left to read it.

    `places` counts the queues it stands in, `sent` says that it has left, `again` that its connection broke once, `loaded` that
    its script was missing once, `resend` that it may go over another connection after half its time. It began at `begun_s` (of
    `perf_counter`); `due_s` (of the loop) is when the next half of its time is over, `halves` how many are, `half_s` when the
    first was, `stalls` how often the loop stood still instead, `link` the way that it was sent last.
    """

    name: str
    packed: bytes
    reply: asyncio.Future[Any]
    resend: bool = False
    due_s: float = 0.0
    half_s: float = 0.0
    halves: int = 0
    stalls: int = 0
    places: int = 0
    sent: bool = False
    again: bool = False
    loaded: bool = False
    link: object = None
    begun_s: float = 0.0


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def heard(self) -> None:
        """Something was answered."""

    def missing(self, connection: "Connection", calls: list[Call]) -> None:
        """Redis does not know the scripts of these calls, none of which ran."""

    def writable(self) -> None:
        """The socket takes more again."""

    def lost(self, connection: "Connection", calls: list[Call], error: OSError) -> None:
        """It is gone, and with it the answers of these calls, oldest first."""


class Connection(asyncio.Protocol):
    """Made by its owner for one transport. `silence_s` is how long it may say nothing while something is asked.

    `asked` are the calls whose replies it owes; None stands for one that nobody waits for.
    """

    def __init__(self, owner: Owner, silence_s: float) -> None:
        self._owner = owner
        self._silence_s = silence_s
        self._reader = Reader(notEnoughData=_NOTHING)
        self.asked: deque[Call | None] = deque()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._partial_bytes = 0
        self._chunks = self._watched = 0
        self._watch_due_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.error: OSError | None = None

    def write(self, waiting: deque[Call]) -> None:
        """Send of `waiting` what the socket takes, in as few writes as that takes."""
        assert self._transport is not None
        while waiting and not self._paused and self.error is None:
            packed, size = [], 0
            while waiting and size < _WRITE_BYTES_MAX:
                call = waiting.popleft()
                if call.reply.done():
                    continue
                call.sent = True
                self.asked.append(call)
                packed.append(call.packed)
                size += len(call.packed)
            if packed:
                self._transport.write(b"".join(packed))
        if self.asked and self._watch is None:
            self._watch_on()

    def write_again(self, loads: list[bytes], calls: list[Call]) -> None:
        """Send what nobody waits for the answers of, and then `calls`, which stood here before."""
        assert self._transport is not None
        self.asked.extend([None] * len(loads))
        self.asked.extend(calls)
        self._transport.write(b"".join((*loads, *(call.packed for call in calls))))

    def fail(self, error: OSError) -> None:
        """Hang up at once, because of `error`; `lost` follows."""
        if self.error is None:
            self.error = error
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop has its own class
        """asyncio: it is there."""
        transport.set_write_buffer_limits(high=_WRITE_BYTES_MAX)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio: some bytes of replies, wherever they are split."""
        if self.error is not None:
            return
        self._chunks += 1
        gets, asked = self._reader.gets, self.asked
        before = len(asked)
        missing: list[Call] = []
        # Written out, since all that Redis says passes here.
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _NOTHING:
                if type(reply) is PushNotification:
                    continue
                call = asked.popleft()
                if call is None:
                    continue
                if not call.reply.done():
                    if type(reply) is ReplyError and not call.loaded and str(reply).startswith("NOSCRIPT"):
                        missing.append(call)
                        continue
                    call.reply.set_result(reply)
                call.places -= 1
        except (ProtocolError, IndexError):
            self.fail(ConnectionError("Redis sent what is not a reply, or what nobody asked for"))
            return
        answered = len(asked) < before
        # What is left of this chunk belongs to the next reply.
        self._partial_bytes = self._reader.len() if answered else self._partial_bytes + len(data)
        if self._partial_bytes > _REPLY_BYTES_MAX:
            self.fail(ConnectionError(f"a reply of Redis is longer than {_REPLY_BYTES_MAX} bytes"))
            return
        if missing:
            self._owner.missing(self, missing)
        if answered:
            self._owner.heard()

    def pause_writing(self) -> None:
        """asyncio: the socket takes no more."""
        self._paused = True

    def resume_writing(self) -> None:
        """asyncio: it takes more."""
        self._paused = False
        self._owner.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is gone."""
        if self._watch is not None:
            self._watch.cancel()
        if self.error is None:
            self.error = exc if isinstance(exc, OSError) else ConnectionResetError("Redis closed the connection")
        calls = [call for call in self.asked if call is not None]
        self.asked.clear()
        self._owner.lost(self, calls, self.error)

    def _watch_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._watched = self._chunks
        self._watch_due_s = loop.time() + self._silence_s
        self._watch = loop.call_at(self._watch_due_s, self._watch_over)

    def _watch_over(self) -> None:
        """Nothing since the last look, though something was asked then: give it up, unless the loop itself stood still."""
        self._watch = None
        late_s = asyncio.get_running_loop().time() - self._watch_due_s
        if self.asked:
            if self._chunks == self._watched and late_s < self._silence_s / 2:
                self.fail(TimeoutError(f"Redis said nothing for {self._silence_s} s"))
            else:
                self._watch_on()
