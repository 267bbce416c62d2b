"""inflate: compressed bodies made plain, at every split, in bounded pieces."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.protocol.inflate import PIECE_BYTES_MAX, Inflater, readable
from tests.support.liar import bare_deflate

WAYS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "bare": bare_deflate}


def inflated(coding: bytes, chunks: list[bytes]) -> bytes:
    """All pieces of a body that comes in `chunks`."""
    inflater = Inflater(coding)
    said = b""
    for chunk in chunks:
        inflater.feed(chunk)
        while piece := inflater.piece():
            assert len(piece) <= PIECE_BYTES_MAX
            said += piece
    inflater.end()
    return said


@given(st.sampled_from(sorted(WAYS)), st.binary(max_size=2000), st.integers(1, 40))
def test_every_split_gives_the_same_body(way: str, body: bytes, size: int) -> None:
    """wire.md H5: what was compressed comes out, wherever the reads fall; bare deflate too."""
    packed = WAYS[way](body)
    coding = b"deflate" if way == "bare" else way.encode()
    assert inflated(coding, [packed[at : at + size] for at in range(0, len(packed), size)]) == body


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 40))
def test_joined_bodies_are_one(bodies: list[bytes], size: int) -> None:
    """RFC 1952 §2.2: gzip members in a row are one body."""
    packed = b"".join(map(gzip.compress, bodies))
    assert inflated(b"gzip", [packed[at : at + size] for at in range(0, len(packed), size)]) == b"".join(bodies)


@given(st.binary(min_size=1, max_size=200), st.integers(1, 18))
def test_a_body_that_ends_too_soon_is_refused(body: bytes, missing: int) -> None:
    """wire.md H5: a compressed body that was cut never looks whole."""
    with pytest.raises(ValueError, match="ends too soon"):
        inflated(b"gzip", [gzip.compress(body)[:-missing]])


@given(st.binary(min_size=20, max_size=200))
def test_garbage_is_refused_and_nothing_else_is_raised(body: bytes) -> None:
    """wire.md H5: what is not compressed as it says is a ValueError, whatever it is."""
    for coding in (b"gzip", b"deflate"):
        inflater = Inflater(coding)
        inflater.feed(body)
        try:
            while inflater.piece():
                pass
            inflater.end()
        except ValueError:
            continue
        assert coding == b"deflate" or body.startswith(b"\x1f\x8b")


def test_a_bomb_costs_no_memory() -> None:
    """wire.md H5: 200 MB in 200 kB come out piece by piece, never as a whole."""
    stream = zlib.compressobj(9, wbits=31)
    packed = b"".join(stream.compress(bytes(2**20)) for _ in range(200)) + stream.flush()
    assert len(packed) < 300_000
    inflater = Inflater(b"gzip")
    count = 0
    tracemalloc.start()
    try:
        for at in range(0, len(packed), PIECE_BYTES_MAX):
            inflater.feed(packed[at : at + PIECE_BYTES_MAX])
            while piece := inflater.piece():
                count += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    inflater.end()
    assert count == 200 * 2**20


def test_an_empty_body_needs_no_head() -> None:
    """RFC 9110: an answer without a body may still name its coding."""
    assert inflated(b"gzip", []) == b""


@pytest.mark.parametrize(("coding", "expected"), [(b"gzip", True), (b"deflate", True), (b"br", False), (b"zstd", False)])
def test_only_what_zlib_reads_is_readable(coding: bytes, expected: bool) -> None:
    """wire.md H5: other codings are refused rather than passed on unread."""
    assert readable(coding) is expected
