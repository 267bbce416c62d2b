"""names: usage is reported under the names that Zion knows when it is sealed, on a real Redis, whatever they were before."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from sentinel.ledger import Batch, Ledger, user_names
from sentinel.ops.records import Bill, Caller, Hold, Remaining
from sentinel.zion.increments import Item
from sentinel.zion.limits import MetricLimit, Snapshot
from tests.support.ledgers import open_ledger, redis, verdict_of
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis", "redis_server"]

NOON_MS = 1_795_262_400_000
PARTITIONS = 8
USED = Bill(1, 10, 7)
NO_LIMIT = Remaining(None, None, None)
UNLIMITED = Snapshot(MetricLimit(), MetricLimit(), MetricLimit())
ADA, ADA_ANEW, NAMELESS = Caller("ada", "ada@x.test"), Caller("ada", "ada@new.test"), Caller("ada", "")


class World:
    """A ledger, and what Zion would see of it: `told` adds up what was sealed by (format, external id, e-mail)."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.clock_ms = NOON_MS
        self._requests = 0

    async def use(self, caller: Caller, bill: Bill = USED, model: str = "m") -> None:
        """Usage of a caller, settled."""
        self._requests += 1
        hold = Hold(f"req_{self._requests}", caller, model, 0, 0, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT)
        assert (await self.ledger.settle(hold, bill, blind=True)).applied

    async def take(self, usage_format: str = "unified", items_max: int = 100) -> list[Batch]:
        """All batches there are, of all partitions."""
        batches = []
        for partition in range(PARTITIONS):
            while (batch := await self.ledger.claim_batch(partition, items_max, usage_format=usage_format)) is not None:
                batches.append(batch)
        return batches

    async def told(self, usage_format: str = "unified") -> dict[tuple[str, str, str], tuple[int, int, int]]:
        """Everything that waits is booked: what Zion hears, by format and names."""
        heard: dict[tuple[str, str, str], tuple[int, int, int]] = {}
        for batch in await self.take(usage_format):
            for item in batch.items:
                name = (batch.usage_format, *item.names)
                known = heard.get(name, (0, 0, 0))
                heard[name] = (known[0] + item.amounts[0], known[1] + item.amounts[1], known[2] + item.amounts[2])
            assert await self.ledger.ack_batch(batch)
        return heard

    async def refuse(self, usage_format: str = "unified") -> None:
        """Everything that waits becomes a dead letter."""
        for batch in await self.take(usage_format):
            assert await self.ledger.dead_letter(batch, dict.fromkeys(range(len(batch.items)), "User not found"))

    async def requeue(self) -> None:
        """Every dead letter goes back."""
        for letter in [letter async for letter in self.ledger.admin_ledger.dead_letters()]:
            assert await self.ledger.admin_ledger.requeue_letter(letter)


@pytest.fixture
async def world(redis: Any, redis_server: RedisServer) -> AsyncIterator[World]:
    """A ledger of a few partitions at noon."""
    ledger = open_ledger(redis_server.url, partitions=PARTITIONS, now_ms=lambda: made.clock_ms)
    made = World(ledger)
    yield made
    await ledger.close()


NAMES: list[tuple[str, Sequence[Caller], tuple[str, str]]] = [
    ("never renamed", [ADA], ("ada", "ada@x.test")),
    ("another e-mail", [ADA, ADA_ANEW], ("ada", "ada@new.test")),
    ("and one more", [ADA, ADA_ANEW, Caller("ada", "a@third.test")], ("ada", "a@third.test")),
    ("back again", [ADA, ADA_ANEW, ADA], ("ada", "ada@x.test")),
    ("an e-mail appears", [NAMELESS, ADA], ("ada", "ada@x.test")),
    ("an e-mail goes away", [ADA, NAMELESS], ("ada", "")),
    ("another external id", [ADA, Caller("lovelace", "ada@x.test")], ("lovelace", "ada@x.test")),
    ("both", [ADA, Caller("lovelace", "ada@new.test")], ("lovelace", "ada@new.test")),
    ("both, one after the other", [ADA, ADA_ANEW, Caller("king", "ada@new.test")], ("king", "ada@new.test")),
    ("external ids in turn", [ADA, Caller("king", "k@x"), Caller("ada", "k@x")], ("ada", "k@x")),
    ("without an e-mail, another external id", [NAMELESS, Caller("lovelace", "")], ("lovelace", "")),
]
TABLE = pytest.mark.parametrize(("life", "expected"), [row[1:] for row in NAMES], ids=[row[0] for row in NAMES])
FORMATS = pytest.mark.parametrize("usage_format", ["unified", "per_limit"])


def heard(expected: tuple[str, str], usage_format: str, times: int) -> dict[tuple[str, str, str], tuple[int, int, int]]:
    """What Zion is to hear of so many uses: nobody without an e-mail in the unified format."""
    return {(usage_format if expected[1] else "per_limit", *expected): (10 * times, 7 * times, times)}


