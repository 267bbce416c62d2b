"""slices: what processes may admit while the ledger is away, against the bound that all of them together keep."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sentinel.ledger.degraded_quota import DegradedQuota, share
from sentinel.ops.records import Remaining

FREE = Remaining(None, None, None)
WINDOW_MS = 1000
WIDEST_MS = 1101  # the window and the sub-bucket that admit.lua counts in full


def verdict(
    *, requests: Remaining = FREE, given_tokens: Remaining = FREE, output: Remaining = FREE, rate: Remaining = FREE
) -> tuple[Remaining, Remaining, Remaining, Remaining]:
    """What the ledger said last, as `learn` takes it."""
    return given_tokens, output, requests, rate


def told(left: int | None, reset_ms: int | None = None) -> Remaining:
    """A limit of twice what is left."""
    return FREE if left is None else Remaining(2 * left, left, reset_ms)


def slices(count: int, ratio: float, last: tuple[Remaining, ...]) -> list[DegradedQuota]:
    """One a process, all of which saw the same last verdict."""
    made = [DegradedQuota(ratio, count, WINDOW_MS) for _ in range(count)]
    for one in made:
        one.told = (*last, 0)
    return made


@given(st.integers(0, 10**14), st.floats(0, 1), st.integers(1, 1000))
def test_all_shares_together_are_within_the_ratio(remaining: int, ratio: float, processes: int) -> None:
    """However large the numbers: processes x share <= rho x remaining, and one more each would be too much."""
    part = share(remaining, ratio, processes)
    assert part is not None
    assert part * processes <= Fraction(ratio) * remaining < (part + 1) * processes
    assert share(None, ratio, processes) is None


asks = st.lists(
    st.tuples(
        st.integers(0, 3),  # which process
        st.integers(0, 40),  # input
        st.integers(0, 60),  # output
        st.integers(0, 60),  # least output
        st.integers(0, 400),  # ms since the one before
    ),
    max_size=60,
)
amounts = st.one_of(st.none(), st.integers(0, 500))


@given(asks, amounts, amounts, amounts, amounts, st.sampled_from([0.0, 0.1, 0.5, 0.75, 1.0]), st.integers(1, 4))
def test_what_all_processes_grant_never_exceeds_the_ratio_of_what_remained(
    asked: list[tuple[int, int, int, int, int]],
    requests: int | None,
    tokens: int | None,
    output: int | None,
    rate: int | None,
    ratio: float,
    processes: int,
) -> None:
    """Per limit, over all processes, whatever is asked in whatever order; and in any real window at most rho x its rate."""
    made = slices(
        processes, ratio, verdict(requests=told(requests), given_tokens=told(tokens), output=told(output), rate=told(rate))
    )
    now_ms, sums, times = 0, [0, 0, 0], []
    for who, input_tokens, output_tokens, least, step_ms in asked:
        now_ms += step_ms
        grant = made[who % processes].take(input_tokens, output_tokens, least, now_ms)
        if grant.why == "ok":
            assert min(output_tokens, least) <= grant.output_tokens <= output_tokens
            sums = [sums[0] + 1, sums[1] + input_tokens, sums[2] + grant.output_tokens]
            times.append(now_ms)
        else:
            assert grant.output_tokens == 0
    for spent, remaining in zip(sums, (requests, tokens, output), strict=True):
        assert remaining is None or spent <= Fraction(ratio) * remaining
    if rate is not None:
        for start_ms in times:
            within = [at for at in times if start_ms <= at < start_ms + WINDOW_MS]
            # What the ledger had admitted before counts as long as it is in the window too.
            bound = rate if start_ms + WINDOW_MS <= WIDEST_MS else 2 * rate
            assert len(within) <= Fraction(ratio) * bound


def test_no_limit_stays_none() -> None:
    """What is unlimited is admitted without end, and shown as unlimited."""
    (one,) = slices(1, 0.5, verdict())
    for at in range(1000):
        grant = one.take(10**9, 10**9, 10**9, at)
        assert (grant.why, grant.output_tokens, grant.requests, grant.rate) == ("ok", 10**9, FREE, FREE)


def test_a_used_up_limit_is_named_and_a_spent_slice_is_not() -> None:
    """Where Redis would refuse too, the limit is named; where only this process's slice is gone, it is "spent"."""
    (one,) = slices(1, 0.5, verdict(requests=told(4), given_tokens=told(100), output=told(100)))
    assert one.take(51, 1, 1, 0).why == "spent"
    assert one.take(101, 1, 1, 0).why == "input"
    assert one.take(1, 60, 60, 0).why == "spent"
    assert one.take(1, 101, 101, 0).why == "output"
    assert one.take(1, 80, 1, 0).output_tokens == 50
    one.give_back(0, 50, 0)
    assert one.take(1, 1, 1, 0).why == "ok"
    assert one.take(1, 1, 1, 0).why == "spent"
    one.told = (*verdict(requests=told(0)), 0)
    assert one.take(1, 1, 1, 0).why == "requests"


def test_the_slice_of_the_window_begins_anew_with_the_window() -> None:
    """A quarter of what was free at first, a quarter of the whole once a window has passed; refused where none was free."""
    made = slices(2, 0.5, verdict(rate=Remaining(40, 12, 900)))
    first = [made[0].take(1, 1, 1, at).why for at in range(5)]
    assert first == ["ok", "ok", "ok", "spent", "spent"]
    later = [made[0].take(1, 1, 1, WIDEST_MS + 10 + at) for at in range(12)]
    assert [grant.why for grant in later] == ["ok"] * 10 + ["spent"] * 2
    assert later[0].rate.remaining == 9
    assert 0 < (later[-1].rate.reset_ms or 0) <= WIDEST_MS
    (full,) = slices(1, 1.0, verdict(rate=Remaining(40, 0, 900)))
    assert full.take(1, 1, 1, 1).why == "rate"


def test_a_period_that_ends_meanwhile_gives_its_limit_again_once() -> None:
    """After the reset that the ledger told, the slice is one of the whole limit."""
    (one,) = slices(1, 0.5, verdict(requests=Remaining(8, 0, 5000)))
    assert one.take(1, 1, 1, 4999).why == "requests"
    assert [one.take(1, 1, 1, 5000).why for _ in range(5)] == ["ok"] * 4 + ["spent"]
    assert one.take(1, 1, 1, 10**9).why == "spent"


def test_what_was_taken_lately_counts_after_a_new_verdict() -> None:
    """Its bill may not have arrived in the ledger yet; a minute later it has."""
    (one,) = slices(1, 0.5, verdict(requests=told(8)))
    assert [one.take(1, 1, 1, 0).why for _ in range(5)] == ["ok"] * 4 + ["spent"]
    one.told = (*verdict(requests=told(8)), 1000)
    assert one.take(1, 1, 1, 1001).why == "spent"
    one.told = (*verdict(requests=told(8)), 61_000)
    assert one.take(1, 1, 1, 61_001).why == "ok"
