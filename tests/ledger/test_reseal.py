"""reseal: batches that a Redis lost after they were sent: the same bytes again, under the same id; nothing is booked twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from sentinel.journal import Journal
from sentinel.ledger import Batch, Ledger, open_redis
from sentinel.ledger.keys import key
from sentinel.ops.records import Bill, Caller, Entry, Hold, Remaining
from sentinel.stages.recovery import Recovery
from sentinel.zion import increments
from sentinel.zion.increments import Refusal, Seal
from tests.support.accounts import read_account
from tests.support.ledgers import emptied, open_ledger, redis
from tests.support.redis_server import RedisServer, redis_server, remove_server, start_server

__all__ = ["redis", "redis_server"]

NOON_MS = 1_795_262_400_000
DAY_MS = 86_400_000
BOOT = "00000000000000aa"
RESEAL_MS = 6_000
CLAIM_MS = 60_000
NONE = Remaining(None, None, None)
Content = dict[bytes, tuple[int, bytes]]


class Clock:
    """The time the scripts are told, Unix ms."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


class Zion:
    """A Zion that honours idempotency keys: `booked` by caller, and what it answered to each key."""

    def __init__(self) -> None:
        self.booked: Counter[str] = Counter()
        self._known: dict[str, tuple[bytes, bool]] = {}

    def post(self, batch: Batch, *, refuses: bool = False) -> bool:
        """A report; whether its first item is refused for good."""
        body = increments.build(batch.items, batch.usage_format, batch.sealed_at_ms).body
        if batch.id in self._known:
            assert self._known[batch.id][0] == body
            return self._known[batch.id][1]
        self._known[batch.id] = (body, refuses)
        for item in batch.items[1 if refuses else 0 :]:
            self.booked[item.external_id] += item.input_tokens
        return refuses


class Town:
    """A ledger of one partition, what was used, and what the journals of its workers have."""

    def __init__(self, ledger: Ledger, redis: Redis, clock: Clock) -> None:
        self.ledger, self.redis, self.clock, self.zion = ledger, redis, clock, Zion()
        self.bills: list[Entry] = []
        self.seals: list[Seal] = []
        self.used: Counter[str] = Counter()
        self.content: Content = {}
        self._runs = 0

    async def use(self, caller: int, tokens: int) -> None:
        """One request of a caller, settled."""
        name = f"user-{caller}"
        at = len(self.bills) + 1
        entry = Entry("settled", 0, f"req_{BOOT}_{at:x}", name, f"{name}@x/y.test", "m/1", tokens, 0, 1)
        self.bills.append(entry)
        self.used[name] += tokens
        assert (await self.ledger.replay(entry)).applied

    async def take(self) -> Batch | None:
        """The next batch, as a worker takes it."""
        batch = await self.ledger.claim_batch(0, items_max=2)
        if batch is not None and batch.attempts == 1:
            self.seals.append(batch.seal(0))
        return batch

    async def send(self, how: str) -> bool:
        """The next batch is booked and that is told, or it ends otherwise; whether there was one."""
        batch = await self.take()
        if batch is None:
            return False
        if how == "refused by a server that fails":
            await self.ledger.retry_batch(batch, 0)
            return True
        refused = self.zion.post(batch, refuses=how == "refused for good")
        if how == "booked without an answer":
            await self.ledger.retry_batch(batch, 0, lost=True)
        elif how != "booked by a worker that died":
            item = batch.items[0]
            await (
                self.ledger.dead_letter(batch, {0: Refusal("no", item.amounts)}) if refused else self.ledger.ack_batch(batch)
            )
        return True

    async def copy(self) -> None:
        """What a Redis that dies now, would come back with."""
        self.content = {name: (await self.redis.pttl(name), await self.redis.dump(name)) for name in await self.redis.keys()}

    async def lose(self) -> None:
        """Redis comes back with what it had at the last copy, as another run."""
        await self.redis.flushall()
        for name, (life_ms, value) in self.content.items():
            await self.redis.restore(name, max(life_ms, 0), value)
        self._runs += 1
        self.ledger._pipeline.first_run_id = f"{self._runs:x}"
        if await self.redis.exists(key("p", 0)):
            await self.redis.hset(key("p", 0), "run", f"{self._runs:x}")

    async def recover(self) -> None:
        """Somebody finds another run; every worker tells what it settled, then what it sealed."""
        await self.ledger.peek(0)
        for entry in self.bills:
            await self.ledger.replay(entry)
        for seal in await self.ledger.unsealed(self.seals):
            await self.ledger.reseal(seal)

    async def dead(self) -> Counter[str]:
        """What Zion has refused for good, by caller."""
        dead: Counter[str] = Counter()
        async for letter in self.ledger.admin_ledger.dead_letters():
            dead[letter.sum.external_id] += letter.sum.input_tokens
        return dead

    async def finish(self) -> None:
        """Zion takes all that waits."""
        self.clock.now_ms += CLAIM_MS
        while await self.send("booked"):
            self.clock.now_ms += 1


