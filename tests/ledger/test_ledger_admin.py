"""books: what operators and callers read of the ledger, and what they do with dead letters, on a real Redis."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sentinel.ledger import Batch, Ledger
from sentinel.ledger.ledger_admin import Account, Sum, Use
from sentinel.ops.records import Bill, Caller, Hold, Metric, Remaining
from sentinel.zion.increments import Item
from sentinel.zion.limits import MetricLimit, Snapshot
from tests.support.ledgers import open_ledger, redis, verdict_of
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis", "redis_server"]

DAY_MS = 86_400_000
NOON_MS = 1_795_262_400_000  # Saturday 2026-11-21, 12:00 UTC
MIDNIGHT_MS = NOON_MS - DAY_MS // 2
CALLER = Caller("customer:{1}", "one@example.com")


class Clock:
    """The time the scripts are told, Unix ms."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def ledger(redis: Any, redis_server: RedisServer, clock: Clock) -> AsyncIterator[Ledger]:
    """A ledger of 4 partitions with a window of 5 requests."""
    opened = open_ledger(redis_server.url, partitions=4, rate_requests=5, stale_ms=10 * DAY_MS, now_ms=clock)
    yield opened
    await opened.close()


async def know(ledger: Ledger, caller: Caller = CALLER, *, used: int = 0, period: str = "DAILY") -> None:
    """Install limits of 1000 tokens each way and 20 requests."""
    daily = (MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS, "DAILY")
    start_ms, end_ms, name = daily if period == "DAILY" else (0, 0, "NEVER")
    limits = (MetricLimit(amount, used, start_ms, end_ms, name) for amount in (1000, 1000, 20))
    await ledger.install_limits(caller.external_id, Snapshot(*limits), (0, 0, 0))


async def hold(ledger: Ledger, request_id: str, caller: Caller = CALLER) -> Hold:
    """Hold one request, 10 input and 20 output tokens."""
    verdict = await verdict_of(ledger, caller, request_id, 10, 20, 1, "m")
    assert verdict.code == "admitted"
    shown = (verdict.requests, verdict.input, verdict.output, verdict.rate)
    return Hold(request_id, caller, "m", 10, verdict.granted_output, *shown)


async def use(ledger: Ledger, request_id: str, caller: Caller = CALLER) -> None:
    """Use one request, 10 input and 7 output tokens."""
    await ledger.settle(await hold(ledger, request_id, caller), Bill(1, 10, 7))


async def take(ledger: Ledger) -> Batch:
    """The next batch of any partition."""
    for partition in range(ledger.partitions):
        if (batch := await ledger.claim_batch(partition)) is not None:
            return batch
    raise AssertionError("nothing to take")


async def refused(ledger: Ledger, caller: Caller = CALLER) -> str:
    """The id of a dead letter over one request of CALLER."""
    await know(ledger, caller)
    await use(ledger, "req_x_1", caller)
    batch = await take(ledger)
    assert await ledger.dead_letter(batch, {0: "user not found"})
    return f"{batch.id}:0"


async def content(redis: Any) -> dict[bytes, bytes]:
    """Every key with what DUMP says of it, without its time to live."""
    return {name: await redis.dump(name) async for name in redis.scan_iter()}


async def collected(pages: AsyncIterator[Any]) -> list[Any]:
    """All of a listing."""
    return [one async for one in pages]


async def test_an_account_shows_what_is_used_held_and_unreported(ledger: Ledger) -> None:
    """Used is Zion's figure and what was settled here; what a request in flight holds is told apart; the rest remains."""
    await know(ledger, used=3)
    await use(ledger, "req_a_1")
    await use(ledger, "req_a_2")
    batch = await take(ledger)
    await ledger.ack_batch(batch)
    await use(ledger, "req_a_3")
    await hold(ledger, "req_a_4")
    account = await ledger.admin_ledger.account(CALLER.external_id)
    day = (MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS, "DAILY")
    assert account == Account(
        external_id=CALLER.external_id,
        clock_ms=NOON_MS,
        fetched_ms=NOON_MS,
        rate=Remaining(5, 1, 66_000),
        acked=(20, 14, 2),
        uses={
            Metric.INPUT: Use(1000, 33, 10, 10, *day),
            Metric.OUTPUT: Use(1000, 24, 20, 7, *day),
            Metric.REQUESTS: Use(20, 6, 1, 1, *day),
        },
    )
    assert [use.remaining for use in account.uses.values()] == [957, 956, 13]


