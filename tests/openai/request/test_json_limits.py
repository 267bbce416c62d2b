"""openai.request.json_limits: how deep and how large a body may be, whatever its strings look like and wherever it is cut."""

import json
import sys
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.openai.request.json_limits import NESTING_MAX, SLICE_BYTES, VALUES_MAX, check_structure, decoded_bytes
from sentinel.ops.errors import BadRequestError

# Strings full of what structure is made of.
texts = st.text(st.sampled_from('[]{}",\\ax\n'), max_size=12)
values = st.recursive(
    st.integers(0, 9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)


def depth(value: Any) -> int:
    """How deep a decoded value nests."""
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def refusal(body: bytes, slice_bytes: int = SLICE_BYTES) -> str:
    """What is said against a body; nothing where it is fine."""
    try:
        check_structure(body, slice_bytes=slice_bytes)
    except BadRequestError as error:
        assert error.code == "invalid_body"
        return error.message
    return ""


@given(st.lists(values, max_size=30), st.integers(0, 80), st.booleans(), st.sampled_from([1, 2, 3, 7, 64, SLICE_BYTES]))
@example(["\\", '"[', "\\\\"], 62, True, 1)
def test_depth_is_what_it_is(inner: list[Any], around: int, objects: bool, slice_bytes: int) -> None:
    """Y7: refused if and only if deeper than 64, with brackets, quotes and backslashes in strings, at every split."""
    value: Any = inner
    for _ in range(around):
        value = {'"[': value, "}": "]]]]"} if objects else ["]}", value, "{["]
    body = json.dumps(value).encode()
    assert bool(refusal(body, slice_bytes)) == (depth(value) > NESTING_MAX)


@given(st.binary(max_size=80), st.integers(1, 9))
def test_any_bytes(body: bytes, slice_bytes: int) -> None:
    """H12: bytes that are no JSON raise nothing else."""
    assert refusal(body, slice_bytes) == ""
    assert refusal(b'{"a":' * 70 + body, slice_bytes) != ""


@pytest.mark.parametrize("text", [b"[", b'{"a":', b"[{", b'["]",', b'["\\"]",'])
def test_nesting_far_beyond(text: bytes) -> None:
    """Y7: megabytes of opening brackets are refused, also behind strings that seem to close them."""
    assert "nested" in refusal(text * 2_000_000)
    assert "nested" in refusal(text * 65)
    assert refusal(text * 32) == ""


@pytest.mark.parametrize("value", [b"{}", b"[]", b"1", b'""', b'{"a":1}', b'"\\\\"'])
def test_a_flood_of_values_is_refused(value: bytes) -> None:
    """H13: 32 MiB of small values would take seconds to decode; their number is bounded."""
    flood = b'{"messages":[' + b",".join([value] * (VALUES_MAX + 1)) + b"]}"
    assert "too many values" in refusal(flood)
    assert refusal(b'{"messages":[' + b",".join([value] * (VALUES_MAX // 2 - 2)) + b"]}") == ""


def test_what_stands_in_strings_does_not_count() -> None:
    """H13: a long text with commas and brackets is one value."""
    for text in ("a,[b]{", ',"', ",\\", "{" * 100):
        assert refusal(json.dumps({"model": "m", "messages": [{"content": text * 300_000}]}).encode()) == ""


def test_the_tokens_of_a_large_embedding_fit() -> None:
    """T4: OpenAI takes 300 000 tokens in one request, each of which is a value."""
    assert refusal(json.dumps({"input": [[100_000] * 1000] * 300}).encode()) == ""


def taken(value: Any) -> int:
    """What a decoded value takes, all that hangs on it included; a text also in UTF-8, where it is not ASCII."""
    size = sys.getsizeof(value)
    if isinstance(value, str):
        return size if value.isascii() else size + len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict):
        return size + sum(taken(key) + taken(one) for key, one in value.items())
    return size + sum(map(taken, value)) if isinstance(value, list) else size


wide = st.recursive(
    st.none() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40) | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=9), inner, max_size=6),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=9), wide, max_size=9), st.booleans(), st.sampled_from([1, 2, 3, 7, 64, SLICE_BYTES]))
def test_no_value_takes_more_than_is_said(value: dict[str, Any], ascii_only: bool, slice_bytes: int) -> None:
    """Whatever its texts are, however they are escaped and wherever it is cut, what is decoded takes no more."""
    body = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")).encode("utf-8", "surrogatepass")
    # A little for what is no text, value, or container of its own: the outermost.
    assert taken(json.loads(body)) <= decoded_bytes(body, slice_bytes=slice_bytes) + 512


UNITS = ["{}", "[]", '{"":0}', "[0]", "[[]]", '{"a":{"b":1}}', "0", "1234", "12345678901234567890", "1.5", '""', '"ab"']
UNITS += [
    '"\N{GRINNING FACE}"',
    r'"\ud83d\ude00ab"',
    '"\N{LATIN SMALL LETTER E WITH ACUTE}ab"',
    '{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}',
]


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_said_is_what_the_memory_shows(unit: str) -> None:
    """The allocator's own figure for many of one kind is no more than is said."""
    body = b"[" + b",".join([unit.encode()] * 20_000) + b"]"
    decoder = msgspec.json.Decoder()
    tracemalloc.start()
    value = decoder.decode(body)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(value) == 20_000
    assert peak_bytes <= decoded_bytes(body)


@pytest.mark.parametrize("slice_bytes", [64, SLICE_BYTES])
def test_a_wide_text_does_not_widen_its_neighbours(slice_bytes: int) -> None:
    """An honest request, a large image beside a text with an emoji, counts as what it takes."""
    body = json.dumps(["x" * 10**6, "smile \N{GRINNING FACE}" * 3], ensure_ascii=False).encode()
    assert decoded_bytes(body, slice_bytes=slice_bytes) < 1.01 * 10**6
    assert decoded_bytes(b'["' + b"x" * 10**6 + b'\\"\xf0\x9f\x98\x80"]', slice_bytes=slice_bytes) > 4 * 10**6
