"""The answers of one connection as their bytes arrive: head, bounded, and body with the framing taken off (RFC 9112). No I/O.

Fails closed as BrokenError: whatever llhttp's strict rules refuse (two lengths, a length beside chunks, bare LF, folded lines),
a status outside 200..599, a version other than 1.0 and 1.1, a coding other than `chunked`, a head above its bounds, bytes
without end that bring no body. What comes after a whole answer harms that answer no more, but its connection is not used again.
"""

from collections import deque
from typing import Final

import httptools

from sentinel.upstream.http1 import whole_chunks
from sentinel.upstream.http1.failures import BrokenError
from sentinel.upstream.http1.whole_answer import timeout_s

Headers = tuple[tuple[bytes, bytes], ...]

# Of a head, and of whatever else brings no body: interim answers, trailers, extensions of chunks.
HEAD_BYTES_MAX: Final = 65_536
FIELDS_MAX: Final = 128
# Up to here a body of known length passes the parser, which copies it but stays of use; beyond, a new parser costs less.
_PARSED_BYTES_MAX: Final = 16_384
# Of the names in a head that are read.
_LENGTHS_READ: Final = frozenset(
    map(len, ("content-type", "content-length", "transfer-encoding", "content-encoding", "keep-alive"))
)
_JSON: Final = b"application/json"
# More than the parser takes for a length.
_UNTIL_CLOSE: Final = 1 << 64


