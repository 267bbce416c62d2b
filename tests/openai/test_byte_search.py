"""openai.byte_search: what is found in slices is what is there."""

from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai import byte_search
from sentinel.openai.request import object_ids


@given(
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"aab"])).map(b"".join),
    st.sampled_from([b"a", b"ab", b"aba", b"bb"]),
    st.integers(1, 5),
)
def test_slices_find_what_is_there(text: bytes, wanted: bytes, slice_bytes: int) -> None:
    """At every size of a slice: the same places as without slices."""
    expected, at = [], text.find(wanted)
    while at >= 0:
        expected.append(at)
        at = text.find(wanted, at + len(wanted))
    assert list(byte_search.places(text, wanted, slice_bytes)) == expected
    assert byte_search.holds(text, wanted) == (wanted in text)


PIECES = [
    b"_",
    b"x",
    b'"',
    b'_id"',
    b'_ids"',
    b'_file"',
    b'"file_id"',
    b'"voice_',
    b"call",
    b" ",
    b":",
    b'"file-',
    b"[",
    b"{",
    b",",
    b"vector_store",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_long_bodies_are_searched_for_the_same(body: bytes) -> None:
    """Whether a key is there that may hold an id does not depend on how long a body is."""
    assert object_ids.holds_key(body) == (object_ids._KEY.search(body) is not None)
