"""gate: one for the whole fleet, against a real Redis, with the clock injected: the rate, the breaker, its one probe."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sentinel.edges.ledger import Ledger, open_redis
from sentinel.edges.ledger.gate import Gate
from sentinel.errors import LedgerUnavailableError, ZionUnavailableError
from tests.support.redis_server import RedisServer, redis_server, remove_server, start_server

__all__ = ["redis_server"]

START_MS = 1_795_262_400_000
Make = Callable[..., Gate]


class Clock:
    """The time the scripts are told, Unix ms; with `step_ms` it moves on at each look."""

    def __init__(self, step_ms: int = 0) -> None:
        self.now_ms = START_MS
        self.step_ms = step_ms

    def __call__(self) -> int:
        self.now_ms += self.step_ms
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def make(redis_server: RedisServer, clock: Clock) -> AsyncIterator[Make]:
    """Makes gates, each with a connection of its own, as that of a worker, over an empty Redis."""
    redis = open_redis(redis_server.url, 5.0)
    await redis.flushall()
    await redis.aclose()
    ledgers: list[Ledger] = []

    def one(now_ms: Callable[[], int] = clock, **changes: Any) -> Gate:
        ledger = Ledger(
            open_redis(redis_server.url, 5.0),
            partitions=1,
            timeout_s=5.0,
            lease_ms=60_000,
            rate_requests=0,
            rate_window_ms=60_000,
            fresh_ms=300_000,
            stale_ms=300_000,
            now_ms=now_ms,
        )
        ledgers.append(ledger)
        return ledger.gate(**{"requests_per_s": 20, "failures_max": 3, "open_s": 30.0, "zion_timeout_s": 5.0, **changes})

    yield one
    for ledger in ledgers:
        await ledger.close()


async def ask(gate: Gate, kind: str = "report") -> str:
    """What the gate says to one more call of a kind."""
    return (await gate._ask(kind, f"{random.getrandbits(64):x}")).why


async def fail(gate: Gate, clock: Clock, times: int) -> None:
    """So many reports that Zion fails, a second apart."""
    for _ in range(times):
        turn = await gate.ask()
        assert turn.granted
        await gate.tell(turn, "failed")
        clock.now_ms += 1_000


@pytest.mark.parametrize("kinds", [["report"], ["caller"], ["report", "caller"]])
async def test_the_fleet_never_calls_faster_than_its_rate(make: Make, clock: Clock, kinds: list[str]) -> None:
    """Five workers that ask all the time: in no second more than 20 go, and hardly fewer than may."""
    gates, chance, granted = [make() for _ in range(5)], random.Random(20), []
    while clock.now_ms < START_MS + 5_000:
        calls = [(gate, chance.choice(kinds)) for gate in gates]
        answers = await asyncio.gather(*(ask(gate, kind) for gate, kind in calls))
        granted += [(clock.now_ms, kind) for (_, kind), why in zip(calls, answers, strict=True) if why == "go"]
        clock.now_ms += chance.randrange(0, 40)
    times = [at for at, _ in granted]
    assert max(sum(at <= other < at + 1_000 for other in times) for at in times) <= 20
    assert len(granted) >= {"report": 15, "caller": 19}[kinds[-1]] * 4
    if len(kinds) == 2:
        # Callers leave reports one call a second, and reports leave callers the rest as soon as one of them waits.
        assert 4 <= Counter(kind for _, kind in granted)["report"] <= 30


async def test_callers_come_before_reports(make: Make, clock: Clock) -> None:
    """Reports leave a quarter of a second free; once a caller had to wait, they take one call a second."""
    gate = make()
    assert [await ask(gate) for _ in range(16)] == ["go"] * 15 + ["rate"]
    assert [await ask(gate, "caller") for _ in range(6)] == ["go"] * 5 + ["rate"]
    clock.now_ms += 600
    assert await ask(gate, "caller") == "rate"
    clock.now_ms += 450
    assert [await ask(gate) for _ in range(2)] == ["go", "rate"]
    clock.now_ms += 600
    assert [await ask(gate) for _ in range(15)] == ["go"] * 14 + ["rate"]


async def test_a_call_that_asks_twice_has_one_place(make: Make) -> None:
    """An answer that was lost on the way is asked for again under the same id: it costs nothing."""
    gate = make(requests_per_s=2)
    assert [(await gate._ask("caller", "a")).why for _ in range(9)] == ["go"] * 9
    assert (await gate._ask("caller", "b")).why == "rate"
    assert (await gate._ask("report", "c")).why == "go"
    await gate.tell(await gate._ask("report", "c"), "unused")
    assert (await gate._ask("report", "d")).why == "go"


async def test_the_breaker_opens_after_three_failures_in_a_row(make: Make, clock: Clock) -> None:
    """Over all workers; one that succeeds in between begins the count anew; callers go on."""
    gates = [make() for _ in range(3)]
    await fail(gates[0], clock, 2)
    await gates[1].tell(await gates[1].ask(), "ok")
    await fail(gates[2], clock, 1)
    await fail(gates[0], clock, 1)
    assert await ask(gates[1]) == "go"
    await fail(gates[1], clock, 1)
    said = [await gate.ask() for gate in gates]
    assert [(one.why, one.wait_s) for one in said] == [("open", 29.0)] * 3
    assert await ask(gates[0], "caller") == "go"


async def test_a_failure_told_twice_counts_once(make: Make) -> None:
    """What may have been told already is told again."""
    gate = make()
    turn = await gate.ask()
    for _ in range(9):
        await gate.tell(turn, "failed")
    assert await ask(gate) == "go"


async def test_one_probe_of_the_whole_fleet_tries_again(make: Make, clock: Clock) -> None:
    """After 30 s exactly one of many goes; if it fails all wait again, if it succeeds all go."""
    gates = [make() for _ in range(5)]
    await fail(gates[0], clock, 3)
    for result, later in (("failed", "open"), ("ok", "go")):
        clock.now_ms += 28_999
        assert [await ask(gate) for gate in gates] == ["open"] * 5
        clock.now_ms += 1
        turns = await asyncio.gather(*(gate.ask() for gate in gates))
        assert sorted(turn.why for turn in turns) == ["open"] * 4 + ["probe"]
        probe = next(turn for turn in turns if turn.granted)
        # A report that left before the breaker opened says nothing about now.
        await gates[1].tell(turns[0] if turns[0] is not probe else turns[1], "ok")
        assert await ask(gates[2]) == "open"
        await gates[3].tell(probe, result)
        assert [await ask(gate) for gate in gates] == [later] * 5
        clock.now_ms += 1_000


async def test_a_probe_that_dies_is_replaced(make: Make, clock: Clock) -> None:
    """After twice the time a call may take; one that found nothing to send, or a busy Zion, at once."""
    gate = make()
    await fail(gate, clock, 3)
    clock.now_ms += 30_000
    assert await ask(gate) == "probe"
    clock.now_ms += 9_999
    assert await ask(gate) == "open"
    clock.now_ms += 1
    turn = await gate.ask()
    assert turn.why == "probe"
    await gate.tell(turn, "unused")
    turn = await gate.ask()
    assert turn.why == "probe"
    await gate.tell(turn, "busy", 7.0)
    said = await gate.ask()
    assert (said.why, said.wait_s) == ("shut", 7.0)
    clock.now_ms += 7_000
    assert await ask(gate) == "probe"


async def test_a_busy_zion_is_left_alone_by_everybody(make: Make, clock: Clock) -> None:
    """429: until the time Zion named no worker calls, neither for reports nor for callers; a shorter one shortens nothing."""
    one, other = make(), make()
    await one.shut(60.0)
    await other.shut(1.0)
    assert [await ask(one), await ask(other), await ask(other, "caller")] == ["shut"] * 3
    with pytest.raises(ZionUnavailableError) as refused:
        await other.turn()
    assert refused.value.retry_after_s == 60.0
    clock.now_ms += 60_000
    await other.turn()
    assert await ask(one) == "go"


async def test_a_caller_waits_for_its_turn_or_is_told_when(make: Make) -> None:
    """A place that comes free in time is taken; one that does not is 503 with the time at which it might."""
    clock = Clock(step_ms=1_000)
    gate = make(clock, requests_per_s=1)
    await gate.turn()
    begun_ms = clock.now_ms
    await gate.turn()
    assert clock.now_ms - begun_ms == 2_000
    hasty = make(Clock(), requests_per_s=1, zion_timeout_s=0.0)
    with pytest.raises(ZionUnavailableError) as refused:
        await hasty.turn()
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= 4.0


async def test_a_clock_that_steps_back_lets_no_more_through(make: Make, clock: Clock) -> None:
    """After a failover the server's clock may be behind: the window goes on from the last call."""
    gate = make(requests_per_s=2)
    assert await ask(gate, "caller") == "go"
    clock.now_ms -= 10_000
    assert await ask(gate, "caller") == "rate"


async def test_where_redis_is_away_callers_go_ahead_and_reports_do_not(clock: Clock) -> None:
    """What would be reported lies there; a caller's call is bounded by its own worker."""
    server = start_server()
    ledger = Ledger(
        open_redis(server.url, 1.0),
        partitions=1,
        timeout_s=1.0,
        lease_ms=1,
        rate_requests=0,
        rate_window_ms=1_000,
        fresh_ms=1,
        stale_ms=1,
        now_ms=clock,
    )
    gate = ledger.gate(requests_per_s=1, failures_max=3, open_s=30, zion_timeout_s=1)
    server.stop()
    for _ in range(3):
        await gate.turn()
    await gate.shut(5.0)
    with pytest.raises(LedgerUnavailableError):
        await gate.ask()
    await ledger.close()
    remove_server(server)