async def new_town(url: str, *, noted: bool = True) -> Town:
    """An empty one; reports have begun where its run is `noted`."""
    await emptied(url)
    clock = Clock()
    ledger = open_ledger(url, now_ms=clock)
    if noted:
        await ledger.peek(0)
    town = Town(ledger, open_redis(url, 5.0), clock)
    await town.copy()
    return town


async def close(town: Town) -> None:
    """Close its connections."""
    await town.redis.aclose()
    await town.ledger.close()


@pytest.fixture
async def town(redis_server: RedisServer) -> AsyncIterator[Town]:
    """An empty one."""
    opened = await new_town(redis_server.url)
    yield opened
    await close(opened)


ENDS = [
    "booked",
    "booked without an answer",
    "booked by a worker that died",
    "refused by a server that fails",
    "refused for good",
]
STEPS = st.one_of(
    st.tuples(st.just("use"), st.integers(0, 2), st.integers(1, 9)),
    st.tuples(st.just("send"), st.sampled_from(ENDS)),
    st.tuples(st.sampled_from(["copy", "lose", "wait", "night"])),
)


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(STEPS, max_size=24), noted=st.booleans())
def test_whatever_redis_loses_is_booked_once(redis_server: RedisServer, steps: list[tuple[str, int, int]], noted: bool) -> None:
    """Any history of use, reports and their ends, copies and losses: booked and dead letters are what was used, at every id the
    bytes are the same, no sum is left, and what Zion has is acknowledged. Also where Redis lost the note of its run.
    """

    async def run() -> None:
        town = await new_town(redis_server.url, noted=noted)
        for kind, *values in steps:
            if kind == "use":
                await town.use(*values)
            elif kind == "send":
                await town.send(str(values[0]))
            elif kind == "copy":
                await town.copy()
            elif kind == "lose":
                await town.lose()
                await town.recover()
            else:
                town.clock.now_ms += DAY_MS if kind == "night" else RESEAL_MS
        await town.lose()
        await town.recover()
        await town.finish()
        assert town.zion.booked + await town.dead() == town.used
        assert await town.redis.hlen(key("a", 0)) == 0
        if not any(kind == "night" for kind, *_ in steps):
            for name in town.used:
                account = read_account(await town.redis.get(key("q", 0, name)))["input"]
                assert (account[2], account[3]) == (town.used[name], town.zion.booked[name])
        await close(town)

    asyncio.run(run())


@pytest.mark.parametrize("noted", [True, False])
async def test_what_redis_lost_is_sealed_again_before_anything_new_is(redis_server: RedisServer, noted: bool) -> None:
    """A new run seals nothing for 6 s, in which seals are told; the batch then goes out as it was, marked as unsure. So it is
    where Redis has lost the note of its run, too.
    """
    town = await new_town(redis_server.url, noted=noted)
    await town.copy()
    await town.use(0, 5)
    first = await town.take()
    assert first is not None
    assert not town.zion.post(first)
    assert await town.ledger.ack_batch(first)
    await town.lose()
    await town.ledger.replay(town.bills[0])
    assert await town.take() is None
    queue = await town.ledger.peek(0)
    assert (queue.sums, queue.ready, queue.wait_s) == (1, False, 6.0)
    (seal,) = await town.ledger.unsealed(town.seals)
    assert await town.ledger.reseal(seal)
    assert not await town.ledger.reseal(seal)
    assert (await town.ledger.peek(0)).sums == 0
    town.clock.now_ms += RESEAL_MS - 1
    assert await town.take() is None
    town.clock.now_ms += 1
    again = await town.take()
    assert again is not None
    assert (again.id, again.items, again.sealed_at_ms, again.json, again.attempts, again.lost) == (
        *(first.id, first.items, first.sealed_at_ms, first.json),
        *(1, True),
    )
    assert await town.ledger.ack_batch(again)
    assert await town.ledger.unsealed(town.seals) == []
    assert not await town.ledger.reseal(seal)
    await close(town)


async def test_a_claim_whose_end_was_lost_ends_with_the_run(town: Town) -> None:
    """A batch that failed, in a Redis that lost that: it goes again after 6 s, not after the minute of its claim."""
    await town.use(0, 5)
    batch = await town.take()
    assert batch is not None
    await town.copy()
    assert await town.ledger.retry_batch(batch, 200)
    await town.lose()
    assert (await town.ledger.peek(0)).due == 0
    town.clock.now_ms += RESEAL_MS
    again = await town.take()
    assert again is not None
    assert (again.id, again.attempts) == (batch.id, 2)


