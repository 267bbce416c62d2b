"""What all callers share is counted by caller, exactly."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sentinel.downstream.fair_share import Shares


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.tuples(st.sampled_from("abc"), st.integers(-20, 20).filter(bool))))
def test_no_more_than_there_is_is_taken(total: int, share: int, acts: list[tuple[str, int]]) -> None:
    """At any moment all callers have at most `total`, each at most `share`, and took beside others no more than stayed free;
    what found no room takes nothing, what is given back is free, and in the end nobody is remembered.
    """
    shares, taken = Shares(total, share), Counter[str]()
    for caller, count in acts:
        if count < 0:
            back = min(-count, taken[caller])
            if back:
                shares.give(caller, back)
            taken[caller] -= back
        else:
            own, free = taken[caller] + count, total - taken.total() - count
            alone = taken[caller] == taken.total()
            fits = own <= share and free >= (0 if alone else own)
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


@given(st.integers(1, 10_000), st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 10_000))))
def test_callers_who_take_all_they_can_leave_room(total: int, acts: list[tuple[str, int]]) -> None:
    """Whatever k callers take, and in whatever order, a k-th power of a half of all stays free; half of that is
    there for one more.
    """
    shares = Shares(total, total // 2)
    for caller, wanted in acts:
        # As much as there is, to a half.
        any(shares.take(caller, wanted >> halvings) for halvings in range(wanted.bit_length()))
    free = total - shares.taken
    assert free >= total / 2 ** len(shares._by_caller)
    if not shares.of("another") and free >= 2:
        assert shares.take("another", min(free // 2, total // 2))


def test_a_caller_alone_has_its_whole_share() -> None:
    """A share of more than half is there for who is alone, and what stays is divided by halves."""
    shares = Shares(100, 90)
    assert shares.take("a", 90)
    assert not shares.take("b", 6)
    assert shares.take("b", 5)
