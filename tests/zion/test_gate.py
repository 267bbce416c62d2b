"""gate: one for the whole fleet, against a real Redis, with the clock injected: the rate, the breaker, its one probe."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, cast

import pytest

from sentinel.ledger import Ledger
from sentinel.ops.errors import LedgerUnavailableError, ZionUnavailableError
from sentinel.zion.gate import Gate
from tests.support.ledgers import emptied, open_ledger
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

START_MS = 1_795_262_400_000
Make = Callable[..., Gate]
Kind = Literal["known", "new"]
SHARED = {"waiting_max": 64, "processes": 1}
KINDS: tuple[Kind, ...] = ("known", "new")


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
    await emptied(redis_server.url)
    ledgers: list[Ledger] = []

    def one(now_ms: Callable[[], int] = clock, **changes: Any) -> Gate:
        ledger = open_ledger(redis_server.url, now_ms=now_ms)
        ledgers.append(ledger)
        return ledger.gate(
            **{"requests_per_s": 20, "failures_max": 3, "open_s": 30.0, "zion_timeout_s": 5.0, **SHARED, **changes}
        )

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
        await gate.report_result(turn, "failed")
        clock.now_ms += 1_000


ALL = ("report", "known", "new")
COMBINATIONS = [kinds for count in (1, 2, 3) for kinds in itertools.combinations(ALL, count)]
# What is kept for each kind of 20 calls a second.
OWN = {"report": 5, "known": 5, "new": 2}


@pytest.mark.parametrize("kinds", COMBINATIONS)
async def test_the_fleet_never_calls_faster_than_its_rate(make: Make, clock: Clock, kinds: tuple[str, ...]) -> None:
    """Five workers that ask all the time: in no second more than 20 go, hardly fewer than may, and each kind gets its own."""
    gates, chance, granted = [make() for _ in range(5)], random.Random(20), []
    while clock.now_ms < START_MS + 5_000:
        calls = [(gate, chance.choice(kinds)) for gate in gates]
        answers = await asyncio.gather(*(ask(gate, kind) for gate, kind in calls))
        granted += [(clock.now_ms, kind) for (_, kind), why in zip(calls, answers, strict=True) if why == "go"]
        clock.now_ms += chance.randrange(0, 40)
    times = [at for at, _ in granted]
    assert max(sum(at <= other < at + 1_000 for other in times) for at in times) <= 20
    counts = Counter(kind for _, kind in granted)
    # Each asks in about every second moment: what is its own comes a little late.
    assert all(counts[kind] >= OWN[kind] * 4 for kind in kinds), counts
    assert len(granted) >= (20 - sum(OWN[kind] for kind in set(ALL) - set(kinds))) * 4


@pytest.mark.parametrize("rate", [1, 2, 3, 4, 7, 20, 40])
async def test_no_kind_starves(make: Make, clock: Clock, rate: int) -> None:
    """However the others ask: never more than the rate, and whoever has not used its own part of a second goes at once."""
    gate, chance, granted = make(requests_per_s=rate), random.Random(rate), []
    own = {kind: 0 if rate < 3 else max(1, rate // of) for kind, of in (("report", 4), ("known", 4), ("new", 10))}
    weights = [1, 1, 1]
    for step in range(600):
        if step % 50 == 0:
            weights = [chance.choice((1, 50)) for _ in ALL]
        kind = chance.choices(ALL, weights)[0]
        recent = [one for at, one in granted if at > clock.now_ms - 1_050]
        said = await ask(gate, kind)
        assert said == "go" or recent.count(kind) >= own[kind], (recent, kind)
        assert said == "rate" or len(recent) < rate
        if said == "go":
            granted.append((clock.now_ms, kind))
        clock.now_ms += chance.randrange(0, 3_000 // rate)


async def test_who_stands_back_for_whom(make: Make, clock: Clock) -> None:
    """Known callers come first, then never-seen tokens, then reports: who comes later keeps to its own while others wait."""
    gate = make()
    assert [await ask(gate) for _ in range(14)] == ["go"] * 13 + ["rate"]
    assert [await ask(gate, "new") for _ in range(3)] == ["go"] * 2 + ["rate"]
    clock.now_ms += 1_050
    assert [await ask(gate) for _ in range(14)] == ["go"] * 13 + ["rate"]
    clock.now_ms += 1_049
    assert await ask(gate, "new") == "go"
    clock.now_ms += 1
    assert [await ask(gate, "known") for _ in range(14)] == ["go"] * 13 + ["rate"]
    assert [await ask(gate) for _ in range(6)] == ["go"] * 5 + ["rate"]
    clock.now_ms += 1_049
    assert [await ask(gate, "new") for _ in range(3)] == ["go", "go", "rate"]


async def test_a_call_that_asks_twice_has_one_place(make: Make) -> None:
    """An answer that was lost on the way is asked for again under the same id: it costs nothing."""
    gate = make(requests_per_s=2)
    assert [(await gate._ask("known", "a")).why for _ in range(9)] == ["go"] * 9
    assert (await gate._ask("report", "c")).why == "go"
    assert (await gate._ask("known", "b")).why == "rate"
    await gate.report_result(await gate._ask("report", "c"), "unused")
    assert (await gate._ask("report", "d")).why == "go"


async def test_the_breaker_opens_after_three_failures_in_a_row(make: Make, clock: Clock) -> None:
    """Over all workers; one that succeeds in between begins the count anew; callers go on."""
    gates = [make() for _ in range(3)]
    await fail(gates[0], clock, 2)
    await gates[1].report_result(await gates[1].ask(), "ok")
    await fail(gates[2], clock, 1)
    await fail(gates[0], clock, 1)
    assert await ask(gates[1]) == "go"
    await fail(gates[1], clock, 1)
    said = [await gate.ask() for gate in gates]
    assert [(one.why, one.wait_s) for one in said] == [("open", 29.0)] * 3
    assert await ask(gates[0], "known") == "go"


async def test_a_failure_told_twice_counts_once(make: Make) -> None:
    """What may have been told already is told again."""
    gate = make()
    turn = await gate.ask()
    for _ in range(9):
        await gate.report_result(turn, "failed")
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
        await gates[1].report_result(turns[0] if turns[0] is not probe else turns[1], "ok")
        assert await ask(gates[2]) == "open"
        await gates[3].report_result(probe, result)
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
    await gate.report_result(turn, "unused")
    turn = await gate.ask()
    assert turn.why == "probe"
    await gate.report_result(turn, "busy", 7.0)
    said = await gate.ask()
    assert (said.why, said.wait_s) == ("shut", 7.0)
    clock.now_ms += 7_000
    assert await ask(gate) == "probe"


async def test_a_busy_zion_is_left_alone_by_everybody(make: Make, clock: Clock) -> None:
    """429: until the time Zion named no worker calls, neither for reports nor for callers; a shorter one shortens nothing."""
    one, other = make(), make()
    await one.shut(60.0)
    await other.shut(1.0)
    assert [await ask(one), await ask(other), await ask(other, "known"), await ask(other, "new")] == ["shut"] * 4
    for kind in KINDS:
        with pytest.raises(ZionUnavailableError) as refused:
            await other.turn(kind, first=False)
        assert refused.value.retry_after_s == 60.0
    clock.now_ms += 60_000
    await other.turn("known", first=False)
    assert await ask(one) == "go"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_waits_for_its_turn_or_is_told_to_come_again(make: Make, kind: Kind) -> None:
    """A place that comes free in time is taken; one that does not is 503 with Retry-After."""
    clock = Clock(step_ms=1_000)
    gate = make(clock, requests_per_s=1)
    await gate.turn(kind, first=False)
    begun_ms = clock.now_ms
    await gate.turn(kind, first=False)
    assert clock.now_ms - begun_ms == 2_000
    hasty = make(Clock(), requests_per_s=1, zion_timeout_s=0.01)
    with pytest.raises(ZionUnavailableError) as refused:
        await hasty.turn(kind, first=False)
    assert refused.value.retry_after_s == 1.0


async def test_a_clock_that_steps_back_lets_no_more_through(make: Make, clock: Clock) -> None:
    """After a failover the server's clock may be behind: the window goes on from the last call."""
    gate = make(requests_per_s=1)
    assert await ask(gate, "known") == "go"
    clock.now_ms -= 10_000
    assert await ask(gate, "known") == "rate"