class Answer:
    """The answer to one request at a time: `begin` forgets all of the one before, so that no answer can do harm to the next.

    `begun`: status and headers are here. `whole`: so is the body's last byte. `keeps`: the connection may be used again, for
    `keep_s` where the other side says how long it keeps it. `media` and `codings` are what the head says of the body.

    `arrivals` wait to be taken: what came of the body in one read each, `buffered` bytes in all. `between`: the next byte
    begins a chunk, so that whole ones need not pass the parser, which then knows nothing of them.
    """

    __slots__ = (
        "_bodiless",
        "_fields",
        "_idle_bytes",
        "_left",
        "_parser",
        "_pieces",
        "_tail",
        "_until_close",
        "arrivals",
        "begun",
        "between",
        "buffered",
        "codings",
        "headers",
        "keep_s",
        "keeps",
        "media",
        "on_body",
        "status",
        "whole",
    )

    def __init__(self, *, bodiless: bool = False) -> None:
        self.arrivals: deque[bytes] = deque()
        self._fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        # What the parser calls for each part of a body: nothing of ours, since a stream is made of them.
        self.on_body = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = None
        self.begin(bodiless=bodiless)

    def begin(self, *, bodiless: bool = False) -> None:
        """Wait for the next answer; `bodiless` for HEAD, whose answer has the length of a body that does not come."""
        if self._parser is None or self._fields:
            # It stopped within a body, or has held trailers: such a one is not to read the next head.
            self._fields = []
            self._pieces.clear()
            self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: Headers = ()
        self.media = b""
        self.codings: list[bytes] | None = None
        self.begun = False
        self.whole = False
        self.keeps = False
        self.keep_s: float | None = None
        self.buffered = 0
        self.arrivals.clear()
        self._bodiless = bodiless
        self._idle_bytes = 0
        self._tail = b""
        # Bytes of the body to come where its length is known, or all until the connection ends; of no meaning for chunks.
        self._left = 0
        self._until_close = False
        self.between = False

    def feed(self, data: bytes) -> None:
        """What arrived. Raises BrokenError; nothing may be fed after that."""
        parser = None if self.whole else self._parser
        if parser is None:
            self._pass(data)
            return
        if self.between:
            content = whole_chunks.content(data)
            if content is not None:
                self.arrivals.append(content)
                self.buffered += len(content)
                return
        size = len(data)
        self._idle_bytes += size
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._parser = None
            if not self.whole:
                raise BrokenError(f"not an answer: {error.__context__ or error}") from None
            self.keeps = False
        # The parser is silent while a size is arriving.
        self.between = self.between and data.endswith(b"\r\n")
        pieces, last = self._pieces, b""
        if pieces and not self._bodiless:
            self._check_interim()
            last = pieces[-1]
            arrived = last if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            size = len(arrived)
            self.arrivals.append(arrived)
            self.buffered += size
            self._left -= size
            self._idle_bytes = 0
        if self.whole:
            self.keeps = self.keeps and self._ends(data, last)
            return
        self._tail = data[-6:] if len(data) >= 6 else (self._tail + data)[-6:]
        if self._left > _PARSED_BYTES_MAX:
            self._parser = None
        elif self._idle_bytes > HEAD_BYTES_MAX:
            self._parser = None
            raise BrokenError("a head or a trailer without an end")

    def take(self) -> bytes:
        """The arrival that has waited longest; there must be one."""
        arrived = self.arrivals.popleft()
        self.buffered -= len(arrived)
        return arrived

    def end(self) -> None:
        """The other side sends no more. Raises BrokenError where that is not the end of the answer."""
        self.keeps = False
        self.whole = self.whole or self._until_close
        if not self.whole:
            raise BrokenError("the connection ended before the answer did")

    def drop(self) -> None:
        """There will be no other: undo the ring of parser and answer, so that no collector has to."""
        self._parser = None

    def _pass(self, data: bytes) -> None:
        """Bytes of a body that are its content and nothing else, up to its length."""
        if self.whole or self._left <= 0:
            self.keeps = False
            return
        content = data if len(data) <= self._left else data[: self._left]
        self._left -= len(content)
        self.whole = self._left == 0
        self.keeps = self.keeps and content is data
        self.arrivals.append(content)
        self.buffered += len(content)

    def _ends(self, data: bytes, last: bytes) -> bool:
        """Whether what arrived ends where the answer does: the parser says nothing of empty lines after one.

        `last` is the last part of the body in it. Where the body itself is nothing but empty lines it is not known, so it is
        denied.
        """
        if last and not self._left:
            return len(data) == len(last) or (data.endswith(last) and last.strip(b"\r\n") != b"")
        tail = self._tail + data[-6:]
        return tail.endswith(b"\r\n\r\n") and not tail.endswith(b"\r\n\r\n\r\n")

    # ---- what the parser calls ----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Bytes of another answer, to which there was no request, are no part of this one."""
        if self.whole:
            raise BrokenError("bytes after the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer, which is dropped."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole. What of it arrived before was bounded as bytes without end."""
        parser, fields = self._parser, self._fields
        assert parser is not None
        if len(fields) > FIELDS_MAX or (self._idle_bytes > HEAD_BYTES_MAX and _size(fields) > HEAD_BYTES_MAX):
            raise BrokenError("a head that is too large")
        status = parser.get_status_code()
        if not 200 <= status <= 599:
            if 100 <= status < 200 and status != 101:
                return
            raise BrokenError("a status that HTTP does not know")
        self.status = status
        self.headers = tuple(fields)
        self._fields = []
        self.keeps = parser.should_keep_alive() and not self._bodiless
        self._read_head(parser.get_http_version())
        self.begun = True
        self.whole = self._bodiless

    def on_chunk_header(self) -> None:
        """A chunk has begun, or the last one, behind which trailers may come."""
        self.between = False

    def on_chunk_complete(self) -> None:
        """A chunk is here, to its last byte."""
        self.between = True

    def on_message_complete(self) -> None:
        """The end of the answer, or of an interim one (RFC 9110 §15.2), of which there may be any number before it."""
        if self.begun:
            self.whole = True
        else:
            self._check_interim()
            self._fields = []

    def _check_interim(self) -> None:
        """What a status below 200 brought as a body, which it may not have, is no part of the answer behind it."""
        if self._pieces and not self.begun:
            raise BrokenError("an interim answer with a body")

    def _read_head(self, version: str) -> None:
        """How the body ends (RFC 9112 §6.3), after the parser has refused what is in doubt, and what it is."""
        if version not in {"1.1", "1.0"}:
            raise BrokenError("a version of HTTP nobody asked for")
        left = _UNTIL_CLOSE
        for given, value in self.headers:
            # Told by their lengths first: a head has many fields.
            if len(given) not in _LENGTHS_READ:
                continue
            name = given.lower()
            if name == b"content-type":
                self.media = self.media or (value if value == _JSON else value.partition(b";")[0].strip().lower())
            elif name == b"content-length":
                left = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked" or version == "1.0" or left == 0:
                    raise BrokenError("a transfer coding nobody asked for")
                left = 0
            elif name == b"content-encoding":
                self.codings = [*(self.codings or ()), value]
            elif name == b"keep-alive":
                self.keep_s = timeout_s(value)
        if self.status == 205:
            # It has no content (RFC 9110 §15.3.6), of which the parser knows nothing: what comes all the same is nobody's.
            self._bodiless, self.keeps = True, False
        elif self.status not in {204, 304}:
            self._left = left
            self._until_close = left == _UNTIL_CLOSE


def _size(fields: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in fields)
