"""inflate: compressed bodies made plain, at every split, in bounded pieces."""

import importlib
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.upstream.inflate import PIECE_BYTES_MAX, Inflater, readable
from tests.support import packing

WAYS = packing.WAYS
JOINED = sorted({"gzip", "x-gzip", "zstd"} & set(WAYS))


def inflated(coding: bytes, chunks: list[bytes]) -> bytes:
    """All pieces of a body that comes in `chunks`."""
    inflater = Inflater(coding)
    said = []
    for chunk in chunks:
        inflater.feed(chunk)
        while piece := inflater.piece():
            assert len(piece) <= PIECE_BYTES_MAX
            said.append(piece)
    inflater.end()
    return b"".join(said)


@given(st.sampled_from(sorted(WAYS)), st.binary(max_size=2000), st.integers(1, 40))
def test_every_split_gives_the_same_body(way: str, body: bytes, size: int) -> None:
    """Rule H5: what was compressed comes out, wherever the reads fall; bare deflate too."""
    packed = WAYS[way](body)
    assert inflated(packing.coding(way), [packed[at : at + size] for at in range(0, len(packed), size)]) == body


@given(st.sampled_from(JOINED), st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 40))
def test_joined_bodies_are_one(way: str, bodies: list[bytes], size: int) -> None:
    """RFC 1952 §2.2, RFC 8878 §3.1: gzip members in a row, or frames of zstd, are one body."""
    packed = b"".join(map(WAYS[way], bodies))
    assert inflated(way.encode(), [packed[at : at + size] for at in range(0, len(packed), size)]) == b"".join(bodies)


@given(st.sampled_from(sorted(WAYS)), st.binary(min_size=1, max_size=200), st.data())
def test_a_body_that_ends_too_soon_is_refused(way: str, body: bytes, data: st.DataObject) -> None:
    """Rule H5: a compressed body that was cut never looks whole."""
    packed = WAYS[way](body)
    kept = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(ValueError, match="ends too soon"):
        inflated(packing.coding(way), [packed[:kept]])


@given(st.sampled_from(sorted(WAYS)), st.binary(max_size=200), st.binary(min_size=1, max_size=20), st.integers(1, 40))
def test_what_comes_behind_the_end_is_refused(way: str, body: bytes, more: bytes, size: int) -> None:
    """RFC 9110 §8.4: two readers could take a body with something behind it for two things; only a body in a row is one."""
    packed = WAYS[way](body) + b"\xff" + more
    with pytest.raises(ValueError, match="body"):
        inflated(packing.coding(way), [packed[at : at + size] for at in range(0, len(packed), size)])


@given(st.binary(min_size=20, max_size=200))
def test_garbage_is_refused_and_nothing_else_is_raised(body: bytes) -> None:
    """Rule H5: what is not compressed as it says is a ValueError, whatever it is."""
    for coding in map(packing.coding, WAYS):
        try:
            inflated(coding, [body])
        except ValueError:
            continue
        assert coding not in {b"gzip", b"x-gzip"} or body.startswith(b"\x1f\x8b")


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_bomb_costs_no_memory(way: str) -> None:
    """Rule H5: 32 MB in a few kB come out piece by piece, never as a whole."""
    packed = WAYS[way](bytes(32 * 2**20))
    assert len(packed) < 100_000
    inflater = Inflater(packing.coding(way))
    count = 0
    tracemalloc.start()
    try:
        for at in range(0, len(packed), PIECE_BYTES_MAX):
            inflater.feed(packed[at : at + PIECE_BYTES_MAX])
            while piece := inflater.piece():
                assert len(piece) <= PIECE_BYTES_MAX
                count += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    inflater.end()
    assert count == 32 * 2**20


@packing.needs("zstd")
def test_a_window_that_is_too_large_is_refused() -> None:
    """RFC 9659: a frame of zstd may ask its reader for up to 8 MiB of memory, not for more."""
    for log, refused in ((23, False), (24, True)):
        packed = packing.zstd_with_window(bytes(2**25), log)
        try:
            assert len(inflated(b"zstd", [packed])) == 2**25
        except ValueError:
            assert refused
        else:
            assert not refused


def test_an_empty_body_needs_no_head() -> None:
    """RFC 9110: an answer without a body may still name its coding."""
    assert inflated(b"gzip", []) == b""


@pytest.mark.parametrize(("coding", "expected"), [(b"gzip", True), (b"deflate", True), (b"br", False), (b"zstd", False)])
def test_only_what_zlib_reads_is_readable(coding: bytes, expected: bool) -> None:
    """Rule H5: other codings of an answer are refused rather than passed on unread, whatever is installed."""
    assert readable(coding) is expected


@pytest.mark.parametrize("missing", [(), ("brotli",), ("zstd",), ("brotli", "zstd")])
def test_what_is_read_depends_on_what_is_installed(missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """gzip and deflate are always read, br and zstd where their library can be imported."""
    from sentinel.upstream import inflate

    names = {"brotli": ["brotli"], "zstd": ["backports", "backports.zstd", "compression", "compression.zstd"]}
    for library in missing:
        for name in names[library]:
            monkeypatch.setitem(sys.modules, name, None)
    there = {"br": "br" in WAYS and "brotli" not in missing, "zstd": "zstd" in WAYS and "zstd" not in missing}
    try:
        module = importlib.reload(inflate)
        assert {name: module.installed(name.encode()) for name in there} == there
        assert all(map(module.installed, (b"gzip", b"x-gzip", b"deflate")))
        assert module.ACCEPTED.decode().split(", ") == ["gzip", "deflate", *(name for name in there if there[name])]
    finally:
        monkeypatch.undo()
        importlib.reload(inflate)
