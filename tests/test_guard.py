"""The guard against regressions (bench/README.md): what it takes for grown."""

from bench.guard import Counting, compare

KNOWN = {"plain": {"calls": 400, "library_calls": 600, "builtin_calls": 1000, "peak_bytes": 17000}}


def test_growth_within_its_tolerance_passes() -> None:
    """A count may grow by its tolerance, and shrink by anything."""
    assert compare(KNOWN, {"plain": {"calls": 420, "library_calls": 660, "builtin_calls": 1, "peak_bytes": 17000}}) == []


def test_growth_beyond_it_is_told() -> None:
    """What has grown is named, with both counts."""
    grown = compare(KNOWN, {"plain": {"calls": 440, "library_calls": 600, "builtin_calls": 1000, "peak_bytes": 17000}})
    assert grown == ["plain: calls 400 -> 440 (+10 %)"]


def test_a_new_shape_has_not_grown() -> None:
    """What was never written down is compared with nothing."""
    assert compare(KNOWN, {"upload": {"calls": 10**6}}) == []


def test_calls_are_counted_by_whose_they_are() -> None:
    """A call of Sentinel's own function is told apart from a library's and from a builtin's."""
    from sentinel.protocol import sse

    counting = Counting()
    with counting:
        sse.closed(b"data: x\n")
    assert counting.calls == 1
    assert counting.builtin_calls >= 3
