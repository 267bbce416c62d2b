"""The guard against regressions (bench/README.md): how it counts, and what it takes for grown."""

import pytest

from bench.counting import Bytecodes, Calls, usual
from bench.guard import TOLERANCE, compare, differing, least
from sentinel.openai.response import sse

KNOWN = {"plain": {"calls": 400, "library_calls": 600, "builtin_calls": 1000, "peak_bytes": 17000}}


def test_growth_within_its_tolerance_passes() -> None:
    """A count may grow by its tolerance, and shrink by anything."""
    assert compare(KNOWN, {"plain": {"calls": 408, "library_calls": 660, "builtin_calls": 1, "peak_bytes": 17000}}) == []


def test_growth_beyond_it_is_told() -> None:
    """What has grown is named, with both counts."""
    grown = compare(KNOWN, {"plain": {"calls": 440, "library_calls": 600, "builtin_calls": 1000, "peak_bytes": 17000}})
    assert grown == ["plain: calls 400 -> 440 (+10 %)"]


@pytest.mark.parametrize("count", TOLERANCE)
def test_every_count_is_held(count: str) -> None:
    """Each of them that doubles is told."""
    assert compare({"plain": {count: 10}}, {"plain": {count: 20}}) == [f"plain: {count} 10 -> 20 (+100 %)"]


def test_the_least_of_two_counts_counts() -> None:
    """What is counted again counts by its smaller figure, each by itself."""
    assert least({"plain": {"calls": 3, "bytecodes": 9}}, {"plain": {"calls": 4, "bytecodes": 7}}) == {
        "plain": {"calls": 3, "bytecodes": 7}
    }


def test_a_new_shape_has_not_grown() -> None:
    """What was never written down is compared with nothing."""
    assert compare(KNOWN, {"upload": {"calls": 10**6}}) == []


def test_other_versions_are_named() -> None:
    """What differs, and what was not there before, with both versions."""
    assert differing({"python": "3.11.7", "redis": "8"}, {"python": "3.12.1", "redis": "8", "uvloop": "1"}) == [
        "python 3.11.7 -> 3.12.1",
        "uvloop None -> 1",
    ]


def test_calls_are_counted_by_whose_they_are() -> None:
    """A call of Sentinel's own function is told apart from a library's and from a builtin's."""
    with Calls() as counted:
        sse.closed(b"data: x\n")
    assert counted.calls == 1
    assert counted.builtin_calls >= 3


@pytest.mark.no_cover
def test_instructions_are_counted_to_the_last() -> None:
    """The same work counts the same each time, more work more, and nothing is counted afterwards."""

    def bytecodes(times: int) -> int:
        with Bytecodes() as counted:
            for _ in range(times):
                sse.closed(b"data: x\n")
        before = counted.bytecodes
        sse.closed(b"data: x\n")
        assert counted.bytecodes == before
        return before

    first, again, twice, thrice = (bytecodes(times) for times in (1, 1, 2, 3))
    assert first == again > 10
    assert twice - first == thrice - twice > 10


def test_the_usual_round_is_the_one_most_often_seen() -> None:
    """A round with something beside it does not count, neither more nor less of it; of two seen as often the cheaper does."""
    assert usual([(9, 9), (3, 4), (1, 1), (3, 4), (7, 7)]) == ((3, 4), 2)
    assert usual([(9, 9), (3, 4)]) == ((3, 4), 1)
