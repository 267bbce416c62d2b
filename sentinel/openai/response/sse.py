"""Server-sent events as bytes: where an event ends, and what it says. Nothing here fails.

Events are found, never re-encoded (rule S2): invalid UTF-8, comments and unknown fields pass as they came. An event longer
than the bound on the held tail is let through unread, so a provider without line ends costs a reading, never memory or the
stream (rule S7).
"""

import json
import re
from typing import Any, Final

DONE: Final = b"data: [DONE]\n\n"
TAIL_BYTES_MAX: Final = 1 << 20

_BOM: Final = b"\xef\xbb\xbf"
# Two line ends in a row that cannot be read otherwise, whatever came before them or will follow.
ENDS: Final = (b"\n\n", b"\n\r\n", b"\r\r\n")
# Atomic, because "\r\n" must never be tried again as "\r" and "\n"; a last "\r" may yet turn out to be a "\r\n".
_BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)(?:\n|\r\n|\r(?=[^\n]))")
_EVENT: Final = re.compile(rb"(?:[^\r\n]++(?>\r\n|\n|\r))*+(?>\r\n|\n|\r)|(?s:.+)")
_LINEENDS: Final = b"\r\n"
_COMMENTS: Final = re.compile(rb"(?:(?::[^\r\n]*)?(?>\r\n|\n|\r))*")
_SEQUENCE: Final = re.compile(rb'"sequence_number"\s*:\s*([0-9]{1,15})')


class Splitter:
    """Gives out whole events as they become known and holds the unfinished rest (rules S1, S7).

    Lines end in LF, CR or CRLF, mixed at will; a blank line ends an event. A CR as the very last byte waits for the next one,
    so neither the bytes nor the boundaries depend on how the stream was cut. `overflowed` counts the events that outgrew
    `tail_bytes_max` while unfinished and went through raw.
    """

    __slots__ = ("_skipping", "_tail", "_tail_bytes_max", "overflowed")

    def __init__(self, tail_bytes_max: int = TAIL_BYTES_MAX) -> None:
        self._tail = bytearray()
        self._tail_bytes_max = tail_bytes_max
        self._skipping = False
        self.overflowed = 0

    @property
    def carries(self) -> bool:
        """Whether the next bytes go on with an event that has begun."""
        return self._skipping or bool(self._tail)

    @property
    def skipping(self) -> bool:
        """Whether a part of the present event has already gone out raw, so that what was given out ends inside an event."""
        return self._skipping

    def feed(self, chunk: bytes) -> bytes:
        """All bytes up to and including the last boundary now known, b"" if there is none; raw where an event overflowed."""
        before, region, after = self.split(chunk)
        return before + region + after if before or after else region

    def split(self, chunk: bytes) -> tuple[bytes, bytes, bytes]:
        """What `feed` returns, in its parts: raw end of an overflowed event, whole events, raw start of another.

        A chunk of whole events, the usual one, is returned itself, not a copy.
        """
        if not self._tail and not self._skipping and chunk.endswith(ENDS):
            return b"", chunk, b""
        return self._split_held(chunk)

    def _split_held(self, chunk: bytes) -> tuple[bytes, bytes, bytes]:
        tail = self._tail
        # A boundary that the new bytes complete begins at most two bytes before them.
        start = max(len(tail) - 2, 0)
        tail += chunk
        before = b""
        if self._skipping:
            start = 0
            # Most of an image has no line end at all, which is found out much faster.
            blank = _BLANK.search(tail) if tail.find(b"\n") >= 0 or tail.find(b"\r") >= 0 else None
            if blank is None:
                return self._take_raw(), b"", b""
            before = self._take(blank.end())
            self._skipping = False
        region = self._take(_last_boundary(tail, start))
        if len(tail) <= self._tail_bytes_max:
            return before, region, b""
        self.overflowed += 1
        self._skipping = True
        return before, region, self._take_raw()

    def _take(self, cut: int) -> bytes:
        if not cut:
            return b""
        taken = bytes(self._tail[:cut])
        del self._tail[:cut]
        return taken

    def _take_raw(self) -> bytes:
        """All but the last line ends, which the next bytes may complete to a boundary."""
        return self._take(len(self._tail.rstrip(_LINEENDS)))

    def rest(self) -> bytes:
        """The held tail, given up: at the end of the stream."""
        self._skipping = False
        return self._take(len(self._tail))


