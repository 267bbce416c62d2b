"""The end of a tick: what ended together is settled as it would be alone, in fewer calls, never before the journal has it."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from sentinel.journal import Journal
from sentinel.journal.segment import Receipt
from sentinel.ledger import Ledger, Settled, Together
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import vocab
from sentinel.ops.records import NOTHING_PRODUCED, Bill, Call, Caller, Ending, Hold, Outcome, Produced, TextPrompt, Usage
from sentinel.stages.settlement import Settlement
from sentinel.stages.settlement.tick import Tick
from sentinel.zion.limits import MetricLimit, Snapshot
from tests.support.journals import entries_of
from tests.support.ledgers import open_ledger, redis, settle_together, verdict_of
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis", "redis_server"]

BOOT = "00000000000000aa"
NOW_MS = 1_795_305_600_000
CALLERS = (Caller("one", "one@x"), Caller("two", "two@x"), Caller("deux\ud800", "é@x"))
MODELS = ("m", "n")
_FREE = MetricLimit()
UNLIMITED = Snapshot(_FREE, _FREE, _FREE)


async def hold_all(ledger: Ledger, asked: list[tuple[int, int, int, int]], first: int = 1) -> list[Hold]:
    """The holds of requests of (caller, model, input, output), which begin at the number `first`."""
    for caller in CALLERS:
        await ledger.install_limits(caller.external_id, UNLIMITED, (0, 0, 0), NOW_MS)
    holds = []
    for sequence, (who, model, given_tokens, produced) in enumerate(asked, first):
        request_id = f"req_{BOOT}_{sequence:x}"
        verdict = await verdict_of(ledger, CALLERS[who], request_id, given_tokens, produced, 1, MODELS[model])
        assert verdict.code == "admitted"
        nothing = verdict.requests
        holds.append(Hold(request_id, CALLERS[who], MODELS[model], given_tokens, produced, nothing, nothing, nothing, nothing))
    return holds


async def everything(redis: Redis) -> dict[bytes, Any]:
    """All that is in Redis, by key."""
    found: dict[bytes, Any] = {}
    for key in sorted(await redis.keys("*")):
        kind = await redis.type(key)
        if kind == b"hash":
            found[key] = await redis.hgetall(key)
        elif kind == b"zset":
            found[key] = await redis.zrange(key, 0, -1, withscores=True)
        else:
            found[key] = await redis.get(key)
    return found


requests = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 500), st.integers(1, 500))
bills = st.tuples(st.integers(1, 600), st.integers(0, 600))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(requests, bills, st.booleans()), min_size=1, max_size=12), first=st.sampled_from([1, 65_530]))
async def test_together_is_as_one_by_one(
    redis_server: RedisServer, redis: Redis, asked: list[tuple[Any, tuple[int, int], bool]], first: int
) -> None:
    """Settled together, whatever beside whatever, they leave in Redis to the byte what they leave one by one."""
    left_behind = []
    for together in (False, True):
        await redis.flushall()
        ledger = open_ledger(redis_server.url, partitions=2, rate_tokens=10**9, now_ms=lambda: NOW_MS)
        holds = await hold_all(ledger, [request for request, _, _ in asked], first)
        ended = [(hold, Bill(1, *bill)) for hold, (_, bill, _) in zip(holds, asked, strict=True)]
        gone = {at for at, (_, _, is_gone) in enumerate(asked) if is_gone}
        for at in gone:
            await ledger.settle(ended[at][0], Bill(1, 7, 7))
        if together:
            assert await settle_together(ledger, ended) == gone
        else:
            whys = [(await ledger.settle(*one)).why for one in ended]
            assert whys == ["dup" if at in gone else "ok" for at in range(len(ended))]
        left_behind.append(await everything(redis))
        await ledger.close()
    assert left_behind[0] == left_behind[1]


async def test_a_call_takes_so_many_and_comes_twice_without_harm(redis_server: RedisServer, redis: Redis) -> None:
    """More than 128 requests are more than one call; told again, all of them are left, and change nothing."""
    ledger = open_ledger(redis_server.url, now_ms=lambda: NOW_MS)
    ended = [(hold, Bill(1, 1, 1)) for hold in await hold_all(ledger, [(0, 0, 1, 1)] * 300)]
    groups = ledger.settle_all(ended)
    assert [len(group.positions) for group in groups] == [128, 128, 44]
    await asyncio.gather(*(group.call.reply for group in groups))
    assert [ledger.settled_all(group)[0] for group in groups] == [set()] * 3
    before = await everything(redis)
    assert await settle_together(ledger, ended) == set(range(300))
    assert await everything(redis) == before
    (sums,) = (await redis.hgetall("a:{s00}")).items()
    assert (json.loads(sums[0])[:3], sums[1]) == (["one", "one@x", "m"], b"300|300|300")
    await ledger.close()


class Watched(Ledger):
    """A ledger that says what it is asked, and what the journal at `directory` has by then."""

    directory: Path
    seen: list[tuple[list[str], set[str]]]

    def settle_all(self, ended: Sequence[tuple[Hold, Bill]]) -> list[Together]:
        """Look at the files first."""
        self._look([hold.request_id for hold, _ in ended])
        return super().settle_all(ended)

    def settle(self, hold: Hold, bill: Bill, *, blind: bool = False) -> Coroutine[Any, Any, Settled]:
        """The same."""
        self._look([hold.request_id])
        return super().settle(hold, bill, blind=blind)

    def _look(self, asked: list[str]) -> None:
        told = (entry for path in self.directory.glob("*.jsonl") for entry in entries_of(path))
        self.seen.append((asked, {entry.request_id for entry in told if entry.kind == "settled"}))


class House:
    """A tick with its journal and ledger, and what it says of them."""

    def __init__(self, ledger: Ledger, directory: Path) -> None:
        self.ledger = ledger
        self.journal = Journal(directory, BOOT, bytes_max=2**20, keep_s=60, refuse_when_full=False)
        self.journal.tend()
        self.alone: list[str] = []
        self.reported: list[Settled] = []
        self.tick = Tick(ledger, self.journal, self._otherwise, self.reported.append)

    async def _otherwise(self, hold: Hold, bill: Bill, receipt: Receipt) -> None:
        self.alone.append(hold.request_id)
        await self.ledger.settle(hold, bill, blind=True)
        self.journal.take(receipt)

    def end(self, holds: list[Hold]) -> None:
        """All of them end now."""
        for hold in holds:
            self.tick.end(hold, Bill(1, 3, 2))


@pytest.fixture
async def house(redis_server: RedisServer, redis: Redis, tmp_path: Path) -> AsyncIterator[House]:
    """One over an empty Redis."""
    ledger = open_ledger(redis_server.url, partitions=4, timeout_s=0.5, now_ms=lambda: NOW_MS)
    ledger.__class__ = Watched
    assert isinstance(ledger, Watched)
    ledger.directory, ledger.seen = tmp_path, []
    made = House(ledger, tmp_path)
    yield made
    await made.tick.settled()
    made.journal.close()
    await ledger.close()


async def test_redis_is_asked_when_the_journal_has_it(house: House) -> None:
    """What ends in one tick is one write, which is on the disk before Redis is asked of any of it."""
    holds = await hold_all(house.ledger, [(at % 3, 0, 5, 5) for at in range(9)])
    for some in (holds[:6], holds[6:]):
        house.end(some)
        await house.tick.settled()
    assert isinstance(house.ledger, Watched)
    ids = [hold.request_id for hold in holds]
    assert [asked for asked, _ in house.ledger.seen] == [ids[:6], ids[6:]]
    assert all(set(asked) <= written for asked, written in house.ledger.seen)
    assert (house.alone, house.journal.waiting) == ([], 0)
    assert {told.partition for told in house.reported} == {house.ledger.partition(caller.external_id) for caller in CALLERS}


async def test_redis_is_asked_of_a_single_one_when_the_journal_has_it(house: House) -> None:
    """What does not end as usual is settled by itself, in the same order."""
    (hold,) = await hold_all(house.ledger, [(0, 0, 5, 5)])
    call = Call("chat_completions", "POST", "/chat/completions", model="m")
    settlement = Settlement(house.ledger, house.journal, Tokenizer.load(vocab.ranks), house.reported.append)
    outcome = Outcome(Ending.UPSTREAM_ERROR, 502, started=True)
    assert settlement.usual(hold, outcome) is None
    assert (await settlement.settle(hold, call, outcome)).requests == 1
    assert isinstance(house.ledger, Watched)
    assert house.ledger.seen == [([hold.request_id], {hold.request_id})]
    assert len(house.reported) == 1


async def test_the_usual_bill_is_the_general_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is settled at once costs what it would cost in a task of its own."""
    hold = Hold("req_1", CALLERS[0], "m", 5, 7)
    call = Call("chat_completions", "POST", "/chat/completions", model="m", prompt=TextPrompt(("Hello.",)))
    settlement = Settlement(house.ledger, house.journal, Tokenizer.load(vocab.ranks), house.reported.append)
    ended: list[Bill] = []
    monkeypatch.setattr(settlement._tick, "end", lambda _, bill: ended.append(bill))
    usages = [None, *itertools.starmap(Usage, itertools.product((0, 1, 2), (0, 1, 2), (False, True), (0, 1)))]
    said = (NOTHING_PRODUCED, Produced(), Produced(("Hello you.",)))
    for ending, started, usage, produced in itertools.product(Ending, (False, True), usages, said):
        outcome = Outcome(ending, 200, started=started, usage=usage, produced=produced)
        usual = settlement.usual(hold, outcome)
        assert usual in (None, await settlement._bill(hold, call, outcome))
        well = ending is Ending.SUCCESS and started and produced is NOTHING_PRODUCED
        assert (usual is not None) == bool(well and usage and usage.input_tokens and not usage.derived)
    assert len(ended) == 2 * 3 * 2


