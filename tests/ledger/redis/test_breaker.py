"""breaker: when Redis is no longer asked, with times as given."""

from sentinel.ledger.redis.breaker import Breaker


def test_three_failures_in_a_row_open_it() -> None:
    """Refused or broken connections: the third opens it, an answer in between begins the count anew."""
    breaker = Breaker()
    assert [breaker.failed(0.5, None) for _ in range(2)] == [False, False]
    assert [breaker.failed(1.0, None) for _ in range(3)] == [False, False, True]
    assert breaker.is_open


def test_silence_opens_it_at_once() -> None:
    """A call that was late while nothing at all came back: one deadline is all a frozen Redis costs."""
    breaker = Breaker()
    assert breaker.failed(10.0, 10.025)
    assert breaker.is_open


def test_one_late_call_among_answers_does_not() -> None:
    """Others were answered after half of its time: Redis is there, this call was only slow."""
    breaker = Breaker()
    assert [breaker.failed(10.03, 10.025) for _ in range(2)] == [False, False]
    assert not breaker.is_open


def test_it_opens_once_and_only_a_probe_closes_it() -> None:
    """Late answers leave it open; once closed, it counts from nothing."""
    breaker = Breaker()
    assert breaker.open()
    assert not breaker.open()
    assert not breaker.failed(10.0, None)
    assert not breaker.failed(20.0, None)
    assert breaker.is_open
    breaker.close()
    assert not breaker.is_open
    assert [breaker.failed(20.0, None) for _ in range(3)] == [False, False, True]
