"""standby: who is admitted without Redis, in each mode, by what the ledger said last."""

import pytest

from sentinel.ledger.degraded import DegradedAdmission
from sentinel.ops.records import Bill, Caller, Hold, Remaining
from sentinel.zion.limits import Verdict

FREE = Remaining(None, None, None)


class Clock:
    """A monotonic clock, s."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def new_standby(mode: str, clock: Clock, *, callers_max: int = 100) -> DegradedAdmission:
    """One of two processes that together admit half."""
    return DegradedAdmission(mode, ratio=0.5, processes=2, window_ms=60_000, callers_max=callers_max, now_s=clock)


def verdict(code: str = "admitted", *, requests: int = 20, output: int = 1000) -> Verdict:
    """What the ledger said."""
    left = (Remaining(10**6, 10**6, None), Remaining(10**6, output, None), Remaining(100, requests, None))
    return Verdict(code, "ok", 0, *left, FREE, False, (0, 0, 0), 0)


def held(output_tokens: int) -> Hold:
    """A hold that was made here."""
    return Hold("req_1", Caller("a", ""), "m", 10, output_tokens, FREE, FREE, FREE, FREE, degraded="sliced")


def test_sliced_admits_a_slice_of_what_remained() -> None:
    """20 requests, half of them, 2 processes: 5 here; then it does not know."""
    standby = new_standby("sliced", Clock())
    assert not standby.admits
    standby.learn("a", verdict())
    assert standby.admits
    verdicts = [standby.admit("a", 1, 1, 1) for _ in range(7)]
    assert [found.code if found else None for found in verdicts] == ["admitted"] * 5 + [None] * 2
    assert verdicts[0] is not None
    assert verdicts[0].requests == Remaining(100, 4, None)


def test_a_used_up_limit_is_a_denial() -> None:
    """The caller is told what Redis would have told it, and a denial is remembered as an admission is."""
    standby = new_standby("sliced", Clock())
    standby.learn("a", verdict("denied", requests=0))
    found = standby.admit("a", 1, 1, 1)
    assert found is not None
    assert (found.code, found.why) == ("denied", "requests")


@pytest.mark.parametrize("code", ["snapshot", "settled"])
def test_what_is_no_verdict_is_not_remembered(code: str) -> None:
    """An unknown caller's limits look like none."""
    standby = new_standby("sliced", Clock())
    standby.learn("a", verdict(code))
    assert standby.admit("a", 1, 1, 1) is None
    assert not standby.admits


def test_the_memory_is_bounded_and_forgets_who_was_longest_away() -> None:
    """Of three callers with room for two, the one that asked last stays."""
    standby = new_standby("sliced", Clock(), callers_max=2)
    for caller in ("a", "b", "a", "c"):
        standby.learn(caller, verdict())
    assert [standby.admit(caller, 1, 1, 1) is not None for caller in ("a", "b", "c")] == [True, False, True]


def test_a_bill_gives_back_what_was_not_used() -> None:
    """The slice of 250 output tokens serves one after another, if each uses little."""
    standby = new_standby("sliced", Clock())
    standby.learn("a", verdict(requests=1000))
    first = standby.admit("a", 10, 4096, 1)
    assert first is not None
    assert first.granted_output == 250
    assert standby.admit("a", 10, 4096, 1) is None
    standby.settle(held(250), Bill(1, 10, 40))
    second = standby.admit("a", 10, 4096, 1)
    assert second is not None
    assert second.granted_output == 210


def test_a_new_verdict_gives_a_new_slice_once_old_bills_have_arrived() -> None:
    """Redis back for a moment does not double what may be spent without it."""
    clock = Clock()
    standby = new_standby("sliced", clock)
    standby.learn("a", verdict())
    assert [standby.admit("a", 1, 1, 1) is not None for _ in range(6)] == [True] * 5 + [False]
    clock.now_s += 1
    standby.learn("a", verdict())
    assert standby.admit("a", 1, 1, 1) is None
    clock.now_s += 61
    standby.learn("a", verdict())
    assert standby.admit("a", 1, 1, 1) is not None


def test_open_admits_everything_and_closed_nothing() -> None:
    """Whatever the ledger said before."""
    open_, closed = new_standby("open", Clock()), new_standby("closed", Clock())
    for standby in (open_, closed):
        standby.learn("a", verdict("denied", requests=0))
    found = open_.admit("a", 10**9, 10**9, 10**9)
    assert found is not None
    assert (found.code, found.granted_output, found.requests) == ("admitted", 10**9, FREE)
    assert open_.admits
    assert closed.admit("a", 1, 1, 1) is None
    assert not closed.admits
