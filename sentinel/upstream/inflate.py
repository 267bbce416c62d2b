"""Bodies that came compressed, made plain as they arrive: answers that nobody asked to be (rule H5), and requests.

What comes out of one read is bounded, so that a small body that says much (a zip bomb) costs its reader time, never memory.
Fails as ValueError: bytes that are not what they are said to be, that end too soon, or that go on behind their end. gzip and
deflate are always read, br and zstd where their library is installed (`pip install sentinel-gateway[codings]`).
"""

import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

# What one call gives at most: about what one read of a plain answer brings.
PIECE_BYTES_MAX: Final = 65_536
# Brotli gives what it has once that is at least so much; its first block of 32 KiB then is the only one.
_BROTLI_PIECE_BYTES_MIN: Final = 16_384
# RFC 9659: a larger window, which is memory, is not to be used in a coding of HTTP.
_ZSTD_WINDOW_LOG_MAX: Final = 23


class _Stream(Protocol):
    """One compressed stream."""

    @property
    def eof(self) -> bool:
        """Whether it was read to its end."""

    def take(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Up to PIECE_BYTES_MAX of the plain bytes, and what of `chunk` was not taken: that comes again, or is behind the end.

        Raises one of _BROKEN.
        """


class _Zlib:
    """gzip (RFC 1952), or deflate as RFC 9110 means it, in the head of RFC 1950. Some send it bare under that name, which its
    first four bits tell.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._stream: Any = None

    @property
    def eof(self) -> bool:
        return self._stream is not None and self._stream.eof is True

    def take(self, chunk: bytes) -> tuple[bytes, bytes]:
        if self._stream is None:
            bare = self._bits == zlib.MAX_WBITS and chunk[0] & 0x0F != 8
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS if bare else self._bits)
        plain = self._stream.decompress(chunk, PIECE_BYTES_MAX)
        return plain, self._stream.unconsumed_tail or self._stream.unused_data


class _Brotli:
    """br (RFC 7932). What comes behind its end breaks it."""

    def __init__(self) -> None:
        self._stream: Any = brotli.Decompressor()

    @property
    def eof(self) -> bool:
        return self._stream.is_finished() is True

    def take(self, chunk: bytes) -> tuple[bytes, bytes]:
        return self._stream.process(chunk, output_buffer_limit=_BROTLI_PIECE_BYTES_MIN), b""


class _Zstd:
    """zstd (RFC 8878), one frame of it."""

    def __init__(self) -> None:
        self._stream: Any = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX})

    @property
    def eof(self) -> bool:
        return self._stream.eof is True

    def take(self, chunk: bytes) -> tuple[bytes, bytes]:
        return self._stream.decompress(chunk, PIECE_BYTES_MAX), self._stream.unused_data


_GZIP: Final = 16 + zlib.MAX_WBITS
# In the order in which they are told to clients.
_CODINGS: dict[bytes, Callable[[], _Stream]] = {
    b"gzip": lambda: _Zlib(_GZIP),
    b"x-gzip": lambda: _Zlib(_GZIP),
    b"deflate": lambda: _Zlib(zlib.MAX_WBITS),
}
_ALWAYS: Final = frozenset(_CODINGS)
_BROKEN: tuple[type[Exception], ...] = (zlib.error,)
with suppress(ImportError):
    import brotli

    if hasattr(brotli.Decompressor, "can_accept_more_data"):  # older ones give all at once, however much it is
        _CODINGS[b"br"] = _Brotli
        _BROKEN += (brotli.error,)
with suppress(ImportError):
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    _CODINGS[b"zstd"] = _Zstd
    _BROKEN += (zstd.ZstdError,)
# Bodies in a row are one body (RFC 1952 §2.2, RFC 8878 §3.1); of the others there is one.
_JOINED: Final = frozenset({b"gzip", b"x-gzip", b"zstd"})

# What Accept-Encoding says of this: RFC 9110 §8.4.1.3 has x-gzip for an old name of gzip.
ACCEPTED: Final = b", ".join(coding for coding in _CODINGS if coding != b"x-gzip")


def readable(coding: bytes) -> bool:
    """Whether every deployment reads this coding, given in lower case: a provider must not fail in one and do in another."""
    return coding in _ALWAYS


def installed(coding: bytes) -> bool:
    """Whether this deployment reads it."""
    return coding in _CODINGS


class Inflater:
    """One body. `feed` it what arrives, then take pieces until there is none; `end` says whether it was whole. `streams` counts
    the compressed streams that the body is made of.
    """

    __slots__ = ("_coding", "_left", "_stream", "streams")

    def __init__(self, coding: bytes) -> None:
        self.streams = 0
        self._coding = coding
        self._stream: _Stream | None = None
        self._left = b""

    def feed(self, chunk: bytes) -> None:
        """More of the compressed body; every piece of what came before has been taken."""
        self._left += chunk

    def piece(self) -> bytes:
        """Up to PIECE_BYTES_MAX of the plain body, b"" where more has to be fed. Raises ValueError."""
        while self._left or self._unfinished():
            stream = self._current()
            try:
                plain, self._left = stream.take(self._left)
            except _BROKEN as error:
                raise ValueError("a body that is not compressed as it says") from error
            if plain:
                return plain
            if not stream.eof:
                break
        return b""

    def end(self) -> None:
        """The compressed body is over. Raises ValueError unless it was whole, or empty from the start."""
        if self._unfinished():
            raise ValueError("a compressed body that ends too soon")

    def _unfinished(self) -> bool:
        """Whether the stream may hold plain bytes back that the last piece had no room for, or wants more."""
        return self._stream is not None and not self._stream.eof

    def _current(self) -> _Stream:
        """The stream that what is left belongs to."""
        if self._stream is None or self._stream.eof:
            if self._stream is not None and self._coding not in _JOINED:
                raise ValueError("a compressed body that goes on behind its end")
            self._stream = _CODINGS[self._coding]()
            self.streams += 1
        return self._stream
