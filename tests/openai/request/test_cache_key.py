"""repeatable: which requests may be answered again, and that no two of them share a name."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.request import cache_key
from sentinel.ops.records import Call, Caller

CALLER = Caller("customer-1", "one@example.test")


def call(path: str = "/chat/completions", **members: Any) -> Call:
    """A call whose body holds `members`, at temperature 0."""
    asked = {"model": "gpt-4o", "temperature": 0} | members
    return Call("a_route", "POST", path, model="gpt-4o", body=json.dumps(asked).encode())


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (call(), True),
        (call(temperature=0.0), True),
        (call(temperature=-0.0), True),
        (call(temperature=1e-9), False),
        (call(temperature=None), False),
        (call(temperature=False), False),
        (call(temperature="0"), False),
        (call("/completions"), True),
        (call("/completions", best_of=2), False),
        (call("/embeddings", temperature=None), True),
        (call("/responses"), False),
        (call("/chat/completions/chatcmpl-1"), False),
        (call(n=1), True),
        (call(n=2), False),
        (call(stream=True), False),
        (call(stream=False), True),
        (call(store=True), False),
        (call(store=False), True),
        (call(background=True), False),
        (call(tools=[{"type": "function"}]), False),
        (call(tools=[]), True),
        (call(functions=[{"name": "f"}]), False),
        (call(web_search_options={}), False),
        (call(audio={"voice": "x"}), False),
    ],
)
def test_what_may_be_answered_again(one: Call, expected: bool) -> None:
    """Design §5: simple, certain requests only; what is unclear is asked of the provider."""
    assert cache_key.is_repeatable(one) is expected


def test_what_the_call_says_counts_too() -> None:
    """Design §5: streams, stored and background work, other methods and bodies that are no JSON are never kept."""
    for change in (
        {"stream": True},
        {"stored": True},
        {"background": True},
        {"method": "GET"},
        {"body": b"\xff"},
        {"body": b"[]"},
    ):
        assert cache_key.is_repeatable(msgspec.structs.replace(call(), **change)) is False


_parts = st.tuples(st.text(max_size=4), st.text("/ab", max_size=4), st.binary(max_size=4), st.binary(max_size=4))


@given(_parts, _parts)
def test_a_name_belongs_to_one_request_of_one_caller(one: Any, other: Any) -> None:
    """Design §5: caller, path, query and body each count, however they are cut."""
    names = [
        cache_key.name(Caller(who, ""), Call("chat_completions", "POST", path, query, body=body))
        for who, path, query, body in (one, other)
    ]
    assert (names[0] == names[1]) is (one == other)
    assert len(names[0]) == 64


@pytest.mark.parametrize(
    ("body", "whole"),
    [(b'{"id":1}', True), (b'{"id":1', False), (b"", False), (b"[1]", False), (b'{"error":{"message":"x"}}', False)],
)
def test_only_whole_answers_are_kept(body: bytes, whole: bool) -> None:
    """Design §5: what broke off, or tells an error, is not given again."""
    assert cache_key.is_whole(body) is whole


@given(st.binary().filter(lambda media: b"\n" not in media), st.binary())
def test_packed_answers_come_back(media: bytes, body: bytes) -> None:
    """What was kept is what is found, line ends in the body included."""
    assert cache_key.unpack(cache_key.pack(media, body)) == (media, body)
