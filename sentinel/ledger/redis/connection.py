"""One connection to Redis that many calls share: what was asked is answered in its order, and each reply finds its call.

A connection fails as a whole (OSError): when it breaks, when it sends what is not Redis' protocol, what nobody asked for, or a
reply without an end, and when it says nothing for too long while something is asked. An error that Redis answers concerns its
call alone. A call that nobody waits for any more keeps its place, and its reply is dropped: no reply can shift to another call.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from hiredis import ProtocolError, PushNotification, Reader, ReplyError
from msgspec import Struct

NEVER_S: Final = float("-inf")
_NOTHING: Final = object()
# More waits until the socket has taken most of it, so that what waits there is not called sent.
WRITE_BYTES_MAX: Final = 2**20
_REPLY_BYTES_MAX: Final = 2**26
# Replies that are no plain answers.
_ODD: Final = frozenset({ReplyError, PushNotification})


class Call(Struct, eq=False):
    """One call on its way, `packed` as RESP. `reply` gets a value even where it is an error: nobody may be left to read it.

    `link` is the way on which it has left last, None before, `places` counts those on which it is not lost, `again` says that
    its connection broke once, `loaded` that its script was missing once, `resend` that it may go over another connection after
    half its time. It began at `begun_s` (of `perf_counter`); `due_s` (of the loop) is when the next half of its time is over,
    `halves` how many are, `half_s` when the first was, `stalls` how often the loop stood still instead.
    """

    name: str
    packed: bytes
    reply: asyncio.Future[Any]
    resend: bool = False
    due_s: float = 0.0
    begun_s: float = 0.0
    half_s: float = 0.0
    halves: int = 0
    stalls: int = 0
    places: int = 1
    again: bool = False
    loaded: bool = False
    link: object = None


class Owner(Protocol):
    """Who is told what becomes of a connection. `on_heard` is called when something was answered, where it is set."""

    on_heard: Callable[[], object] | None

    def missing(self, connection: "Connection", calls: list[Call]) -> None:
        """Redis does not know the scripts of these calls, none of which ran."""

    def writable(self) -> None:
        """The socket takes more again."""

    def lost(self, connection: "Connection", calls: list[Call], error: OSError) -> None:
        """It is gone, and with it the answers of these calls, oldest first."""


class Connection(asyncio.Protocol):
    """Made by its owner for one transport. `silence_s` is how long it may say nothing while something is asked.

    `asked` are the calls whose replies it owes; None stands for one that nobody waits for. `packed` is what leaves with this
    tick: what is put to one is put to the other, in the same order. `full` says that it takes no more now. `heard_s` (of the
    loop) is when something was last answered.
    """

    def __init__(self, owner: Owner, silence_s: float) -> None:
        self._owner = owner
        self._silence_s = silence_s
        self._reader = Reader(notEnoughData=_NOTHING)
        self.asked: deque[Call | None] = deque()
        self.packed: list[bytes] = []
        self.full = False
        self._transport: asyncio.Transport | None = None
        self._said = False
        self._partial_bytes = 0
        loop = asyncio.get_running_loop()
        self.later, self._time = loop.call_soon, loop.time
        self.heard_s = NEVER_S
        self._watch_due_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.error: OSError | None = None

    def send(self, calls: Iterable[Call | None], packed: Iterable[bytes]) -> None:
        """Ask these with this tick, each for itself packed; None has a reply that nobody waits for."""
        if not self.packed:
            self.later(self.write)
        self.asked.extend(calls)
        self.packed.extend(packed)

    def write(self) -> None:
        """The end of a tick: all that it has asked leaves in one write."""
        text = b"".join(self.packed)
        self.packed.clear()
        if self.error is None and self._transport is not None:
            self._transport.write(text)
            if self._watch is None:
                self._watch_on()

    def fail(self, error: OSError) -> None:
        """Hang up at once, because of `error`; `lost` follows."""
        self.full = True
        if self.error is None:
            self.error = error
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop has its own class
        """asyncio: it is there."""
        transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio: some bytes of replies, wherever they are split."""
        if self.error is not None:
            return
        self._said = True
        reader, asked = self._reader, self.asked
        missing: list[Call] = []
        try:
            reader.feed(data)
            reply = reader.gets()
            if reply is _NOTHING:
                self._part_of_reply(len(data))
                return
            while reply is not _NOTHING:
                if type(reply) in _ODD:
                    self._odd(reply, missing)
                elif (call := asked.popleft()) is not None and not call.reply.done():
                    call.reply.set_result(reply)
                reply = reader.gets()
        except (ProtocolError, IndexError):
            self.fail(ConnectionError("Redis sent what is not a reply, or what nobody asked for"))
            return
        self._partial_bytes = 0  # and a part of this chunk, which may have begun the next reply
        self.heard_s = self._time()
        if missing:
            self._owner.missing(self, missing)
        if self._owner.on_heard is not None:
            self._owner.on_heard()

    def _odd(self, reply: object, missing: list[Call]) -> None:
        """What Redis says unasked is nobody's; an error goes to its call, which is put to `missing` where its script is."""
        if type(reply) is PushNotification:
            return
        call = self.asked.popleft()
        if call is not None and not call.reply.done():
            if not call.loaded and str(reply).startswith("NOSCRIPT"):
                missing.append(call)
            else:
                call.reply.set_result(reply)

    def _part_of_reply(self, size: int) -> None:
        self._partial_bytes += size
        if self._partial_bytes > _REPLY_BYTES_MAX:
            self.fail(ConnectionError(f"a reply of Redis is longer than {_REPLY_BYTES_MAX} bytes"))

    def pause_writing(self) -> None:
        """asyncio: the socket takes no more."""
        self.full = True

    def resume_writing(self) -> None:
        """asyncio: it takes more."""
        self.full = self.error is not None
        self._owner.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is gone."""
        self.full = True
        if self._watch is not None:
            self._watch.cancel()
        if self.error is None:
            self.error = exc if isinstance(exc, OSError) else ConnectionResetError("Redis closed the connection")
        calls = [call for call in self.asked if call is not None]
        self.asked.clear()
        self._owner.lost(self, calls, self.error)

    def _watch_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._said = False
        self._watch_due_s = loop.time() + self._silence_s
        self._watch = loop.call_at(self._watch_due_s, self._watch_over)

    def _watch_over(self) -> None:
        """Nothing since the last look, though something was asked then: give it up, unless the loop itself stood still."""
        self._watch = None
        late_s = asyncio.get_running_loop().time() - self._watch_due_s
        if self.asked:
            if not self._said and late_s < self._silence_s / 2:
                self.fail(TimeoutError(f"Redis said nothing for {self._silence_s} s"))
            else:
                self._watch_on()
