"""Reads multipart/form-data as it comes in, at any split, holding no more than a boundary or a part's head (RFC 7578). Pure.

Raises ValueError for what is no such form.
"""

import re
from collections.abc import Iterator
from typing import Final

HEAD_BYTES_MAX: Final = 16_384
_NAME: Final = re.compile(rb'(?<![a-z*])name="([^"]*)"', re.IGNORECASE)
_FILENAME: Final = re.compile(rb'filename="([^"]*)"', re.IGNORECASE)
_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;]{1,70}))', re.IGNORECASE)


class Part:
    """One field: its name, and the file's name where it is a file."""

    def __init__(self, head: bytes) -> None:
        name = _NAME.search(head)
        if name is None:
            raise ValueError("a part has no name")
        filename = _FILENAME.search(head)
        self.name = name[1].decode("utf-8", "replace")
        self.filename = filename[1].decode("utf-8", "replace") if filename else None


class FormReader:
    """Takes the bytes of one form; gives its parts, the bytes that belong to the newest, and None where that ends."""

    def __init__(self, content_type: str) -> None:
        found = _BOUNDARY.search(content_type)
        if found is None:
            raise ValueError("the form has no boundary")
        self._delimiter = b"\r\n--" + (found[1] or found[2]).encode()
        self._held = bytearray(b"\r\n")  # the first boundary has no line before it
        self._between = False
        self._in_part = False
        self.finished = False

    def feed(self, chunk: bytes) -> Iterator[Part | bytes | None]:
        """What these bytes add. ValueError for a head that is none."""
        self._held += chunk
        while not self.finished:
            found = self._next_head() if self._between else self._next_body()
            if found is None:
                return
            yield from found

    def _next_head(self) -> tuple[Part] | None:
        """The part that begins here; None where more is needed."""
        if self._held.startswith(b"--"):
            self.finished = True
            return None
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if len(self._held) > HEAD_BYTES_MAX:
                raise ValueError("the head of a part is too long")
            return None
        part = Part(bytes(self._held[:end]))
        del self._held[: end + 4]
        self._between, self._in_part = False, True
        return (part,)

    def _next_body(self) -> tuple[bytes | None, ...] | None:
        """The bytes up to the next boundary, or all but what could be the beginning of one."""
        at = self._held.find(self._delimiter)
        end = at if at >= 0 else len(self._held) - len(self._delimiter) + 1
        if at < 0 and end <= 0:
            return None
        piece = bytes(self._held[:end]) if self._in_part else b""
        del self._held[:end]
        if at < 0:
            return (piece,) if piece else None
        del self._held[: len(self._delimiter)]
        ended = self._in_part
        self._between, self._in_part = True, False
        return (piece, None) if ended else ()
