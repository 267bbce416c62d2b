"""codings: what Content-Encoding says of a request, and its body made plain within its bound."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.downstream import content_codings
from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import BadRequestError, BodyTooLargeError, UnsupportedMediaTypeError
from sentinel.upstream import inflate
from tests.support import packing

MB = 2**20


def said(*values: bytes) -> tuple[bytes, ...]:
    """What is read of these header lines."""
    return content_codings.named(Fields.of([(b"content-encoding", value) for value in values]))


def plain(body: bytes, *names: bytes, bytes_max: int = MB) -> bytes:
    """The whole body."""
    return b"".join(content_codings.plain(body, names, bytes_max))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([b"gzip"], [b"gzip"]),
        ([b"GZip"], [b"gzip"]),
        ([b" gzip ,\tbr"], [b"gzip", b"br"]),
        ([b"gzip", b"br"], [b"gzip", b"br"]),
        ([b"gzip,br", b"x-gzip"], [b"gzip", b"br", b"x-gzip"]),
        ([b""], []),
        ([b",, ,"], []),
        ([b"identity"], []),
        ([b"Identity, gzip, identity"], [b"gzip"]),
        ([b"UTF-8"], []),
        ([b"utf8"], []),
        ([b"lzma"], [b"lzma"]),
    ],
)
def test_codings_are_listed(values: list[bytes], names: list[bytes]) -> None:
    """RFC 9110 §8.4, §5.3: a list in any case, over several lines; `identity`, and a charset by mistake, are no coding."""
    assert list(said(*values)) == names


@pytest.mark.parametrize(
    "value", [b"gzip;q=1", b"gzip br", b'"gzip"', b"g\xc3\xa9", b"gzip/1", b"x" * 33, b"(gzip)", b"gzip\x00"]
)
def test_what_is_no_list_of_codings_is_415(value: bytes) -> None:
    """RFC 9110 §15.5.16: and it is told what is read."""
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        said(value)
    assert caught.value.headers == ((b"accept-encoding", inflate.ACCEPTED),)


@pytest.mark.parametrize(
    "names", [[b"compress"], [b"gzip", b"lz4"], [b"aws-chunked"], [b"*"], [b"gzip"] * (content_codings.CODINGS_MAX + 1)]
)
def test_a_coding_that_is_not_read_is_415(names: list[bytes]) -> None:
    """RFC 9110 §15.5.16: other codings, and more of them than anybody has a use for."""
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        content_codings.check_readable(names)
    assert (caught.value.status, caught.value.code) == (415, "unsupported_content_encoding")
    assert caught.value.headers == ((b"accept-encoding", inflate.ACCEPTED),)


def test_all_that_is_told_is_read() -> None:
    """What Accept-Encoding names is read, and so is the old name of gzip."""
    told = inflate.ACCEPTED.split(b", ")
    assert told[:2] == [b"gzip", b"deflate"]
    assert len(set(told)) == len(told)
    for name in (*told, b"x-gzip"):
        content_codings.check_readable([name])


@given(
    st.lists(st.sampled_from(sorted(packing.WAYS)), min_size=1, max_size=content_codings.CODINGS_MAX),
    st.binary(max_size=40_000),
)
def test_what_was_packed_comes_out(ways: list[str], body: bytes) -> None:
    """RFC 9110 §8.4: codings are taken off in the reverse of the order in which they are named."""
    packed = body
    for way in ways:
        packed = packing.WAYS[way](packed)
    assert plain(packed, *map(packing.coding, ways)) == body


@given(st.sampled_from(sorted(packing.WAYS)), st.binary(max_size=300), st.integers(0, 300))
def test_the_bound_is_exact(way: str, body: bytes, bytes_max: int) -> None:
    """Rule H13: a body of exactly the bound is taken, one byte more is 413."""
    packed = packing.WAYS[way](body)
    if len(body) <= bytes_max:
        assert plain(packed, packing.coding(way), bytes_max=bytes_max) == body
    else:
        with pytest.raises(BodyTooLargeError):
            plain(packed, packing.coding(way), bytes_max=bytes_max)


@pytest.mark.parametrize("way", sorted(packing.WAYS))
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_bomb_is_413_and_costs_no_memory(way: str, layers: int) -> None:
    """Rule H13: 32 MB packed once, or again and again: nothing beyond the bound is ever there."""
    packed = bytes(32 * MB)
    for _ in range(layers):
        packed = packing.WAYS[way](packed)
    tracemalloc.start()
    try:
        pieces = content_codings.plain(packed, [packing.coding(way)] * layers, MB)
        with pytest.raises(BodyTooLargeError):
            while content_codings.batch(pieces, 2**16):
                pass
        assert tracemalloc.get_traced_memory()[1] < 2 * MB
    finally:
        tracemalloc.stop()


def test_a_bomb_between_two_codings_is_413() -> None:
    """Rule H13: what is large only between two codings, and little in the end, is as large."""
    inner = zlib.compressobj(9)
    # Blocks that hold nothing: they come out of the outer coding, and nothing comes out of them.
    large = inner.compress(b"x") + b"".join(inner.flush(zlib.Z_FULL_FLUSH) for _ in range(2)) + b"\0\0\0\xff\xff" * MB
    with pytest.raises(BodyTooLargeError):
        plain(gzip.compress(large), b"deflate", b"gzip")


@pytest.mark.parametrize("way", sorted({"gzip", "x-gzip", "zstd"} & set(packing.WAYS)))
def test_streams_in_a_row_are_bounded(way: str) -> None:
    """Rule Y7: each costs time whatever is in it, so that there is an end to them; usual numbers pass."""
    one = packing.WAYS[way](b"x")
    assert plain(one * 1000, packing.coding(way)) == b"x" * 1000
    with pytest.raises(BadRequestError):
        plain(one * (content_codings.STREAMS_MAX + 2000), packing.coding(way))


@pytest.mark.parametrize("way", sorted(packing.WAYS))
@pytest.mark.parametrize("fault", ["cut", "plain", "garbage behind", "zeros behind", "another's", "a bit flipped"])
def test_broken_bodies_are_400(way: str, fault: str) -> None:
    """Rule H12: bytes that are not what Content-Encoding says they are; the coding is named."""
    packed = packing.WAYS[way](b'{"model": "m"}' * 50)
    broken = {
        "cut": packed[:-3],
        "plain": b'{"model": "m"}',
        "garbage behind": packed + b"garbage",
        "zeros behind": packed + bytes(8),
        "another's": b"BZh91AY&SY" + packed,
        "a bit flipped": packed[:10] + bytes([packed[10] ^ 0x55]) + packed[11:],
    }[fault]
    with pytest.raises(BadRequestError) as caught:
        plain(broken, packing.coding(way))
    assert (caught.value.status, caught.value.code) == (400, "invalid_body")
    assert f"'{packing.coding(way).decode()}'" in caught.value.message


def test_batches_are_what_the_pieces_are() -> None:
    """A batch holds at least what is asked of it, until there is no more."""
    assert [content_codings.batch(iter([]), 5)] == [b""]
    pieces = iter([b"ab", b"cd", b"ef", b"g"])
    assert [content_codings.batch(pieces, 3) for _ in range(3)] == [b"abcd", b"efg", b""]
