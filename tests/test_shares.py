"""What all callers share is counted by caller, exactly."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sentinel.edges.shares import Shares


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.tuples(st.sampled_from("abc"), st.integers(-20, 20).filter(bool))))
def test_no_more_than_there_is_is_taken(total: int, share: int, acts: list[tuple[str, int]]) -> None:
    """At any moment all callers have at most `total`, each at most `share`; what found no room takes nothing, what is given
    back is free, and in the end nobody is remembered.
    """
    shares, taken = Shares(total, share), Counter[str]()
    for caller, count in acts:
        if count < 0:
            back = min(-count, taken[caller])
            if back:
                shares.give(caller, back)
            taken[caller] -= back
        else:
            fits = taken[caller] + count <= share and taken.total() + count <= total
            assert shares.take(caller, count) is fits
            taken[caller] += count * fits
        assert (shares.taken, [shares._by_caller.get(one, 0) for one in "abc"]) == (
            taken.total(),
            [taken[one] for one in "abc"],
        )
    for caller, count in taken.items():
        if count:
            shares.give(caller, count)
    assert shares.taken == 0
    assert not shares._by_caller
