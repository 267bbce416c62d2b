"""protocol.structure: how deep and how large a body may be, whatever its strings look like and wherever it is cut."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.errors import BadRequestError
from sentinel.protocol.structure import NESTING_MAX, SLICE_BYTES, VALUES_MAX, check_structure

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
    """G7: refused if and only if deeper than 64, with brackets, quotes and backslashes in strings, at every split."""
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
    """G7: megabytes of opening brackets are refused, also behind strings that seem to close them."""
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