class Redisless:
    """A way to Redis that is `away`, or only fails; `changed_s` as that of a pipeline."""

    def __init__(self) -> None:
        self.away, self.changed_s = True, float("-inf")
        self.asked: list[Any] = []
        self.answers: list[Any] = []

    async def script(self, name: str, _keys: Any, arguments: Any) -> Any:
        """The next answer; LedgerUnavailableError without one."""
        self.asked.append((name, arguments))
        if not self.answers:
            raise LedgerUnavailableError("away")
        return self.answers.pop(0)


class Alone:
    """A gate without Redis, by an injected clock in s."""

    def __init__(self, **changes: Any) -> None:
        self.now_s = 1_000.0
        self.redis = Redisless()
        settings = {"requests_per_s": 20, "failures_max": 3, "open_s": 30.0, "probe_s": 10.0, "turn_s": 5.0}
        settings |= {"waiting_max": 64, "processes": 2, **changes}
        self.gate = Gate(cast("Any", self.redis), Clock(), **settings, now_s=lambda: self.now_s)

    async def granted(self, kind: str, seconds: float) -> list[float]:
        """When calls go, of one that asks all the time."""
        times, until_s = [], self.now_s + seconds
        while self.now_s < until_s:
            if (await self.gate._ask_or_share(kind, "id")).granted:
                times.append(self.now_s)
            self.now_s += 0.01
        return times