async def test_the_first_run_and_a_run_that_is_known_wait_for_nothing(town: Town) -> None:
    """Only another run than the last may have lost something; one whose clock was set back does not wait for that long."""
    await town.use(0, 5)
    assert (await town.ledger.peek(0)).wait_ms == 0
    await town.copy()
    await town.lose()
    assert (await town.ledger.peek(0)).wait_ms == RESEAL_MS
    town.clock.now_ms -= DAY_MS
    assert (await town.ledger.peek(0)).wait_ms == 0
    assert await town.take() is not None


async def test_a_redis_that_does_not_say_its_run_is_always_the_same(town: Town, redis_server: RedisServer) -> None:
    """Where INFO is forbidden to Sentinel's user, reports go as ever."""
    await town.redis.execute_command("ACL", "SETUSER", "mute", "on", ">secret", "~*", "&*", "+@all", "-info")
    ledger = open_ledger(f"unix://mute:secret@{redis_server.socket}", now_ms=town.clock)
    await town.use(0, 5)
    await town.copy()
    await town.lose()
    queue = await ledger.peek(0)
    assert (queue.ready, queue.wait_ms) == (True, 0)
    batch = await ledger.claim_batch(0)
    assert batch is not None
    assert await ledger.ack_batch(batch)
    await ledger.close()
    await town.redis.execute_command("ACL", "DELUSER", "mute")


async def test_a_seal_that_is_told_late_nets_with_what_comes(town: Town) -> None:
    """A worker that was frozen tells its seal after the sums went out again: what was booked twice is left out later."""
    await town.copy()
    await town.use(0, 5)
    assert await town.send("booked")
    await town.lose()
    await town.ledger.replay(town.bills[0])
    town.clock.now_ms += RESEAL_MS
    await town.ledger.peek(0)
    town.clock.now_ms += RESEAL_MS
    assert await town.send("booked")
    assert town.zion.booked == {"user-0": 10}
    assert await town.ledger.reseal(town.seals[0])
    await town.use(0, 7)
    await town.finish()
    assert town.zion.booked == {"user-0": 12}


async def test_a_new_worker_beside_the_journal_of_a_dead_one_seals_nothing_at_once(town: Town, tmp_path: Path) -> None:
    """Redis lost everything, and all workers died: who comes next knows no earlier run, but finds what they left."""
    dead, own = (Journal(tmp_path, boot, bytes_max=2**20, keep_s=60.0, refuse_when_full=True) for boot in ("b" * 16, "a" * 16))
    dead.tend()
    await town.use(0, 5)
    dead.settled(_hold(town.bills[0]), _bill(town.bills[0]))
    dead.close()
    await town.redis.flushall()
    await Recovery(town.ledger, own).look()
    queue = await town.ledger.peek(0)
    assert (queue.sums, queue.ready, queue.wait_ms) == (1, False, RESEAL_MS)
    own.close()


async def test_recovery_tells_seals_after_bills(tmp_path: Path) -> None:
    """A Redis that lost everything gets the seals of this worker and of a dead one back: nothing is left to seal, both batches
    are there, and a seal that the disk has torn is passed over.
    """
    server = start_server()
    town = await new_town(server.url)
    dead, own = (Journal(tmp_path, boot, bytes_max=2**20, keep_s=60.0, refuse_when_full=True) for boot in ("b" * 16, "a" * 16))
    recovery = Recovery(town.ledger, own)
    for number, journal in enumerate((dead, own)):
        journal.tend()
        await town.use(number, 5)
        entry = town.bills[number]
        journal.settled(_hold(entry), _bill(entry))
        batch = await town.take()
        assert batch is not None
        assert journal.sealed(batch.seal(journal.now_ms()))
        assert await town.ledger.ack_batch(batch)
    dead.close()
    with next(tmp_path.glob("bbbb*")).open("ab") as file:
        file.write(b'["sealed",1,"')
    await recovery.look()
    assert (await town.ledger.peek(0)).batches == 0
    server.stop()
    server.start()
    await recovery.look()
    assert {batch.id async for batch in town.ledger.admin_ledger.waiting()} == {seal.batch_id for seal in town.seals}
    assert (await town.ledger.peek(0)).sums == 0
    await recovery.close()
    own.close()
    await close(town)
    remove_server(server)


def _hold(entry: Entry) -> Hold:
    return Hold(entry.request_id, Caller(entry.external_id, entry.email), entry.model, 0, 0, NONE, NONE, NONE, NONE)


def _bill(entry: Entry) -> Bill:
    return Bill(entry.requests, entry.input_tokens, entry.output_tokens)
