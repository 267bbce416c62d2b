"""denials: what stands counts down, the memory of it is bounded, and no error is kept."""

from sentinel.ledger import limit_errors
from sentinel.ledger.limit_errors import Attempt, Attempts, DenialCache
from sentinel.openai import headers
from sentinel.ops.records import Caller, Hold, Remaining

NOW_S = 1_795_262_400
MS = 1_000_000  # ns
FREE = Remaining(None, None, None)


def refused(name: str = "ada", *, rate: Remaining = FREE, requests: Remaining = FREE) -> Hold:
    """The figures of a caller who was refused."""
    tokens = Remaining(1000, 900, 700)
    return Hold("req_1", Caller(name, ""), "", 0, 0, requests, tokens, FREE, rate, rate_tokens=Remaining(50, 40, 30))


def test_what_stands_counts_down() -> None:
    """Every time in the answer is that of when it is given: the wait in both headers and in words, and all resets."""
    standing = DenialCache()
    standing.keep("rate", refused(rate=Remaining(5, 0, 2_500), requests=Remaining(100, 60, 90_000)), 1000, 7 * MS)
    denial = standing.find("ada")
    assert denial is not None
    assert denial.until_ns == 1007 * MS
    assert denial.hold_at(7 * MS) == denial.hold
    hold = denial.hold_at(507 * MS + MS // 2)
    assert (hold.rate.reset_ms, hold.requests.reset_ms, hold.tokens_input.reset_ms) == (2_000, 89_500, 200)
    assert hold.rate_tokens.reset_ms == 0
    assert hold.tokens_output == FREE
    error = limit_errors.refusal("rate", hold, NOW_S)
    assert error.message == "Rate limit reached for requests: limit 5, remaining 0. Please try again in 2s."
    told = dict(headers.error(error))
    assert (told[b"retry-after"], told[b"retry-after-ms"]) == (b"2", b"2000")
    assert (told[b"x-ratelimit-reset"], told[b"x-ratelimit-reset-requests"]) == (b"%d" % (NOW_S + 2), b"2s")
    assert told[b"x-ratelimit-reset-tokens"] == b"0s"


def test_a_quota_is_no_reason_to_try_again() -> None:
    """From memory as from the ledger: the limit is named, and no client should retry, also where it never resets."""
    standing = DenialCache()
    standing.keep("requests", refused(requests=Remaining(10, 0, None)), 1000, 0)
    denial = standing.find("ada")
    assert denial is not None
    error = limit_errors.refusal("requests", denial.hold_at(900 * MS), NOW_S)
    assert error.message == "Your limit ai_requests is used up: limit 10, remaining 0."
    assert (error.type, error.code, error.retry, error.retry_after_s) == (*["insufficient_quota"] * 2, False, None)


def test_the_memory_is_bounded_and_the_oldest_leaves_first() -> None:
    """Of three callers with room for two, the one whose refusal is oldest is forgotten; a new one of a caller is the newest."""
    standing = DenialCache(callers_max=2)
    for at, name in enumerate(("ada", "bob", "ada", "eve")):
        standing.keep("rate", refused(name, rate=Remaining(1, 0, 500)), 499, at * MS)
    assert [standing.find(name) is not None for name in ("ada", "bob", "eve")] == [True, False, True]
    standing.forget("ada")
    standing.forget("ada")
    assert standing.find("ada") is None


def test_each_answer_is_an_error_of_its_own() -> None:
    """One that is raised again would keep the frames of every request it went through."""
    standing = DenialCache()
    standing.keep("rate", refused(rate=Remaining(1, 0, 500)), 499, 0)
    denial = standing.find("ada")
    assert denial is not None
    first, second = (limit_errors.refusal("rate", denial.hold_at(now_ns), NOW_S) for now_ns in (0, MS))
    assert first is not second
    assert [error.retry_after_s for error in (first, second)] == [0.5, 0.499]


ADA = Caller("ada", "")
WINDOW_MS = 60_000


def test_attempts_fill_the_window() -> None:
    """As many as the window has requests are refused as what they are; from then on it is full, until the first is over."""
    attempts = Attempts(3, WINDOW_MS)
    assert [attempts.add(ADA, at * MS) for at in (0, 10)] == [None, None]
    full = attempts.add(ADA, 20 * MS)
    assert full is not None
    hold, stands_ms = full
    assert (hold.caller, hold.rate, stands_ms) == (ADA, Remaining(3, 0, WINDOW_MS - 20), WINDOW_MS - 20)
    assert attempts.add(ADA, WINDOW_MS * MS) is None


def test_without_a_window_nothing_is_counted() -> None:
    """Where requests have no window attempts have none, and nobody is remembered."""
    attempts = Attempts(0, WINDOW_MS)
    assert [attempts.add(ADA, 0) for _ in range(1000)] == [None] * 1000
    assert not attempts.known


def test_attempts_that_are_counted_elsewhere_are_given_up() -> None:
    """What was taken is not counted here; what is given back is, with what came since, and ends when it would have."""
    attempts = Attempts(3, WINDOW_MS)
    attempts.add(ADA, 0)
    attempts.add(ADA, 0)
    taken = attempts.take("ada", 5)
    assert taken.count == 2
    assert attempts.take("ada", 5).count == 0
    assert attempts.add(ADA, 10 * MS) is None
    attempts.give("ada", taken, 20 * MS)
    assert attempts.known["ada"] == Attempt(3, WINDOW_MS * MS)
    assert attempts.take("ada", WINDOW_MS * MS).count == 0


def test_attempts_of_so_many_callers() -> None:
    """The memory is bounded; who has none is not remembered."""
    attempts = Attempts(3, WINDOW_MS, callers_max=2)
    for name in ("ada", "bob", "eve"):
        attempts.add(Caller(name, ""), 0)
    attempts.give("joe", attempts.take("joe", 0), 0)
    assert set(attempts.known) == {"bob", "eve"}