@FORMATS
@TABLE
async def test_sums_are_sealed_under_the_present_names(
    world: World, usage_format: str, life: Sequence[Caller], expected: tuple[str, str]
) -> None:
    """What was used under each name a user ever had is reported under the last one, all of it, once."""
    for caller in life:
        await world.ledger.names.learn("u-1", caller)
        await world.use(caller)
    # Workers that still remember the first name.
    await world.use(life[0])
    assert await world.told(usage_format) == heard(expected, usage_format, len(life) + 1)
    assert await world.told(usage_format) == {}


@FORMATS
@TABLE
async def test_a_requeued_letter_is_reported_under_the_present_names(
    world: World, usage_format: str, life: Sequence[Caller], expected: tuple[str, str]
) -> None:
    """However often the user was renamed, and the letter refused, in between."""
    await world.use(life[0])
    for caller in life:
        await world.ledger.names.learn("u-1", caller)
        await world.requeue()
        await world.refuse(usage_format)
    await world.requeue()
    assert await world.told(usage_format) == heard(expected, usage_format, 1)
    assert [letter async for letter in world.ledger.admin_ledger.dead_letters()] == []


@FORMATS
@TABLE
async def test_a_sealed_batch_keeps_its_names(
    world: World, usage_format: str, life: Sequence[Caller], expected: tuple[str, str]
) -> None:
    """Its bytes stay the same under its key; refused under the old name, it is booked under the present one when requeued."""
    await world.ledger.names.learn("u-1", life[0])
    await world.use(life[0])
    (batch,) = await world.take(usage_format)
    for caller in life:
        await world.ledger.names.learn("u-1", caller)
        world.clock_ms += 60_000
        (again,) = await world.take(usage_format)
        assert (again.id, again.items, again.usage_format) == (batch.id, batch.items, batch.usage_format)
    assert await world.ledger.dead_letter(again, {0: "User not found"})
    await world.requeue()
    assert await world.told(usage_format) == heard(expected, usage_format, 1)


@TABLE
async def test_the_account_is_the_one_that_was_charged(world: World, life: Sequence[Caller], expected: tuple[str, str]) -> None:
    """Whatever its caller is called when Zion acknowledges it."""
    await world.ledger.install_limits(life[0].external_id, UNLIMITED, (0, 0, 0))
    await world.use(life[0])
    for caller in life:
        await world.ledger.names.learn("u-1", caller)
    assert await world.told() == heard(expected, "unified", 1)
    account = await world.ledger.admin_ledger.account(life[0].external_id)
    assert [(use.used, use.unreported) for use in account.uses.values()] == [(10, 0), (7, 0), (1, 0)]


async def test_nobody_without_an_email_is_in_a_unified_batch(world: World) -> None:
    """Of many in one partition, each batch is of one format; all is told once, and a batch per limit is one that Zion takes."""
    named = [Caller(f"named-{at}", f"{at}@x.test") for at in range(700)]
    nameless = [Caller(f"nameless-{at}", ["", " ", "\t\n"][at % 3]) for at in range(700)]
    partitions = {world.ledger.partition(caller.external_id) for caller in nameless}
    assert len(partitions) == PARTITIONS
    for caller in (*named, *nameless):
        await world.use(caller)
    found: list[str] = []
    for batch in await world.take(items_max=1000):
        found += [item.external_id for item in batch.items]
        assert all(bool(item.names[1].strip()) is (batch.usage_format == "unified") for item in batch.items)
    assert sorted(found) == sorted(caller.external_id for caller in (*named, *nameless))


@pytest.mark.parametrize(("usage_format", "email"), [("per_limit", "x@y"), ("per_limit", ""), ("unified", "")])
async def test_a_report_per_limit_is_no_longer_than_zion_takes(world: World, usage_format: str, email: str) -> None:
    """Three increments an item, and 1000 a report."""
    for at in range(340):
        await world.use(Caller("ada", email), model=f"m{at}")
    assert [len(batch.items) for batch in await world.take(usage_format, 1000)] == [333, 7]


async def test_sums_of_one_caller_under_two_emails_are_one_increment(world: World) -> None:
    """Under the present one, with what is owed from before."""
    await world.use(ADA)
    await world.ledger.names.learn("u-1", ADA)
    await world.ledger.names.learn("u-1", ADA_ANEW)
    await world.use(ADA_ANEW)
    (batch,) = await world.take()
    assert batch.items == (Item("ada", "ada@new.test", "m", 20, 14, 2),)