def _last_boundary(buffer: bytearray, start: int) -> int:
    """Offset just past the last blank line of `buffer`, which begins at a line start; 0 where none is known."""
    cut = buffer.rfind(b"\n\n", start) + 2
    if cut == 1:
        cut = 0
    if buffer.find(b"\r", start) >= 0:
        for pair in (b"\n\r", b"\r\r"):
            at = buffer.rfind(pair, start, len(buffer) - 1)
            if at >= 0:
                cut = max(cut, at + 3 if buffer[at + 2] == 0x0A else at + 2)
    if cut or start:
        return cut
    if buffer.startswith((b"\n", b"\r\n")):
        return buffer.index(b"\n") + 1
    return 1 if buffer.startswith(b"\r") and len(buffer) > 1 else 0


def events(region: bytes) -> list[bytes]:
    """The events of `region` with their line ends, each up to its blank line; joined they are `region` again.

    An unfinished last event is the last element. Further blank lines are events of their own, without data.
    """
    if region.find(b"\r") >= 0 or region.find(b"\n\n\n") >= 0 or region.startswith(b"\n"):
        return _EVENT.findall(region)
    # The usual stream, ten times as fast as the pattern.
    *whole, rest = region.split(b"\n\n")
    found = [event + b"\n\n" for event in whole]
    return [*found, rest] if rest else found


def payload(event: bytes) -> bytes:
    r"""The data of one event: its `data` lines joined by "\n", one leading space of each removed; b"" if it has none.

    The rules are WHATWG HTML 9.2.6: a line `data` alone is empty data, comments and unknown fields say nothing, and a byte
    order mark may open the stream.
    """
    if (
        event.startswith(b"data: ")
        and event.endswith(b"\n\n")
        and event.find(b"\n") == len(event) - 2
        and event.find(b"\r") < 0
    ):
        # One line and its blank line: nearly every event there is.
        return event[6:-2]
    lines = []
    for line in event.removeprefix(_BOM).splitlines():
        if line.startswith(b"data:"):
            lines.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines)


def from_json(text: bytes) -> bytes:
    """`text`, a bare JSON value, as the data of one event."""
    return b"".join(b"data: %s\n" % line for line in text.removeprefix(_BOM).strip().splitlines()) + b"\n"


def comments(event: bytes) -> bytes:
    """The comment lines an event begins with: they are nobody's part, and stay when it goes (rule S4)."""
    match = _COMMENTS.match(event)
    return match[0] if match else b""


def error_event(message: str, type: str, code: str | None) -> bytes:  # noqa: A002  the field's own name
    """A failure in the middle of a chat's stream, as both SDKs raise it (rule F1). ASCII, so any text can be carried."""
    return b"data: " + _json({"error": _error(message, type, code)}) + b"\n\n"


def typed_error_event(message: str, type: str, code: str | None, before: bytes) -> bytes:  # noqa: A002
    """The same in a stream of typed events: OpenAI's own `error` event, and an `error` object, which its SDKs raise on (F5).

    Its `sequence_number` is the last one in `before`, so that a client that asks for what follows misses nothing.
    """
    *_, last = [0, *_SEQUENCE.findall(before)]
    event = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": int(last)}
    return b"event: error\ndata: " + _json(event | {"error": _error(message, type, code)}) + b"\n\n"


def _error(message: str, type: str, code: str | None) -> dict[str, str | None]:  # noqa: A002
    return {"message": message, "type": type, "param": None, "code": code}


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def closed(rest: bytes) -> bytes:
    """`rest`, the end of a broken-off stream, with the line ends that make it a whole event."""
    if rest.endswith((b"\n\r", b"\r\r")) or rest == b"\r":
        return rest
    if rest.endswith(b"\r"):
        return rest + b"\r"
    return rest + (b"\n" if rest.endswith(b"\n") else b"\n\n")
