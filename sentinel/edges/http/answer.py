"""One answer as its bytes arrive: its head, bounded, and its body with the framing taken off (RFC 9112). No I/O.

Fails closed as BrokenError: whatever llhttp's strict rules refuse (two lengths, a length beside chunks, bare LF, folded lines),
a status outside 200..599, a version other than 1.0 and 1.1, a coding other than `chunked`, a head above its bounds, bytes
without end that bring no body. What comes after a whole answer harms that answer no more, but its connection is not used again.
"""

from collections import deque
from typing import Final

import httptools

from sentinel.edges.http.failures import BrokenError

Headers = tuple[tuple[bytes, bytes], ...]

# Of a head, and of whatever else brings no body: interim answers, trailers, extensions of chunks.
HEAD_BYTES_MAX: Final = 65_536
FIELDS_MAX: Final = 128
_UNTIL_CLOSE: Final = -1


class Answer:
    """The answer to one request; nothing of it outlives it, so that no answer can do harm to the next.

    `begun`: status and headers are here. `whole`: so is the body's last byte. `keeps`: the connection may be used again, for
    `keep_s` where the other side says how long it keeps it. `buffered` bytes wait to be taken.
    """

    __slots__ = (
        "_arrivals",
        "_bodiless",
        "_field_bytes",
        "_fields",
        "_idle_bytes",
        "_left",
        "_parser",
        "_pieces",
        "_tail",
        "begun",
        "buffered",
        "headers",
        "keep_s",
        "keeps",
        "status",
        "whole",
    )

    def __init__(self, *, bodiless: bool = False) -> None:
        """`bodiless` for HEAD, whose answer has the length of a body that does not come."""
        self.status = 0
        self.headers: Headers = ()
        self.begun = False
        self.whole = False
        self.keeps = False
        self.keep_s: float | None = None
        self.buffered = 0
        self._bodiless = bodiless
        self._arrivals: deque[bytes] = deque()
        self._pieces: list[bytes] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self._field_bytes = 0
        self._idle_bytes = 0
        self._tail = b""
        # Bytes of the body to come where nothing stands between them: known, or all until the connection ends. None: chunks.
        self._left: int | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """What arrived. Raises BrokenError; nothing may be fed after that."""
        parser = self._parser
        if parser is None:
            self._pass(data)
            return
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.whole:
                self._parser = None
                raise BrokenError(f"not an answer: {error.__context__ or error}") from None
            self.keeps = False
        self._tail = data[-6:] if len(data) >= 6 else (self._tail + data)[-6:]
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._hold(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            self._idle_bytes = 0
        if self.whole:
            self.keeps = self.keeps and self._ends(data, pieces)
            self._parser = None
        elif self._left is not None:
            # From here on the parser would only copy.
            self._parser = None
        elif not pieces:
            self._idle_bytes += len(data)
            if self._idle_bytes > HEAD_BYTES_MAX:
                self._parser = None
                raise BrokenError("a head or a trailer without an end")

    def end(self) -> None:
        """The other side sends no more. Raises BrokenError where that is not the end of the answer."""
        self.keeps = False
        if self._left == _UNTIL_CLOSE:
            self.whole = True
        if not self.whole:
            raise BrokenError("the connection ended before the answer did")

    def take(self) -> bytes:
        """What came in one arrival, b"" where nothing waits."""
        if not self._arrivals:
            return b""
        arrived = self._arrivals.popleft()
        self.buffered -= len(arrived)
        return arrived

    def drop(self) -> None:
        """Nobody wants the rest: undo the ring of parser and answer, so that no collector has to."""
        self._parser = None

    def _pass(self, data: bytes) -> None:
        """Bytes of a body that are its content and nothing else, up to its length."""
        if self.whole or self._left is None:
            self.keeps = False
        elif self._left == _UNTIL_CLOSE:
            self._hold(data)
        elif len(data) <= self._left:
            self._left -= len(data)
            self.whole = self._left == 0
            self._hold(data)
        else:
            self._hold(data[: self._left])
            self._left = 0
            self.whole = True
            self.keeps = False

    def _ends(self, data: bytes, pieces: list[bytes]) -> bool:
        """Whether the last arrival ends where the answer does: the parser says nothing of empty lines after one.

        Where the body itself is nothing but empty lines it is not known, so it is denied.
        """
        if self._left is not None and pieces:
            return data.endswith(pieces[-1]) and pieces[-1].strip(b"\r\n") != b""
        return self._tail.endswith(b"\r\n\r\n") and not self._tail.endswith(b"\r\n\r\n\r\n")

    def _hold(self, arrived: bytes) -> None:
        self.buffered += len(arrived)
        self._arrivals.append(arrived)

    # ---- what the parser calls ----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Bytes of another answer, to which there was no request, are no part of this one."""
        if self.whole:
            raise BrokenError("bytes after the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer, which is dropped."""
        self._field_bytes += len(name) + len(value)
        self._fields.append((name, value))
        if self._field_bytes > HEAD_BYTES_MAX or len(self._fields) > FIELDS_MAX:
            raise BrokenError("a head that is too large")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return
        if not 200 <= status <= 599:
            raise BrokenError("a status that HTTP does not know")
        self.status = status
        self.headers = tuple(self._fields)
        self._fields = []
        self.keeps = parser.should_keep_alive() and not self._bodiless
        self._frame(parser.get_http_version())
        self.begun = True
        if self._bodiless:
            self.whole = True

    def on_body(self, piece: bytes) -> None:
        """A part of the body; of one that came in this arrival."""
        if not self._bodiless:
            self._pieces.append(piece)
            if self._left is not None and self._left != _UNTIL_CLOSE:
                self._left -= len(piece)

    def on_message_complete(self) -> None:
        """The end of the answer, or of an interim one (RFC 9110 §15.2), of which there may be any number before it."""
        if self.begun:
            self.whole = True
        else:
            self._fields = []

    def _frame(self, version: str) -> None:
        """How the body ends (RFC 9112 §6.3), after the parser has refused what is in doubt."""
        if version not in {"1.1", "1.0"}:
            raise BrokenError("a version of HTTP nobody asked for")
        left: int | None = _UNTIL_CLOSE
        for name, value in self.headers:
            # Told by their lengths first: a head has many fields.
            if len(name) == 14 and name.lower() == b"content-length":
                left = int(value)
            elif len(name) == 17 and name.lower() == b"transfer-encoding":
                if value.lower() != b"chunked" or version == "1.0" or left is None:
                    raise BrokenError("a transfer coding nobody asked for")
                left = None
            elif len(name) == 10 and name.lower() == b"keep-alive":
                self.keep_s = _timeout_s(value)
        self._left = 0 if self.status in {204, 304} else left


def _timeout_s(value: bytes) -> float | None:
    """The `timeout` of a Keep-Alive header in seconds, None where it has none (RFC 2068 §19.7.1.1)."""
    for parameter in value.split(b","):
        name, _, seconds = parameter.strip().partition(b"=")
        if name.lower() == b"timeout" and seconds.isdigit() and len(seconds) < 10:
            return float(seconds)
    return None
