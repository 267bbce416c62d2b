"""Compressed bodies of every coding that Sentinel reads here: br and zstd only where their libraries are installed."""

import gzip
import sys
import zlib
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.support.liar import bare_deflate

try:
    import brotli
except ImportError:
    brotli = None  # type: ignore[assignment]
zstd: Any
try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:
    zstd = None

# By a name of its own where a coding is written in two ways.
WAYS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "bare deflate": bare_deflate,
}
if brotli is not None:
    WAYS["br"] = brotli.compress
if zstd is not None:
    WAYS["zstd"] = zstd.compress


def coding(way: str) -> bytes:
    """What Content-Encoding says of a body that was packed in a way."""
    return way.removeprefix("bare ").encode()


def needs(way: str) -> pytest.MarkDecorator:
    """A mark for what needs a library that may be missing."""
    return pytest.mark.skipif(way not in WAYS, reason=f"no library for {way} is installed")


def zstd_with_window(body: bytes, log: int) -> bytes:
    """A frame that asks for a window of 2**log bytes."""
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
    return stream.compress(body) + stream.flush()