async def test_reading_changes_nothing_and_shows_a_period_that_is_over_as_begun_anew(
    ledger: Ledger, clock: Clock, redis: Any
) -> None:
    """Days later every listing reads the same bytes as before, and the account shows the new day, with what is still held."""
    await refused(ledger)
    await use(ledger, "req_x_2")
    await take(ledger)
    await use(ledger, "req_x_3")
    await hold(ledger, "req_x_4")
    before = await content(redis)
    clock.now_ms += 3 * DAY_MS
    admin_ledger = ledger.admin_ledger
    account = await admin_ledger.account(CALLER.external_id)
    listed = [
        await collected(pages())
        for pages in (admin_ledger.accounts, admin_ledger.sums, admin_ledger.waiting, admin_ledger.dead_letters)
    ]
    assert [len(rows) for rows in listed] == [1, 1, 1, 1]
    assert await content(redis) == before
    start_ms = MIDNIGHT_MS + 3 * DAY_MS
    assert account.uses[Metric.INPUT] == Use(1000, 0, 10, 0, start_ms, start_ms + DAY_MS, "DAILY")
    assert listed[0] == [account]


async def test_an_unknown_caller_has_an_account_that_says_so(ledger: Ledger, redis: Any) -> None:
    """Asking for it makes no key, and no limit is claimed."""
    account = await ledger.admin_ledger.account("nobody")
    assert (account.fetched_ms, account.acked, account.rate.remaining) == (0, (0, 0, 0), 5)
    assert {use.limit for use in account.uses.values()} == {None}
    assert await content(redis) == {}
    assert (await verdict_of(ledger, Caller("half", ""), "req_a_1", 1, 1, 1)).refresh
    assert await collected(ledger.admin_ledger.accounts()) == []


async def test_accounts_of_all_partitions_come_page_by_page(ledger: Ledger) -> None:
    """A thousand callers, more than any page holds, among other keys: each is told, under its own id."""
    callers = {f"user:{at}:{{x}}" for at in range(1000)}
    for name in callers:
        await know(ledger, Caller(name, ""), period="NEVER")
        await ledger.keep_limits(name, b"{}", 60)
    found = await collected(ledger.admin_ledger.accounts())
    assert {account.external_id for account in found} == callers
    assert found[0].uses[Metric.REQUESTS] == Use(20, 0, 0, 0, 0, 0, "NEVER")


async def test_what_waits_is_listed_with_its_age(ledger: Ledger, clock: Clock) -> None:
    """Unsealed sums by caller and period; sealed batches with their attempts and the time of the next."""
    other = Caller("other", "two@example.com")
    for caller in (CALLER, other):
        await know(ledger, caller)
        await use(ledger, f"req_{caller.external_id}_1", caller)
    sums = await collected(ledger.admin_ledger.sums())
    expected = [Sum(caller.external_id, caller.email, "m", MIDNIGHT_MS, 10, 7, 1) for caller in (CALLER, other)]
    assert sorted(sums, key=repr) == sorted(expected, key=repr)
    batch = await take(ledger)
    clock.now_ms += 5000
    await ledger.retry_batch(batch, 60_000)
    assert len(await collected(ledger.admin_ledger.sums())) == 1
    (waiting,) = await collected(ledger.admin_ledger.waiting())
    assert (waiting.id, waiting.partition, waiting.attempts) == (batch.id, batch.partition, 1)
    assert (waiting.sealed_at_ms, waiting.next_at_ms) == (NOON_MS, NOON_MS + 65_000)
    assert [one.external_id for one in waiting.sums] == [item.external_id for item in batch.items]
    assert await ledger.admin_ledger.clock_ms() == NOON_MS + 5000
    await ledger.ack_batch(batch)
    assert await collected(ledger.admin_ledger.waiting()) == []


async def test_a_requeued_letter_is_reported_once_under_a_new_id(ledger: Ledger, redis: Any) -> None:
    """However often it is asked for; it joins what else waits of its caller, model and period, and is acknowledged with it."""
    letter_id = await refused(ledger)
    letter = await ledger.admin_ledger.dead_letter(letter_id)
    assert letter is not None
    assert (letter.reason, letter.buried_at_ms) == ("user not found", NOON_MS)
    assert letter.sum == Sum(CALLER.external_id, CALLER.email, "m", MIDNIGHT_MS, 10, 7, 1)
    await use(ledger, "req_x_2")
    assert (await ledger.admin_ledger.account(CALLER.external_id)).uses[Metric.INPUT].unreported == 20
    assert [await ledger.admin_ledger.requeue_letter(letter) for _ in range(3)] == [True, False, False]
    assert await ledger.admin_ledger.dead_letter(letter_id) is None
    assert await ledger.admin_ledger.discard_letter(letter) is False
    batch = await take(ledger)
    assert not letter_id.startswith(batch.id)
    assert batch.items == (Item(CALLER.external_id, CALLER.email, "m", 20, 14, 2),)
    await ledger.ack_batch(batch)
    use_now = (await ledger.admin_ledger.account(CALLER.external_id)).uses[Metric.INPUT]
    assert (use_now.used, use_now.unreported) == (20, 0)
    assert not await redis.exists("a:{s00}", "a:{s01}", "a:{s02}", "a:{s03}")


