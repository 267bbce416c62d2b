"""A body keeps its rate on the whole, and what keeps it is never late."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.downstream.body_pace import GRACE_S, Pace

IDLE_S = 30.0
RATES = st.integers(1, 10_000)


@given(RATES, st.lists(st.tuples(st.floats(0, 40), st.integers(0, 10**6)), max_size=20))
def test_whoever_is_in_time_keeps_the_rate(rate: int, arrivals: list[tuple[float, int]]) -> None:
    """As long as nothing is late, so many bytes a second have come but for the first seconds, and never nothing for long."""
    pace, now_s, bytes_here = Pace(rate, IDLE_S, 100.0), 100.0, 0
    for after_s, count in arrivals:
        assert pace.due_s <= now_s + IDLE_S
        assert (pace.due_s - 100.0 - GRACE_S) * rate <= bytes_here + 1e-3
        if now_s + after_s > pace.due_s:
            break
        now_s += after_s
        bytes_here += count
        pace.arrived(count, now_s)


@given(RATES, st.lists(st.floats(0.01, GRACE_S), max_size=50))
def test_whoever_keeps_the_rate_is_in_time(rate: int, waits: list[float]) -> None:
    """However its parts are spaced, a body that keeps the rate is never late."""
    pace, now_s = Pace(rate, IDLE_S, 0.0), 0.0
    for wait_s in waits:
        now_s += wait_s
        assert now_s <= pace.due_s
        pace.arrived(math.ceil(rate * wait_s), now_s)


def test_what_others_take_is_not_the_clients() -> None:
    """While nobody waits for the body its time stands still."""
    pace = Pace(1000, IDLE_S, 0.0)
    pace.paused(100.0)
    assert pace.due_s == 100.0 + GRACE_S


@pytest.mark.parametrize("idle_s", [0.1, 5.0, 30.0])
def test_without_a_rate_only_silence_counts(idle_s: float) -> None:
    """Where no rate is asked, one byte is as good as many."""
    pace = Pace(0, idle_s, 0.0)
    assert pace.due_s == idle_s
    pace.arrived(1, idle_s)
    assert pace.due_s == 2 * idle_s
