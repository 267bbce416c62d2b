"""JSON that was cut off anywhere is closed again: what was whole stays as it was, what was half is the half that came."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.openai.response.json_completion import mended, whole_members
from sentinel.openai.response.usage import decode

texts = st.text(max_size=12)
values = st.recursive(
    st.one_of(texts, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=4)


def is_part(part: Any, whole: Any) -> bool:
    """Whether `part` is `whole` with its end missing."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and is_part(value, whole[name]) for name, value in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) <= len(whole) and all(map(is_part, part, whole))
    if isinstance(part, str):
        return isinstance(whole, str) and whole.startswith(part[:-1])  # a sign may be half of a pair
    return part == whole and type(part) is type(whole)


@settings(max_examples=50, deadline=None)
@given(objects, st.booleans(), st.sampled_from([None, 1]))
def test_every_cut_is_mended(whole: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    """Cut at every place, JSON is whole again, and holds nothing that was not in it."""
    text = json.dumps(whole, ensure_ascii=ascii_only, indent=indent).encode()
    for at in range(1, len(text)):
        part = decode(mended(text[:at]))
        assert part is not None, text[:at]
        assert is_part(part, whole), text[:at]
        for depth in (1, 2):
            members = decode(whole_members(text[:at], depth))
            assert members is not None, text[:at]
            assert is_part(members, whole)
            if depth == 1:
                assert all(value == whole[name] for name, value in members.items())
    assert mended(text) == whole_members(text, 1) == text


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        (b'{"a":"The riv', {"a": "The riv"}),
        (b'{"a":"The river"', {"a": "The river"}),
        (b'{"a":"The \\"ri\\', {"a": 'The "ri'}),
        (b'{"a":"\\u00e9\\u00', {"a": "é"}),
        (b'{"a":12', {}),
        (b'{"a":12,', {"a": 12}),
        (b'{"a":tru', {}),
        (b'{"a', {}),
        (b'{"a"', {}),
        (b'{"a":', {}),
        (b'{"b":1,"a"', {"b": 1}),
        (b'{"a":["x","y', {"a": ["x", "y"]}),
        (b'{"a":["x","y"', {"a": ["x", "y"]}),
        (b'{"a":[{"b":"c"},{"d":"e', {"a": [{"b": "c"}, {"d": "e"}]}),
        (b'{"choices":[{"delta":{"content":"A, \\"b\\": {[', {"choices": [{"delta": {"content": 'A, "b": {['}}]}),
    ],
)
def test_halves(cut: bytes, whole: Any) -> None:
    """A text that was cut is as long as it came; a name or a number that was cut is none."""
    assert decode(mended(cut)) == whole


def test_long_lists_are_mended() -> None:
    """A list of a million words is read in one go; of more brackets than are looked at, the rest is left out."""
    assert len(decode(mended(b'{"a":[' + b'"x",' * 1_000_000)) or {}) == 1
    many = decode(mended(b'{"a":[' + b"{}," * 300_000)) or {}
    assert len(many["a"]) == (1 << 17) - 1


@given(st.binary(max_size=100))
def test_anything_is_taken(text: bytes) -> None:
    """Nothing raises on what is no JSON."""
    assert isinstance(mended(text), bytes)
    assert isinstance(whole_members(text, 2), bytes)
