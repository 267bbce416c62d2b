"""One HTTP exchange with a client over ASGI: its head, its body within bounds, the answer, and the moment it leaves.

Fails closed: as the body fails (`downstream/body_budget.py`), and by `ClientGoneError` where the client leaves. Granian's
`send` never fails after a disconnect (rule D2), so the only sign of one is `receive`, listened to while others work.

What may take long is not timed by each exchange for itself: the worker looks after all of them, over and over (`look`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, MutableMapping
from typing import Any, Final

from sentinel.downstream import trace
from sentinel.downstream.body_budget import Bodies, Body, Receive, too_large
from sentinel.downstream.disconnect import DisconnectListener
from sentinel.downstream.pending_send import TAKEN, PendingSend
from sentinel.downstream.trace import Trace
from sentinel.downstream.upload import Upload
from sentinel.openai.header_fields import Fields
from sentinel.openai.routes import Match
from sentinel.ops.errors import BodyTimeoutError, ClientGoneError, SentinelError
from sentinel.ops.records import Caller

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# After an answer that came before the end of the request: what is still on its way is read and dropped, in all for so long,
# and for so long after its last part. Bounded by time alone: a client that writes without ever looking up would be reset at
# any bound of bytes, and one that means ill can as well send them over the next connection.
_LINGER_S: Final = 30.0
_LINGER_IDLE_S: Final = 5.0
_SERVER: Final = (b"server", b"sentinel")  # else the server names itself and its version (rule X17)


class Exchange(DisconnectListener):
    """The client's request and the answer to it. `path` and `query` are as raw as in the request line, the path with a
    character for each byte (rule H8).

    A `with` block of it ends with ClientGoneError when the client leaves, or with what `interrupt` is given. While the body is
    not read to its end, whoever reads it notices, since both listen on the same channel; afterwards `look` does, and before it,
    where the body is small. `body` is what was read of it, and what it takes.

    `always` are headers that whatever answer comes will carry; `route` is its label, `match` what its path names, once that is
    known; it began at `begun_s` of `perf_counter`. `begun` says that it has had its turn; `attempt` is whose it is,
    as long as no window has counted it.
    """

    match: Match

    route = "unknown"
    status = 0
    bytes_down = 0
    begun = False
    ended = False
    attempt: Caller | None = None
    always: tuple[tuple[bytes, bytes], ...] = ()
    _trace: Trace | None = None
    _upload: Upload | None = None
    body: Body | None = None
    # On the loop's clock: when what lingers must have arrived, and since when the server takes no more of the answer.
    _due_s: float | None = None
    _writing_since_s: float | None = None
    _pushing: PendingSend | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.begun_s = time.perf_counter()
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        self.query: bytes = scope["query_string"]
        lines = scope["headers"]
        first = dict(lines)
        self.headers = Fields(lines, first) if len(first) == len(lines) else Fields.of(lines)
        self.request_id = request_id
        self._receive = receive
        self.hand_over = send

    @property
    def started(self) -> bool:
        """Whether the status line is out, so that a failure can only be told in the body."""
        return self.status != 0

    @property
    def lingers(self) -> bool:
        """Whether its answer is out, and only the rest of the request is waited for."""
        return self._due_s is not None

    @property
    def trace(self) -> Trace:
        """The trace this request belongs to, the client's or a new one (rule H20)."""
        if self._trace is None:
            self._trace = trace.begin(self.headers)
        return self._trace

    def has_body(self) -> bool:
        """Whether the request says that it has one."""
        first = self.headers.first
        return first.get(b"content-length", b"0") not in (b"", b"0") or bool(first.get(b"transfer-encoding"))

    async def read_body(self, bodies: Bodies, caller: str) -> bytes:
        """The whole request body, which counts as `caller`'s until `forget_body` or `close`.

        To be awaited in a section, so that a worker that drains need not wait for a body that does not come. Raises
        BodyTooLargeError, OverLimitError, OverloadedError or ClientGoneError.
        """
        length = int(self.headers.first.get(b"content-length") or -1)  # a number, or its framing would have been refused
        if length <= 0 and not self.has_body():
            self._body_read = True
            return b""
        if length > bodies.bytes_max:
            raise too_large(bodies.bytes_max)
        clock = asyncio.get_running_loop().time
        body = self.body = Body(bodies, caller, length, clock())
        try:
            message = await (self._receive() if self._watch is None and self._ahead is None else self.take())
            read: bytes = message.get("body", b"")
            # The usual one is small, and comes whole with the first message.
            if not 0 < len(read) <= bodies.small_bytes or (len(read) != length and message.get("more_body", False)):
                come = [message]
                del message, read  # only who joins the parts is to have them
                read = await body.read(come, self._receive, clock)
        except BaseException:
            body.forget()
            self.body = None  # no look waits for the rest, though its client may be listened to for a while
            raise
        finally:
            if body.arriving:
                body.arrived()
        self._body_read = True
        return read

    def take_body(self, count: int) -> None:
        """Room for `count` bytes, of which some may be taken already. Raises as `Body.take`."""
        if self.body is not None:
            self.body.take(count)

    def forget_body(self) -> None:
        """The body is in memory no more: make room for others."""
        if self.body is not None and self.body.bytes_taken:
            self.body.forget()

    def upload(self, bodies: Bodies, caller: str, bytes_max: int) -> Upload:
        """The request body as it arrives, to be sent on. Raises BodyTooLargeError or OverLimitError."""
        declared = self.header(b"content-length")
        length = int(declared) if declared.isdigit() else None
        self._upload = Upload(self.take, length, bodies, caller, bytes_max=bytes_max, on_end=self._uploaded, on_gone=self.leave)
        return self._upload

    def check_deadlines(self, now_s: float, idle_s: float) -> bool:
        """Look after this exchange: notice a client that left, a body that is late, and whether (the answer is True) nothing
        was taken of the answer for `idle_s`. `now_s` is the loop's time.

        Nobody listens for the end of an exchange that is over before the first look: most of what listening costs.
        """
        if self._body_read:
            if self._watch is None:
                self.listen()
        elif self._due_s is not None:
            if now_s > self._due_s:
                self.interrupt(BodyTimeoutError("The request body did not arrive in time."))
        elif self.body is not None and (reason := self.body.late(now_s)) is not None:
            self.interrupt(reason)
        elif self.body is None and self._upload is None:
            self.listen()
        return self._writing_since_s is not None and now_s - self._writing_since_s > idle_s

    def header(self, wanted: bytes) -> bytes:
        """The first value of the header `wanted` (lower case), b"" where there is none."""
        return self.headers.first.get(wanted, b"")

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the status line and headers. A status outside 200..599 would abort the worker (rule X18)."""
        assert 200 <= status <= 599
        self.status = status
        sent = [*headers, *self.always, _SERVER]
        await self.hand_over({"type": "http.response.start", "status": status, "headers": sent})

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send all of an answer: what `start` and `finish` do of one that goes down in parts."""
        assert 200 <= status <= 599
        self.status = status
        sent = [*headers, *self.always, _SERVER]
        self._writing_since_s = asyncio.get_running_loop().time()
        try:
            await self.hand_over({"type": "http.response.start", "status": status, "headers": sent})
            body = b"" if self.method == "HEAD" else body
            self.bytes_down, self.ended = len(body), True
            await self.hand_over({"type": "http.response.body", "body": body, "more_body": False})
        finally:
            self._writing_since_s = None

    def push(self, chunk: bytes) -> bool:
        """Send a part of the body at once. Whether the server took it; else `pushed` is to be awaited before the next one."""
        if self.method == "HEAD":
            # The answer of a GET without its body (rule H16); the server would take these bytes for an error.
            return True
        self.bytes_down += len(chunk)
        sending = self.hand_over({"type": "http.response.body", "body": chunk, "more_body": True}).__await__()
        return (waits_for := next(sending, TAKEN)) is TAKEN or self.waits(waits_for, sending)

    def waits(self, waits_for: Any, sending: Generator[Any, Any, None]) -> bool:
        """The server has not taken what was handed over: `sending` goes on when `waits_for` is done. False, as `push` says."""
        self._pushing = PendingSend(waits_for, sending)
        self._writing_since_s = asyncio.get_running_loop().time()
        return False

    async def pushed(self) -> None:
        """Wait until the server has taken what was pushed last: it does not while the client's buffer is full (rule D6)."""
        pushing, self._pushing = self._pushing, None
        if pushing is not None:
            try:
                await pushing
            finally:
                self._writing_since_s = None

    async def send(self, chunk: bytes) -> None:
        """Send a part of the body at once, and wait until the server has taken it."""
        if not self.push(chunk):
            await self.pushed()

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last part of the body."""
        if self._pushing is not None:
            await self.pushed()
        self.ended = True
        chunk = b"" if self.method == "HEAD" else chunk
        self.bytes_down += len(chunk)
        self._writing_since_s = asyncio.get_running_loop().time()
        try:
            await self.hand_over({"type": "http.response.body", "body": chunk, "more_body": False})
        finally:
            self._writing_since_s = None

    async def linger(self) -> None:
        """After an answer that came early: read what the client still sends, within bounds, and drop it (RFC 9112 §9.6).

        Else the connection is reset under its hands, and with it goes the answer. A client that waits for a 100 sends nothing
        more, and one that is too slow would send for ever: theirs is closed at once.
        """
        first = self.headers.first
        if self._body_read or self.status == BodyTimeoutError.status or first.get(b"expect") or not self.has_body():
            return
        now = asyncio.get_running_loop().time
        end_s = now() + _LINGER_S
        declared = first.get(b"content-length", b"")
        left = int(declared) if declared.isdigit() else -1
        try:
            with self:
                more = True
                while more:
                    self._due_s = min(end_s, now() + _LINGER_IDLE_S)
                    message = await self.take()
                    left -= len(message.get("body", b""))
                    more = message.get("more_body", False) and left != 0
        except (SentinelError, ClientGoneError):
            # The answer is out; all that is lost is the connection.
            return

    def close(self) -> None:
        """Stop listening for a disconnect and make room for others; nothing may be sent afterwards."""
        if self.body is not None and self.body.bytes_taken:
            self.body.forget()
        if self._upload is not None:
            self._upload.close()
        if self._reason is not None or self.stays is not None:
            super().close()
        if self._watch is not None:
            self._watch.cancel()

    def _uploaded(self) -> None:
        self._body_read = True
        if self._upload is not None:
            self._upload.close()