async def test_a_credit_nets_with_what_comes_under_another_email(world: World, redis: Any) -> None:
    """An estimate was reported, the truth is less, and the caller is renamed before anything more comes."""
    await world.ledger.install_limits("ada", UNLIMITED, (0, 0, 0))
    verdict = await verdict_of(world.ledger, ADA, "req_a", 100, 50, 1, "m")
    shown = (verdict.requests, verdict.input, verdict.output, verdict.rate)
    world.clock_ms += 60_001
    assert await world.ledger.expire_holds(world.ledger.partition("ada")) == 1
    assert await world.told() == {("unified", "ada", "ada@x.test"): (100, 0, 1)}
    await world.ledger.settle(Hold("req_a", ADA, "m", 100, 50, *shown), Bill(1, 40, 0))
    assert await world.told() == {}
    await world.ledger.names.learn("u-1", ADA)
    await world.ledger.names.learn("u-1", ADA_ANEW)
    assert await world.told() == {}
    await world.use(ADA_ANEW, Bill(1, 50, 5))
    assert await world.told() == {("unified", "ada", "ada@new.test"): (0, 5, 1)}
    await world.use(ADA_ANEW, Bill(1, 50, 5))
    assert await world.told() == {("unified", "ada", "ada@new.test"): (40, 5, 1)}
    assert await redis.keys("a:*") == []


async def test_only_the_email_of_a_name_may_be_anothers(world: World) -> None:
    """Whoever gets a former e-mail, or a former external id, reports as itself, and the former owner as itself."""
    await world.use(ADA)
    moved, bob, eve = Caller("lovelace", "ada@new.test"), Caller("bob", "ada@x.test"), Caller("ada", "eve@x.test")
    for user, caller in (("u-1", ADA), ("u-2", bob), ("u-3", eve), ("u-1", moved), ("u-2", bob), ("u-3", eve)):
        await world.ledger.names.learn(user, caller)
    for caller in (bob, eve, moved):
        await world.use(caller)
    assert await world.told() == {
        ("unified", "lovelace", "ada@new.test"): (20, 14, 2),
        ("unified", "bob", "ada@x.test"): (10, 7, 1),
        ("unified", "ada", "eve@x.test"): (10, 7, 1),
    }


async def test_who_has_a_former_name_whole_reports_under_it(world: World) -> None:
    """A user who was made anew with both names of one who was renamed: however often Zion is asked about either."""
    for caller in (ADA, ADA_ANEW):
        await world.ledger.names.learn("u-1", caller)
    for _ in range(2):
        await world.ledger.names.learn("u-2", ADA)
        await world.ledger.names.learn("u-1", ADA_ANEW)
    await world.use(ADA)
    await world.use(ADA_ANEW)
    assert await world.told() == {
        ("unified", "ada", "ada@x.test"): (10, 7, 1),
        ("unified", "ada", "ada@new.test"): (10, 7, 1),
    }


@pytest.mark.parametrize("odd", ["a/b", 'a"b', "a\\b", "a\x7fb", "a\x00b", "ä€𝄞", "12:x", ":", "a b", "\ud800", "{s01}"])
async def test_names_may_hold_anything(world: World, odd: str) -> None:
    """Both of them, and what a model is called."""
    before, after = Caller(odd, f"{odd}@x"), Caller(odd, f"{odd}@y")
    shown = odd.encode("utf-8", "backslashreplace").decode()
    for caller in (before, after):
        await world.ledger.names.learn(odd, caller)
        await world.use(caller, model=odd)
    (batch,) = await world.take()
    assert {item.names for item in batch.items} == {(shown, f"{shown}@y")}
    assert {item.model for item in batch.items} == {shown}
    assert sum(item.requests for item in batch.items) == 2


async def test_two_parts_of_a_name_are_not_one(world: World) -> None:
    """Where one ends and the other begins belongs to the name."""
    await world.ledger.names.learn("u-1", Caller("a", "bc"))
    await world.ledger.names.learn("u-1", Caller("a", "new"))
    await world.use(Caller("ab", "c"))
    assert await world.told() == {("unified", "ab", "c"): (10, 7, 1)}


async def test_what_is_remembered_is_bounded(world: World, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last names of a user for 90 days, and so many renamed ones of a partition; never renamed users take one key."""
    monkeypatch.setattr(user_names, "RENAMED_MAX", 5)
    for at in range(40):
        await world.ledger.names.learn("u-1", Caller("ada", f"{at}@x.test"))
    partition = world.ledger.partition("ada")
    assert await redis.hlen(f"n:{{s{partition:02d}}}") == 5
    (kept,) = [name async for name in redis.scan_iter("u:*")]
    assert (await redis.get(kept)).count(b"@x.test") == user_names.NAMES_MAX
    assert 0 < await redis.pttl(kept) <= user_names.LIFE_MS
    await redis.flushall()
    for _ in range(3):
        await world.ledger.names.learn("u-2", ADA)
    assert [name.split(b":")[0] async for name in redis.scan_iter("*")] == [b"u"]


async def test_a_name_that_is_told_again_changes_nothing(world: World, redis: Any) -> None:
    """By another worker, or the next time that Zion is asked."""
    for caller in (ADA, ADA_ANEW):
        await world.ledger.names.learn("u-1", caller)
    before = {name: await redis.dump(name) async for name in redis.scan_iter("*")}
    await world.ledger.names.learn("u-1", ADA_ANEW)
    assert {name: await redis.dump(name) async for name in redis.scan_iter("*")} == before
