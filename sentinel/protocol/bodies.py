"""What a plain answer costs, read off the bytes while they pass. Nothing here fails and nothing holds the answer up.

A JSON body is kept up to a bound and read when it is whole (one beyond it, at its two ends); every other body is only
measured, however long it is.
"""

import re
from typing import Any, Final

from sentinel.protocol import kept
from sentinel.protocol.answers import Head, decode, decode_head
from sentinel.protocol.dialects import GRAMMARS
from sentinel.protocol.texts import Texts
from sentinel.records import Dialect, Usage

# Enough for the usage object and whatever follows it at the end of a body too large to keep.
_TAIL_BYTES: Final = 16 << 10
# The name `usage` may also stand among the metadata behind it.
_USAGES_TRIED_MAX: Final = 8
_USAGE: Final = re.compile(rb'"(?:per_model_)?usage"')

# As every provider begins an object: nothing stands before its id but what it is, so it is the body's own.
_FIRST_ID: Final = re.compile(rb'\s*\{\s*(?:"object"\s*:\s*"[^"\\]*"\s*,\s*)?"id"\s*:\s*"[^"\\]*"')
_FIRST_ID_BYTES: Final = 1 << 10


class BodyMeter:
    """Meters one plain JSON body, which goes downstream unchanged and at once.

    `names` says that the id of the answer's object is wanted; like `usage` it is known after `finish`. `finished` says that
    the body is whole JSON. A body over `kept_bytes_max` is not kept; its usage is still found where it stands at the end, its
    id where it stands at the beginning, as providers write them, and `finished` then says that the usage was found.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_grammar",
        "_kept_bytes_max",
        "_names",
        "_start",
        "_tail",
        "failed",
        "finished",
        "object_id",
        "unfinished",
        "usage",
    )

    events: Final = 0
    terminated: Final = False

    def __init__(self, dialect: Dialect, *, names: bool = False, kept_bytes_max: int = kept.BYTES_MAX) -> None:
        self.usage: Usage | None = None
        self.failed = False
        self.finished = False
        self.object_id = ""
        self.unfinished = False
        self._grammar = GRAMMARS[dialect]
        self._names = names
        self._kept_bytes_max = kept_bytes_max
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._start = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        """`chunk` itself."""
        self._body_bytes += len(chunk)
        if self._body_bytes <= self._kept_bytes_max:
            self._body.append(chunk)
            return chunk
        if self._body or not self._tail:
            whole = b"".join([*self._body, chunk])
            self._start = whole[:_FIRST_ID_BYTES]
            self._tail = whole[-_TAIL_BYTES:]
            self._body.clear()
        else:
            self._tail = chunk[-_TAIL_BYTES:] if len(chunk) >= _TAIL_BYTES else (self._tail + chunk)[-_TAIL_BYTES:]
        return chunk

    def finish(self) -> bytes:
        """Nothing: reads the body, now that it is whole."""
        head = decode_head(b"".join(self._body)) if self._body else self._read_ends()
        if head is not None:
            self.finished = True
            reading = self._grammar.read_body(head)
            self.usage, self.failed, self.unfinished = reading.usage, reading.fails, bool(reading.unfinished)
            if self._names:
                self.object_id = reading.object_id
        return b""

    def produced(self) -> tuple[list[str], int]:
        """The texts of the answer (wire.md L1); the bytes of the body where it is not whole or was not kept (L4).

        Nothing where its usage is known, and in dialects whose texts are not counted.
        """
        say = self._grammar.say
        if say is None or self.usage is not None:
            return [], 0
        fields = self.fields()
        if fields is None:
            return [], self._body_bytes
        texts = Texts(self._kept_bytes_max)
        say(fields, texts)
        return texts.joined(), texts.bytes_uncounted

    def fields(self) -> dict[str, Any] | None:
        """The whole body decoded, None where it is not whole JSON or was not kept."""
        return decode(b"".join(self._body))

    def _read_ends(self) -> Head | None:
        """The first and last keys of a body that was not kept.

        The last close it exactly if they stand at its top level (wire.md U9).
        """
        named = _FIRST_ID.match(self._start)
        first = decode_head(named[0] + b"}") if named else None
        if first is not None and self._names:
            self.object_id = first.name
        for at in [named.start() for named in _USAGE.finditer(self._tail)][: -_USAGES_TRIED_MAX - 1 : -1]:
            last = decode_head(b"{" + self._tail[at:])
            if last is not None:
                last.id = None if first is None else first.id
                return last
        return None


class PassMeter:
    """Lets through what is neither JSON nor events: audio, files, tables. Only the bytes are counted, none is kept.

    In dialects whose texts are counted they may be an answer that cannot be read, so they count as bytes (wire.md L4).
    """

    __slots__ = ("_body_bytes", "_counted", "finished")

    events: Final = 0
    usage: Final = None
    terminated: Final = False
    failed: Final = False
    object_id: Final = ""
    unfinished: Final = False

    def __init__(self, dialect: Dialect = Dialect.NONE) -> None:
        self.finished = False
        self._counted = GRAMMARS[dialect].say is not None
        self._body_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """`chunk` itself."""
        self._body_bytes += len(chunk)
        return chunk

    def finish(self) -> bytes:
        """Nothing."""
        self.finished = True
        return b""

    def produced(self) -> tuple[list[str], int]:
        """No text; the bytes where they may have been one."""
        return [], self._body_bytes if self._counted else 0
