"""Bodies that came compressed although nobody asked for it, made plain as they arrive (wire.md H5).

What comes out of one read is bounded, so that a small body that says much (a zip bomb) costs its reader time, never memory.
Fails as ValueError: bytes that are not what they are said to be, or that end too soon.
"""

import zlib
from typing import Final

# What one call gives at most: about what one read of a plain answer brings.
PIECE_BYTES_MAX: Final = 65_536

_GZIP: Final = 16 + zlib.MAX_WBITS
_CODINGS: Final = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}


def readable(coding: bytes) -> bool:
    """Whether a Content-Encoding is one that is read here: gzip or deflate, once (RFC 9110 §8.4.1)."""
    return coding in _CODINGS


class Inflater:
    """One body. `feed` it what arrives, then take pieces until there is none; `end` says whether it was whole."""

    __slots__ = ("_coding", "_fresh", "_left", "_stream")

    def __init__(self, coding: bytes) -> None:
        self._coding = coding
        self._stream = zlib.decompressobj(_CODINGS[coding])
        self._fresh = True
        self._left = b""

    def feed(self, chunk: bytes) -> None:
        """More of the compressed body; every piece of what came before has been taken."""
        self._left += chunk

    def piece(self) -> bytes:
        """Up to PIECE_BYTES_MAX of the plain body, b"" where more has to be fed. Raises ValueError."""
        while self._left or self._pending():
            if self._stream.eof:
                # gzip bodies may be joined, each with its own head (RFC 1952 §2.2).
                self._stream, self._fresh = zlib.decompressobj(_CODINGS[self._coding]), True
            if self._fresh:
                self._begin()
            try:
                plain = self._stream.decompress(self._left, PIECE_BYTES_MAX)
            except zlib.error as error:
                raise ValueError("a body that is not compressed as it says") from error
            self._left = self._stream.unconsumed_tail or self._stream.unused_data
            if plain:
                return plain
            if not self._stream.eof:
                break
        return b""

    def end(self) -> None:
        """The compressed body is over. Raises ValueError unless it was whole, or empty from the start."""
        if not (self._fresh or self._stream.eof):
            raise ValueError("a compressed body that ends too soon")

    def _pending(self) -> bool:
        """Whether the stream may hold plain bytes back that the last piece had no room for."""
        return not (self._fresh or self._stream.eof)

    def _begin(self) -> None:
        """Some send bare deflate under that name, without the head of RFC 1950 that tells it by its first four bits."""
        self._fresh = False
        if self._coding == b"deflate" and self._left[0] & 0x0F != 8:
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