async def test_what_has_no_hold_is_settled_alone(house: House) -> None:
    """A hold that Redis lost, or that a sweeper charged, costs the others of its tick nothing."""
    holds = await hold_all(house.ledger, [(0, 0, 5, 5)] * 4)
    await house.ledger.settle(holds[1], Bill(1, 1, 1))
    house.end(holds)
    await house.tick.settled()
    assert (house.alone, house.journal.waiting) == ([holds[1].request_id], 0)


@pytest.mark.parametrize("gone", ["frozen", "killed"])
async def test_a_redis_that_is_away_leaves_them_in_the_journal(house: House, redis_server: RedisServer, gone: str) -> None:
    """Frozen or dead in between, Redis has taken some or none: all wait, and told again they are charged once."""
    holds = await hold_all(house.ledger, [(at % 3, 0, 5, 5) for at in range(6)])
    if gone == "frozen":
        redis_server.freeze()
    else:
        redis_server.stop()
    house.end(holds)
    await house.tick.settled()
    assert house.journal.waiting == 6
    if gone == "frozen":
        redis_server.thaw()
    else:
        redis_server.start()
    async with asyncio.timeout(20):
        while house.ledger.away:
            await asyncio.sleep(0.02)
    entries = list(itertools.chain.from_iterable(house.journal.untold()))
    whys = [(await house.ledger.replay(entry)).why for entry, _ in entries]
    assert len(whys) == 6
    assert set(whys) <= {"ok", "dup"}
    again = [(await house.ledger.replay(entry)).why for entry, _ in entries]
    assert set(again) == {"dup"}
    for _, receipt in entries:
        house.journal.take(receipt)