async def test_a_letter_of_an_earlier_day_is_requeued_into_that_day(ledger: Ledger, clock: Clock) -> None:
    """Zion books it with a time stamp of the day it was used; today's account does not move."""
    letter_id = await refused(ledger)
    clock.now_ms += DAY_MS
    await use(ledger, "req_x_2")
    letter = await ledger.admin_ledger.dead_letter(letter_id)
    assert letter is not None
    assert await ledger.admin_ledger.requeue_letter(letter)
    batches = [await take(ledger), await take(ledger)]
    assert sorted(batch.sealed_at_ms for batch in batches) == [MIDNIGHT_MS + DAY_MS - 1, NOON_MS + DAY_MS]
    for batch in batches:
        await ledger.ack_batch(batch)
    use_now = (await ledger.admin_ledger.account(CALLER.external_id)).uses[Metric.INPUT]
    assert (use_now.used, use_now.unreported) == (10, 0)


async def test_a_dropped_letter_is_taken_off_its_account_once(ledger: Ledger) -> None:
    """Its caller gets it back at once, and the limits are fetched anew, in case that it was booked in Zion by hand."""
    letter_id = await refused(ledger)
    await use(ledger, "req_x_2")
    letter = await ledger.admin_ledger.dead_letter(letter_id)
    assert letter is not None
    assert [await ledger.admin_ledger.discard_letter(letter) for _ in range(3)] == [True, False, False]
    assert await ledger.admin_ledger.requeue_letter(letter) is False
    account = await ledger.admin_ledger.account(CALLER.external_id)
    assert [(use.used, use.unreported) for use in account.uses.values()] == [(10, 10), (7, 7), (1, 1)]
    assert await collected(ledger.admin_ledger.dead_letters()) == []


async def test_dropping_makes_the_next_admission_ask_zion_anew(ledger: Ledger, clock: Clock) -> None:
    """What somebody booked by hand is then part of Zion's figure, and counts again."""
    letter_id = await refused(ledger)
    letter = await ledger.admin_ledger.dead_letter(letter_id)
    assert letter is not None
    clock.now_ms += 1000
    assert await ledger.admin_ledger.discard_letter(letter)
    verdict = await verdict_of(ledger, CALLER, "req_x_9", 1, 1, 1)
    assert (verdict.code, verdict.refresh) == ("admitted", True)


async def test_dropping_never_touches_what_the_letter_is_not_part_of(ledger: Ledger, clock: Clock, redis: Any) -> None:
    """Not the account of a new day, and not one that was lost and made anew with less in it than the letter."""
    letter_id = await refused(ledger)
    letter = await ledger.admin_ledger.dead_letter(letter_id)
    assert letter is not None
    await redis.delete(*[name async for name in redis.scan_iter(match="q:*")])
    await know(ledger)
    await use(ledger, "req_x_2")
    await ledger.ack_batch(await take(ledger))
    assert await ledger.admin_ledger.discard_letter(letter)
    assert (await ledger.admin_ledger.account(CALLER.external_id)).uses[Metric.INPUT].used == 10
    again = await refused_on_the_next_day(ledger, clock)
    assert await ledger.admin_ledger.discard_letter(again)
    assert (await ledger.admin_ledger.account(CALLER.external_id)).uses[Metric.INPUT].used == 10


async def refused_on_the_next_day(ledger: Ledger, clock: Clock) -> Any:
    """A dead letter of yesterday, with one request of today beside it."""
    await use(ledger, "req_y_1")
    batch = await take(ledger)
    await ledger.dead_letter(batch, {0: "no"})
    clock.now_ms += DAY_MS
    await use(ledger, "req_y_2")
    return await ledger.admin_ledger.dead_letter(f"{batch.id}:0")


async def test_a_letter_nobody_has_is_none(ledger: Ledger) -> None:
    """An id that never was, whatever it looks like."""
    assert [await ledger.admin_ledger.dead_letter(name) for name in ("", "x", "x:0", "q:{s00}:x")] == [None] * 4