def most(times: list[float], second_s: float = 1.0) -> int:
    """The most of `times` within a second."""
    return max(sum(at <= other < at + second_s for other in times) for at in times)


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("kinds", [("known",), ("new",), ("known", "new")])
async def test_without_redis_each_process_has_its_share(processes: int, kinds: tuple[str, ...]) -> None:
    """All of them together keep the bound in every second, and never-seen tokens leave half of it where it can be halved."""
    alone, share = Alone(processes=processes), 20 // processes
    times: list[float] = []
    for _ in range(3):
        for kind in kinds:
            granted = await alone.granted(kind, 2.0)
            assert granted
            assert most(granted) <= (max(1, share // 2) if kind == "new" else share)
            times += granted
    assert most(times) <= share


async def test_a_share_of_less_than_one_call_a_second(make: Make) -> None:
    """Where there are more processes than calls, the bound holds over the time that one call each takes."""
    times = await Alone(processes=60).granted("new", 30.0)
    assert most(times, 3.0) == 1
    assert len(times) == 10


async def test_nobody_calls_while_redis_goes_or_comes(make: Make) -> None:
    """So the calls of the gate and of the shares do not add up, in whichever order workers notice."""
    alone = Alone()
    for away in (True, False):
        alone.redis.away, alone.redis.changed_s = away, alone.now_s
        assert await alone.granted("known", 1.74) == []
        alone.redis.answers = [(b"go", 0, 0)] * 10
        assert await alone.granted("known", 0.1)


async def test_a_busy_zion_is_left_alone_without_redis_too() -> None:
    """429: this process calls nobody before the time that Zion named."""
    alone = Alone()
    await alone.gate.shut(7.0)
    said = await alone.gate._ask_or_share("new", "id")
    assert (said.why, said.wait_s) == ("shut", 7.0)
    assert await alone.granted("new", 6.9) == []
    assert await alone.granted("new", 0.2)


async def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    """While Redis is not away a turn is not taken without it, and the same id is asked again: it may have its place already."""
    alone = Alone()
    alone.redis.away = False
    turn = asyncio.create_task(alone.gate.turn("new", first=False))
    while len(alone.redis.asked) < 3:
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
    assert not turn.done()
    alone.redis.answers = [(b"go", 0, 0)]
    await turn
    assert len({arguments[1] for _, arguments in alone.redis.asked}) == 1


async def test_reports_do_not_go_without_redis() -> None:
    """What would be reported lies there."""
    with pytest.raises(LedgerUnavailableError):
        await Alone().gate.ask()
