"""ledger: the scripts and the pipeline against a real Redis, with the clock injected where it matters."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from sentinel import ledger as ledger_module
from sentinel.ledger import Batch, Ledger, open_redis
from sentinel.ledger.ledger_admin import LedgerAdmin
from sentinel.ledger.redis.pipeline import SCRIPTS
from sentinel.ledger.user_names import Names
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.records import Bill, Caller, Entry, Hold, Remaining
from sentinel.zion.gate import Gate
from sentinel.zion.increments import Item, Seal
from sentinel.zion.limits import MetricLimit, Snapshot, Verdict
from tests.support.ledgers import emptied, open_ledger, verdict_of
from tests.support.redis_server import RedisServer, redis_server, remove_server, start_server

__all__ = ["redis_server"]

DAY_MS = 86_400_000
NOON_MS = 1_795_262_400_000  # Saturday 2026-11-21, 12:00 UTC
CALLER = Caller("customer:{1}", "one@example.com")
UNLIMITED = Snapshot(MetricLimit(), MetricLimit(), MetricLimit())


class Clock:
    """The time the scripts are told, Unix ms."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


def new_ledger(url: str, clock: Clock, **changes: Any) -> Ledger:
    """A ledger with generous settings but for `changes`."""
    settings: dict[str, Any] = {
        "partitions": 4,
        "timeout_s": 5.0,
        "lease_ms": 60_000,
        "rate_requests": 0,
        "rate_window_ms": 60_000,
        "fresh_ms": 300_000,
        "stale_ms": 3_600_000,
        **changes,
    }
    return Ledger(open_redis(url, 5.0), now_ms=clock, **settings)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def ledger(redis_server: RedisServer, clock: Clock) -> AsyncIterator[Ledger]:
    """A ledger over an empty Redis."""
    await emptied(redis_server.url)
    opened = new_ledger(redis_server.url, clock)
    yield opened
    await opened.close()


class Stalling:
    """A relay in front of a Redis: `stall` holds back what comes over the connections there are, until `flow`."""

    def __init__(self, server: RedisServer) -> None:
        self._target = server.socket
        self._path = server.socket.with_name("relay.sock")
        self._open = asyncio.Event()
        self._open.set()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stalled: set[asyncio.StreamReader] = set()
        self._clients: set[asyncio.StreamReader] = set()

    @classmethod
    async def start(cls, server: RedisServer) -> "Stalling":
        """One that listens."""
        relay = cls(server)
        relay._listener = await asyncio.start_unix_server(relay._accept, str(relay._path))
        return relay

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self._path}"

    def stall(self) -> None:
        """Hold back what comes over the connections that are open now."""
        self._stalled = set(self._clients)
        self._open.clear()

    def flow(self) -> None:
        """Let everything go on."""
        self._open.set()

    async def close(self) -> None:
        """Close all connections."""
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(reader)
        up_reader, up_writer = await asyncio.open_unix_connection(str(self._target))
        for one, other in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._copy(one, other))
            self._tasks.add(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                if reader in self._stalled:
                    await self._open.wait()
                writer.write(chunk)
                await writer.drain()
        finally:
            writer.close()


def limited(*, input: int | None = None, output: int | None = None, requests: int | None = None, used: int = 0) -> Snapshot:  # noqa: A002
    """Daily limits with `used` of each used up."""
    day = {"start_ms": NOON_MS - DAY_MS // 2, "end_ms": NOON_MS + DAY_MS // 2, "period": "DAILY"}
    return Snapshot(*(MetricLimit(amount, used, **day) for amount in (input, output, requests)))


def held(request_id: str, verdict: Verdict, input_tokens: int = 10, caller: Caller = CALLER, model: str = "m") -> Hold:
    """The hold of an admitted request."""
    return Hold(
        request_id,
        caller,
        model,
        input_tokens,
        verdict.granted_output,
        verdict.requests,
        verdict.input,
        verdict.output,
        verdict.rate,
    )


def void(request_id: str) -> Entry:
    """What a journal says of a request that was refused and may be held all the same."""
    return Entry("settled", 0, request_id, CALLER.external_id, CALLER.email, "", 0, 0, 0)


async def admit(ledger: Ledger, request_id: str, input_tokens: int = 10, output_tokens: int = 20, least: int = 1) -> Verdict:
    """Admit one request of CALLER."""
    return await verdict_of(ledger, CALLER, request_id, input_tokens, output_tokens, least)


async def take_all(ledger: Ledger) -> list[Item]:
    """Every unreported item, acknowledged."""
    items: list[Item] = []
    for partition in range(ledger.partitions):
        while (batch := await ledger.claim_batch(partition)) is not None:
            items += batch.items
            assert await ledger.ack_batch(batch)
    return items


async def test_an_unknown_caller_needs_a_snapshot_first(ledger: Ledger) -> None:
    """Nothing is held before limits are known, and the same request id is admitted afterwards."""
    first = await admit(ledger, "req_a_1")
    assert (first.code, first.why, first.refresh) == ("snapshot", "unknown", True)
    assert await ledger.install_limits(
        CALLER.external_id, limited(input=100, output=100, requests=5), first.acked, first.clock_ms
    )
    second = await admit(ledger, "req_a_1")
    assert (second.code, second.why, second.granted_output, second.refresh) == ("admitted", "ok", 20, False)
    assert second.input == Remaining(100, 90, DAY_MS // 2)
    assert second.output == Remaining(100, 80, DAY_MS // 2)
    assert second.requests == Remaining(5, 4, DAY_MS // 2)
    assert second.rate == Remaining(None, None, None)


@pytest.mark.parametrize("metric", ["requests", "input", "output"])
async def test_of_a_hundred_at_once_exactly_those_pass_that_fit(ledger: Ledger, metric: str) -> None:
    """With room for ten, ten of a hundred concurrent requests are admitted, and the rest are told which limit it was."""
    room = {"requests": 10, "input": 10 * 10 + 9, "output": 10 * 20}[metric]
    await ledger.install_limits(CALLER.external_id, limited(**{metric: room}), (0, 0, 0))
    verdicts = await asyncio.gather(*(admit(ledger, f"req_a_{at}", least=20) for at in range(100)))
    assert [verdict.code for verdict in verdicts].count("admitted") == 10
    assert {verdict.why for verdict in verdicts if verdict.code == "denied"} == {metric}


async def test_refusals_consume_nothing(ledger: Ledger, redis_server: RedisServer) -> None:
    """A refused request leaves no trace: Redis holds the same bytes as before."""
    strict = new_ledger(redis_server.url, Clock(), rate_requests=1)
    await ledger.install_limits(CALLER.external_id, limited(input=100, output=100, requests=5), (0, 0, 0))
    assert (await verdict_of(strict, CALLER, "req_a_0", 1, 1, 1)).code == "admitted"
    redis = open_redis(redis_server.url, 5.0)
    before = {key: await redis.dump(key) for key in sorted(await redis.keys())}
    assert (await verdict_of(strict, CALLER, "req_a_1", 1, 1, 1)).why == "rate"
    assert (await admit(ledger, "req_a_2", input_tokens=100)).why == "input"
    assert (await admit(ledger, "req_a_3", output_tokens=100, least=100)).why == "output"
    assert {key: await redis.dump(key) for key in sorted(await redis.keys())} == before
    await redis.aclose()
    await strict.close()


async def test_the_output_hold_shrinks_to_what_remains(ledger: Ledger) -> None:
    """Less is granted where less remains, down to the least that will do; below it the request is refused."""
    await ledger.install_limits(CALLER.external_id, limited(output=50), (0, 0, 0))
    assert (await admit(ledger, "req_a_1", output_tokens=40)).granted_output == 40
    verdict = await admit(ledger, "req_a_2", output_tokens=40, least=10)
    assert (verdict.code, verdict.granted_output) == ("admitted", 10)
    assert (await admit(ledger, "req_a_3", least=1)).why == "output"
    assert (await admit(ledger, "req_a_4", output_tokens=0, least=0)).code == "admitted"


async def test_a_limit_of_zero_refuses_and_no_limit_does_not(ledger: Ledger) -> None:
    """Zero is a limit; None is none, however much is used."""
    await ledger.install_limits(CALLER.external_id, limited(requests=0), (0, 0, 0))
    assert (await admit(ledger, "req_a_1")).why == "requests"
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    verdict = await admit(ledger, "req_a_2", input_tokens=10**9, output_tokens=10**9, least=10**9)
    assert (verdict.code, verdict.input) == ("admitted", Remaining(None, None, None))


async def test_the_window_never_lets_more_than_its_rate_through(
    redis_server: RedisServer, ledger: Ledger, clock: Clock
) -> None:
    """Refused until the sub-bucket of the oldest request has left in full, and admitted the very ms it has."""
    rated = new_ledger(redis_server.url, clock, rate_requests=3)
    await rated.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    clock.now_ms += 5_999
    verdicts = [await admit(rated, f"req_a_{at}") for at in range(4)]
    assert [verdict.code for verdict in verdicts] == ["admitted"] * 3 + ["denied"]
    assert verdicts[0].rate == Remaining(3, 2, 60_001)
    assert verdicts[3].rate == Remaining(3, 0, 60_001)
    clock.now_ms += 60_000
    assert (await admit(rated, "req_a_5")).rate.reset_ms == 1
    clock.now_ms += 1
    assert (await admit(rated, "req_a_6")).rate.remaining == 2
    await rated.close()


async def test_attempts_count_in_the_window_once(redis_server: RedisServer, ledger: Ledger, clock: Clock) -> None:
    """With the request that is admitted, and not where it is refused, nor a second time where the call is made again."""
    rated = new_ledger(redis_server.url, clock, rate_requests=5)
    await rated.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    refused = await verdict_of(rated, CALLER, "req_a_1", 1, 1, 1, attempts=5)
    assert (refused.code, refused.why, refused.rate) == ("denied", "rate", Remaining(5, 0, 66_000))
    for _ in range(2):
        verdict = await verdict_of(rated, CALLER, "req_a_2", 1, 1, 1, attempts=2)
        assert verdict.code == "admitted"
    assert (await verdict_of(rated, CALLER, "req_a_3", 1, 1, 1)).rate.remaining == 1
    await rated.close()


async def test_a_clock_that_runs_backwards_opens_no_window(redis_server: RedisServer, ledger: Ledger, clock: Clock) -> None:
    """After a failover to a server whose clock is an hour behind, the account's own last time counts."""
    rated = new_ledger(redis_server.url, clock, rate_requests=1)
    await rated.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    assert (await admit(rated, "req_a_1")).code == "admitted"
    clock.now_ms -= 3_600_000
    verdict = await admit(rated, "req_a_2")
    assert (verdict.why, verdict.clock_ms) == ("rate", NOON_MS)
    await rated.close()


async def test_the_window_runs_on_redis_own_time_in_production(redis_server: RedisServer, ledger: Ledger) -> None:
    """Without a test's clock the scripts take TIME; no clock of a worker is asked."""
    plain = open_ledger(redis_server.url, partitions=4, rate_requests=5, stale_ms=3_600_000)
    redis = open_redis(redis_server.url, 5.0)
    seconds, _ = await redis.time()
    verdict = await verdict_of(plain, CALLER, "req_a_1", 1, 1, 1)
    assert seconds * 1000 <= verdict.clock_ms <= (seconds + 60) * 1000
    await redis.aclose()
    await plain.close()


async def test_the_same_request_is_held_once(ledger: Ledger) -> None:
    """A second admit of one id gets the first grant; after the settlement it is told so."""
    await ledger.install_limits(CALLER.external_id, limited(output=30, requests=5), (0, 0, 0))
    first, second = await admit(ledger, "req_a_1", output_tokens=25), await admit(ledger, "req_a_1", output_tokens=99)
    assert (first.why, second.why, second.granted_output) == ("ok", "dup", 25)
    assert first.requests == second.requests
    await ledger.settle(held("req_a_1", first), Bill(1, 1, 1))
    assert (await admit(ledger, "req_a_1")).code == "settled"


async def test_a_settlement_frees_the_hold_and_charges_the_truth_once(ledger: Ledger) -> None:
    """What was held but not used comes back; a duplicate changes nothing; the truth may also be more than the hold."""
    await ledger.install_limits(CALLER.external_id, limited(input=100, output=100, requests=5), (0, 0, 0))
    hold = held("req_a_1", await admit(ledger, "req_a_1", output_tokens=60))
    settled = await ledger.settle(hold, Bill(1, 8, 65))
    assert (settled.applied, settled.why, settled.waiting) == (True, "ok", 1)
    assert settled.partition == ledger.partition(CALLER.external_id)
    again = await ledger.settle(hold, Bill(1, 8, 65))
    assert (again.applied, again.why, again.waiting) == (False, "dup", 1)
    verdict = await admit(ledger, "req_a_2", 1, 1)
    assert (verdict.input.remaining, verdict.output.remaining, verdict.requests.remaining) == (91, 34, 3)
    assert await take_all(ledger) == [Item(CALLER.external_id, CALLER.email, "m", 8, 65, 1)]


async def test_a_request_that_never_was_costs_nothing(ledger: Ledger) -> None:
    """A bill of zeros frees the hold and leaves nothing to report."""
    await ledger.install_limits(CALLER.external_id, limited(input=100, output=100, requests=5), (0, 0, 0))
    settled = await ledger.settle(held("req_a_1", await admit(ledger, "req_a_1")), Bill(0, 0, 0))
    assert (settled.applied, settled.waiting) == (True, 0)
    assert (await admit(ledger, "req_a_2", 0, 0, 0)).input.remaining == 100


async def test_a_settlement_nobody_knows_is_applied_only_blind(ledger: Ledger) -> None:
    """Without a hold nothing is charged, unless the worker knows that Redis lost it; and that only once."""
    hold = held("req_a_1", await admit(ledger, "req_a_1"))
    assert (await ledger.settle(hold, Bill(1, 5, 6))).why == "unknown"
    assert (await ledger.settle(hold, Bill(1, 5, 6), blind=True)).applied
    assert (await ledger.settle(hold, Bill(1, 5, 6), blind=True)).why == "dup"
    # What was settled before limits were known counts when they come.
    await ledger.install_limits(CALLER.external_id, limited(input=100), (0, 0, 0))
    assert (await admit(ledger, "req_a_2", 0, 0, 0)).input.remaining == 95
    assert [(item.input_tokens, item.output_tokens) for item in await take_all(ledger)] == [(5, 6)]


BOOT = "0123456789abcdef"


def entry(kind: str, sequence: int, input_tokens: int, output_tokens: int) -> Entry:
    """A line of a journal about a request of CALLER."""
    return Entry(
        kind, 0, f"req_{BOOT}_{sequence:x}", CALLER.external_id, CALLER.email, "m", input_tokens, output_tokens, requests=1
    )


async def forget_tombstones(url: str) -> None:
    """What ten minutes do."""
    redis = open_redis(url, 5.0)
    for name in await redis.keys("d:*"):
        await redis.delete(name)
    await redis.aclose()


async def test_the_truth_is_replayed_once_however_late(ledger: Ledger, redis_server: RedisServer) -> None:
    """What a journal tells is charged where it is missing, and never again, long after the tombstone is gone."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    told = entry("settled", 70_000, 5, 6)
    assert await ledger.unsettled([told]) == [told]
    assert (await ledger.replay(told)).why == "ok"
    await forget_tombstones(redis_server.url)
    assert await ledger.unsettled([told, entry("settled", 70_001, 1, 1)]) == [entry("settled", 70_001, 1, 1)]
    assert [(await ledger.replay(line)).why for line in (told, entry("started", 70_000, 5, 0))] == ["dup", "dup"]
    assert [(item.input_tokens, item.requests) for item in await take_all(ledger)] == [(5, 1)]


async def test_a_settled_request_is_a_duplicate_to_every_kind(ledger: Ledger, redis_server: RedisServer) -> None:
    """Settled in the ordinary way: neither its journal nor a second settlement changes anything, with tombstone or without."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    truth = entry("settled", 7, 5, 6)
    hold = held(truth.request_id, await admit(ledger, truth.request_id))
    assert (await ledger.settle(hold, Bill(1, 5, 6))).applied
    for _ in range(2):
        for again in (ledger.replay(truth), ledger.replay(entry("started", 7, 5, 0)), ledger.settle(hold, Bill(1, 5, 6))):
            assert (await again).why == "dup"
        await forget_tombstones(redis_server.url)
    assert [(item.input_tokens, item.output_tokens, item.requests) for item in await take_all(ledger)] == [(5, 6, 1)]


async def test_a_lost_request_is_left_to_its_lease_or_charged_by_estimate(ledger: Ledger, clock: Clock) -> None:
    """Where the hold stands the sweeper charges it; where Redis lost it the journal does; the truth corrects either."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    await verdict_of(ledger, CALLER, f"req_{BOOT}_1", 10, 50, 1, "m")
    assert (await ledger.replay(entry("started", 1, 10, 0))).why == "held"
    clock.now_ms += 60_000
    assert await ledger.expire_holds(ledger.partition(CALLER.external_id)) == 1
    assert (await ledger.replay(entry("started", 1, 10, 0))).why == "dup"
    assert [(await ledger.replay(entry("started", 2, 8, 0))).why for _ in range(2)] == ["ok", "dup"]
    assert await ledger.unsettled([entry("settled", 1, 9, 3), entry("settled", 2, 8, 4)]) != []
    assert (await ledger.replay(entry("settled", 1, 9, 3))).why == "corrected"
    assert (await ledger.replay(entry("settled", 2, 8, 4))).why == "corrected"
    assert [(item.input_tokens, item.output_tokens, item.requests) for item in await take_all(ledger)] == [(17, 7, 2)]


async def test_another_run_of_redis_is_known_by_its_id(clock: Clock) -> None:
    """A server that was started again has another run id; one that goes on keeps it."""
    server = start_server()
    ledger = new_ledger(server.url, clock, timeout_s=1.0)
    first = await ledger.run_id()
    assert await ledger.run_id() == first
    server.stop()
    server.start()
    assert await ledger.run_id() != first
    await ledger.close()
    remove_server(server)


async def test_an_expired_hold_is_charged_by_estimate_and_corrected_by_the_truth(ledger: Ledger, clock: Clock) -> None:
    """A dead worker's hold costs its input and the output of its last renewal; the truth that comes late replaces that."""
    await ledger.install_limits(CALLER.external_id, limited(input=100, output=100, requests=5), (0, 0, 0))
    hold = held("req_a_1", await verdict_of(ledger, CALLER, "req_a_1", 10, 50, 1, "m"))
    partition = ledger.partition(CALLER.external_id)
    clock.now_ms += 59_999
    assert await ledger.renew(hold, 30)
    clock.now_ms += 59_999
    assert await ledger.expire_holds(partition) == 0
    clock.now_ms += 1
    assert await ledger.expire_holds(partition) == 1
    assert await ledger.expire_holds(partition) == 0
    assert not await ledger.renew(hold, 40)
    verdict = await admit(ledger, "req_a_2", 0, 0, 0)
    assert (verdict.input.remaining, verdict.output.remaining) == (90, 70)
    settled = await ledger.settle(hold, Bill(1, 9, 44))
    assert (settled.applied, settled.why) == (True, "corrected")
    assert (await ledger.settle(hold, Bill(1, 9, 44))).why == "dup"
    assert [(item.input_tokens, item.output_tokens, item.requests) for item in await take_all(ledger)] == [(9, 44, 1)]


async def test_a_correction_after_the_report_nets_with_later_usage(ledger: Ledger, clock: Clock) -> None:
    """What was reported too much is never reported as negative; later usage of the caller is reported less by it."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    hold = held("req_a_1", await verdict_of(ledger, CALLER, "req_a_1", 100, 50, 1, "m"))
    clock.now_ms += 60_000
    await ledger.expire_holds(ledger.partition(CALLER.external_id))
    assert [item.input_tokens for item in await take_all(ledger)] == [100]
    await ledger.settle(hold, Bill(1, 40, 7))
    assert [(item.input_tokens, item.output_tokens, item.requests) for item in await take_all(ledger)] == [(0, 7, 0)]
    assert await take_all(ledger) == []
    await ledger.settle(held("req_a_2", await verdict_of(ledger, CALLER, "req_a_2", 70, 0, 0, "m")), Bill(1, 70, 0))
    assert [(item.input_tokens, item.output_tokens, item.requests) for item in await take_all(ledger)] == [(10, 0, 1)]


async def test_an_older_answer_of_zion_never_replaces_a_newer_one(ledger: Ledger, clock: Clock) -> None:
    """Answers count by when Zion was asked, not by when they arrived."""
    asked_ms = clock.now_ms
    clock.now_ms += 5_000
    assert await ledger.install_limits(CALLER.external_id, limited(requests=7), (0, 0, 0), asked_ms + 4_000)
    assert not await ledger.install_limits(CALLER.external_id, limited(requests=99), (0, 0, 0), asked_ms)
    assert (await admit(ledger, "req_a_1")).requests.limit == 7


async def test_usage_is_counted_once_across_snapshots(ledger: Ledger) -> None:
    """Zion's figure includes what was reported, the ledger adds only what was not, and others' usage shows."""
    await ledger.install_limits(CALLER.external_id, limited(requests=100, used=10), (0, 0, 0))
    for at in range(5):
        await ledger.settle(held(f"req_a_{at}", await admit(ledger, f"req_a_{at}")), Bill(1, 1, 1))
    assert len(await take_all(ledger)) == 1
    await ledger.settle(held("req_a_6", await admit(ledger, "req_a_6")), Bill(1, 1, 1))
    before = await admit(ledger, "req_a_7", 0, 0, 0)
    assert before.acked == (5, 5, 5)
    assert before.requests.remaining == 100 - 10 - 5 - 1 - 1
    # 10 of before, 5 reported, 3 of somebody else.
    await ledger.install_limits(CALLER.external_id, limited(requests=100, used=18), before.acked, before.clock_ms)
    after = await admit(ledger, "req_a_8", 0, 0, 0)
    assert after.requests.remaining == 100 - 18 - 1 - 2


async def test_one_caller_in_ten_seconds_is_asked_to_refresh(ledger: Ledger, clock: Clock) -> None:
    """Past their freshness limits still count, one request is told to fetch them; past their bound they count no more."""
    await ledger.install_limits(CALLER.external_id, limited(requests=100), (0, 0, 0))
    clock.now_ms += 300_001
    verdicts = await asyncio.gather(*(admit(ledger, f"req_a_{at}") for at in range(9)))
    assert [verdict.refresh for verdict in verdicts].count(True) == 1
    clock.now_ms += 9_999
    assert not (await admit(ledger, "req_b_1")).refresh
    clock.now_ms += 1
    assert (await admit(ledger, "req_b_2")).refresh
    clock.now_ms += 3_600_000
    assert (await admit(ledger, "req_b_3")).why == "stale"


@pytest.mark.parametrize(
    ("period", "start_ms", "ends"),
    [
        ("DAILY", NOON_MS - DAY_MS // 2, [DAY_MS // 2, DAY_MS]),
        ("WEEKLY", NOON_MS - DAY_MS // 2 - 5 * DAY_MS, [DAY_MS // 2 + DAY_MS, 7 * DAY_MS]),
        ("MONTHLY", NOON_MS - DAY_MS // 2 - 20 * DAY_MS, [DAY_MS // 2 + 9 * DAY_MS, 31 * DAY_MS, 31 * DAY_MS, 28 * DAY_MS]),
        ("", NOON_MS - 1000, [4000, 5000, 5000]),
    ],
)
async def test_a_period_begins_anew_by_itself(
    redis_server: RedisServer, ledger: Ledger, clock: Clock, period: str, start_ms: int, ends: list[int]
) -> None:
    """At its end everything used is free again though Zion is away: by calendar, or by length where it has none."""
    lasting = new_ledger(redis_server.url, clock, fresh_ms=10**12, stale_ms=10**12)
    limit = MetricLimit(1, 0, start_ms, clock.now_ms + ends[0], period)
    await lasting.install_limits(CALLER.external_id, Snapshot(MetricLimit(), MetricLimit(), limit), (0, 0, 0))
    for at, length_ms in enumerate(ends):
        verdict = await admit(lasting, f"req_a_{at}")
        assert (verdict.code, verdict.requests) == ("admitted", Remaining(1, 0, length_ms))
        assert verdict.refresh == (at == 1)  # later ones went to those that are refused below
        await lasting.settle(held(f"req_a_{at}", verdict), Bill(1, 1, 1))
        clock.now_ms += length_ms - 1
        assert (await admit(lasting, f"req_b_{at}")).why == "requests"
        clock.now_ms += 1
    await lasting.close()


async def test_an_answer_about_a_period_that_is_over_brings_limits_but_no_usage(ledger: Ledger, clock: Clock) -> None:
    """Zion was asked before midnight and answered after: its figure belongs to yesterday."""
    yesterday = limited(requests=100, used=90)
    clock.now_ms += DAY_MS // 2 - 10
    before = await admit(ledger, "req_a_1")
    clock.now_ms += 20
    await ledger.install_limits(CALLER.external_id, yesterday, before.acked, before.clock_ms)
    assert (await admit(ledger, "req_a_2")).requests == Remaining(100, 99, DAY_MS - 10)


async def test_usage_of_two_days_travels_in_two_reports(ledger: Ledger, clock: Clock) -> None:
    """A report has one time stamp, which lies in the period in which each of its items was settled."""
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    await ledger.settle(held("req_a_1", await admit(ledger, "req_a_1")), Bill(1, 1, 1))
    clock.now_ms += DAY_MS
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    await ledger.settle(held("req_a_2", await admit(ledger, "req_a_2")), Bill(1, 2, 2))
    days = {}
    for _ in range(2):
        batch = await ledger.claim_batch(ledger.partition(CALLER.external_id))
        assert batch is not None
        days[batch.sealed_at_ms // DAY_MS] = [item.input_tokens for item in batch.items]
    assert days == {NOON_MS // DAY_MS: [1], NOON_MS // DAY_MS + 1: [2]}


async def _settle_some(ledger: Ledger, count: int) -> int:
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    for at in range(count):
        hold = held(f"req_s_{at}", await admit(ledger, f"req_s_{at}"), model=f"model-{at}")
        await ledger.settle(hold, Bill(1, at + 1, 0))
    return ledger.partition(CALLER.external_id)


async def test_a_batch_is_claimed_by_one_and_comes_again_unchanged(ledger: Ledger, clock: Clock) -> None:
    """Nobody else gets it before its claim is over; after a failure it is the same batch, until it is done once."""
    partition = await _settle_some(ledger, 3)
    first = await ledger.claim_batch(partition)
    assert first is not None
    assert sorted(item.input_tokens for item in first.items) == [1, 2, 3]
    assert await ledger.claim_batch(partition) is None
    assert await ledger.retry_batch(first, 5_000)
    clock.now_ms += 4_999
    assert await ledger.claim_batch(partition) is None
    clock.now_ms += 1
    second = await ledger.claim_batch(partition)
    assert second == Batch(first.id, partition, 2, first.sealed_at_ms, first.items, json=first.json)
    clock.now_ms += 60_000
    third = await ledger.claim_batch(partition)
    assert third is not None
    assert (third.id, third.attempts) == (first.id, 3)
    assert await ledger.ack_batch(third)
    assert not await ledger.ack_batch(first)
    assert not await ledger.retry_batch(first, 1)
    clock.now_ms += DAY_MS
    assert await ledger.claim_batch(partition) is None


async def test_a_batch_holds_at_most_what_was_asked(ledger: Ledger) -> None:
    """Seven sums in batches of three are all taken, each once."""
    partition = await _settle_some(ledger, 7)
    sizes, seen = [], []
    while (batch := await ledger.claim_batch(partition, items_max=3)) is not None:
        sizes.append(len(batch.items))
        seen += [item.input_tokens for item in batch.items]
    assert (sizes, sorted(seen)) == ([3, 3, 1], [1, 2, 3, 4, 5, 6, 7])


async def test_what_zion_refuses_for_good_is_kept_and_still_counts(ledger: Ledger, redis_server: RedisServer) -> None:
    """Refused items become dead letters with their reason and are not acknowledged; the rest of the batch is, once."""
    partition = await _settle_some(ledger, 3)
    batch = await ledger.claim_batch(partition)
    assert batch is not None
    refused = batch.items[1]
    assert await ledger.dead_letter(batch, {1: 'no such "user"'})
    assert not await ledger.dead_letter(batch, {1: "again"})
    assert not await ledger.ack_batch(batch)
    redis = open_redis(redis_server.url, 5.0)
    letters = await redis.hgetall(f"x:{{s{partition:02d}}}")
    await redis.aclose()
    assert list(letters) == [f"{batch.id}:1".encode()]
    assert b'no such \\"user\\"' in letters[f"{batch.id}:1".encode()]
    verdict = await admit(ledger, "req_a_1", 0, 0, 0)
    assert verdict.acked == (6 - refused.input_tokens, 0, 2)


async def test_flushed_scripts_are_loaded_again(ledger: Ledger, redis_server: RedisServer) -> None:
    """SCRIPT FLUSH, or a new Redis, costs one more round trip and no request, and nothing runs twice."""
    await ledger.install_limits(CALLER.external_id, limited(requests=100), (0, 0, 0))
    redis = open_redis(redis_server.url, 5.0)
    await redis.script_flush()
    await redis.aclose()
    verdicts = await asyncio.gather(*(admit(ledger, f"req_a_{at}") for at in range(10)), ledger.ping(), ledger.profile("none"))
    assert sorted(verdict.requests.remaining for verdict in verdicts[:10]) == list(range(90, 100))
    assert verdicts[10:] == [None, None]


async def test_a_cancelled_caller_shifts_nobody_elses_reply(ledger: Ledger) -> None:
    """Of many calls in one pipeline some callers leave; every other one gets its own reply, and what was held is given back."""
    for at in range(40):
        await ledger.keep_profile(f"digest-{at}", f"profile-{at}".encode(), 60)
    await ledger.install_limits(CALLER.external_id, limited(requests=1000), (0, 0, 0))
    for _ in range(20):
        reads = [asyncio.create_task(ledger.profile(f"digest-{at}")) for at in range(40)]
        leaver = asyncio.create_task(admit(ledger, "req_left"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in (*reads[::3], leaver):
            task.cancel()
        replies = await asyncio.gather(*reads, return_exceptions=True)
        for at, reply in enumerate(replies):
            if at % 3:
                assert reply == f"profile-{at}".encode()
            else:
                assert isinstance(reply, asyncio.CancelledError)
    await ledger.replay(void("req_left"))
    verdict = await admit(ledger, "req_stays")
    assert verdict.requests.remaining == 999
    assert (await admit(ledger, "req_left")).code == "settled"


async def test_a_redis_that_is_away_is_an_answer_and_comes_back(clock: Clock) -> None:
    """Every method fails as LedgerUnavailableError within its time; a new Redis serves without a new ledger."""
    server = start_server()
    ledger = new_ledger(server.url, clock, timeout_s=1.0)
    await ledger.ping()
    hold = held("req_a_1", await admit(ledger, "req_a_1"))
    batch = Batch("id", 0, 1, clock.now_ms, (Item("x", "", "", 1, 1, 1),))
    seal = Seal("sealed", 0, f"{'0' * 16}_1_1", 0, 0, "unified", Raw(b'[["x","","",0,1,1,1]]'))
    server.stop()
    calls = [
        admit(ledger, "req_a_2"),
        ledger.install_limits("x", UNLIMITED, (0, 0, 0)),
        ledger.settle(hold, Bill(1, 1, 1)),
        ledger.renew(hold, 1),
        ledger.expire_holds(0),
        ledger.claim_batch(0),
        ledger.ack_batch(batch),
        ledger.dead_letter(batch, {0: "no"}),
        ledger.retry_batch(batch, 1),
        ledger.reseal(seal),
        ledger.unsealed([seal]),
        ledger.profile("x"),
        ledger.keep_limits("x", b"", 1),
        ledger.ping(),
    ]
    for call in calls:
        with pytest.raises(LedgerUnavailableError):
            await call
    assert ledger.away
    server.start()
    async with asyncio.timeout(20):
        while ledger.away:
            await asyncio.sleep(0.01)
    assert (await admit(ledger, "req_a_3")).why == "unknown"
    await ledger.close()
    remove_server(server)


async def test_a_frozen_redis_costs_one_deadline_and_no_more(ledger: Ledger, redis_server: RedisServer) -> None:
    """The first call is late, and every later one is refused at once; all comes back by itself, and nothing stays held."""
    hasty = new_ledger(redis_server.url, Clock(), timeout_s=0.2)
    await hasty.open()
    await hasty.install_limits(CALLER.external_id, limited(requests=10), (0, 0, 0))
    redis_server.freeze()
    sent = []
    async with asyncio.timeout(5):
        for at in range(500):
            with pytest.raises(LedgerUnavailableError) as caught:
                await (hasty.profile("a token") if at % 2 else verdict_of(hasty, CALLER, f"req_h_{at}", 1, 1, 1))
            sent.append(caught.value.sent)
        assert sent == [True] + [False] * 499
        assert hasty.away
        redis_server.thaw()
        while hasty.away:
            await asyncio.sleep(0.01)
        await hasty.replay(void("req_h_0"))
    assert (await verdict_of(hasty, CALLER, "req_a_1", 1, 1, 1)).requests.remaining == 9
    assert (await verdict_of(hasty, CALLER, "req_h_0", 1, 1, 1)).code == "settled"
    await hasty.close()


async def test_a_batch_whose_taker_heard_nothing_comes_to_it_at_once(ledger: Ledger, redis_server: RedisServer) -> None:
    """A take that reached a frozen Redis runs when it thaws; the same worker gets that batch, though its claim still runs."""
    hasty = new_ledger(redis_server.url, Clock(), timeout_s=0.2)
    await hasty.open()
    partition = await _settle_some(ledger, 1)
    redis_server.freeze()
    with pytest.raises(LedgerUnavailableError) as caught:
        await hasty.claim_batch(partition)
    assert caught.value.sent
    redis_server.thaw()
    async with asyncio.timeout(20):
        while hasty.away:
            await asyncio.sleep(0.01)
    assert await ledger.claim_batch(partition) is None
    batch = await hasty.claim_batch(partition)
    assert batch is not None
    assert (batch.attempts, batch.lost, len(batch.items)) == (1, False, 1)
    assert await hasty.ack_batch(batch)
    await hasty.close()


async def test_a_call_that_is_lost_on_the_way_is_sent_again_within_its_deadline(
    ledger: Ledger, redis_server: RedisServer
) -> None:
    """An admit whose connection says nothing goes over another one after half its time, under the same id: held once."""
    await ledger.install_limits(CALLER.external_id, limited(requests=10), (0, 0, 0))
    relay = await Stalling.start(redis_server)
    through = new_ledger(relay.url, Clock(), timeout_s=2.0)
    await through.ping()
    relay.stall()
    verdict = await verdict_of(through, CALLER, "req_a_1", 1, 1, 1)
    assert (verdict.code, verdict.requests.remaining) == ("admitted", 9)
    relay.flow()
    assert (await verdict_of(through, CALLER, "req_a_1", 1, 1, 1)).why == "dup"
    assert (await verdict_of(through, CALLER, "req_a_2", 1, 1, 1)).requests.remaining == 8
    assert not through.away
    await through.close()
    await relay.close()


async def test_kept_values_come_back_until_they_are_old(ledger: Ledger, redis_server: RedisServer) -> None:
    """Profiles and limits lie under their documented keys, each with a life."""
    await ledger.keep_profile("ab12", b"\x00profile", 30)
    await ledger.keep_limits("a caller", b"limits", 40)
    assert (await ledger.profile("ab12"), await ledger.limits("a caller")) == (b"\x00profile", b"limits")
    assert (await ledger.profile("other"), await ledger.limits("other")) == (None, None)
    redis = open_redis(redis_server.url, 5.0)
    assert 0 < await redis.ttl("jwt:ab12") <= 30
    assert 0 < await redis.ttl("limits:a caller") <= 40
    await redis.aclose()


@pytest.mark.parametrize("name", ["", "\x00", "a}b{c", "ü\n\"'\\", "\ud800", "x" * 5000, "*"])
async def test_no_name_breaks_a_key_or_a_report(ledger: Ledger, name: str) -> None:
    """External ids, e-mails and models are bytes to the ledger and come out as they went in."""
    caller = Caller(name, name)
    await ledger.install_limits(name, limited(requests=3), (0, 0, 0))
    verdict = await verdict_of(ledger, caller, "req_n_1", 1, 1, 1, name)
    assert verdict.requests.remaining == 2
    await ledger.settle(held("req_n_1", verdict, caller=caller, model=name), Bill(1, 1, 1))
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert await take_all(ledger) == [Item(shown, shown, shown, 1, 1, 1)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_a_contract_and_its_method(name: str) -> None:
    """The first lines say KEYS, ARGV, returns, clock and cost, and script and method name each other."""
    text = (Path(ledger_module.__file__).parent / "scripts" / f"{name}.lua").read_text()
    assert text.startswith(f"-- {name}: ")
    for part in ("KEYS", "ARGV", "returns", "clock", "cost"):
        assert re.search(rf"^-- {part}\b", text, re.MULTILINE), part
    methods = re.findall(r"(Ledger|LedgerAdmin|Gate|Names)\.(\w+)", text)
    assert methods
    rooms = {"Ledger": Ledger, "LedgerAdmin": LedgerAdmin, "Gate": Gate, "Names": Names}
    assert all(f"{name}.lua" in (getattr(rooms[room], method).__doc__ or "") for room, method in methods)


def test_every_script_of_the_package_is_in_use() -> None:
    """A file that is neither a script of the pipeline nor a part of one is dead."""
    folder = Path(ledger_module.__file__).parent / "scripts"
    assert sorted(path.stem for path in folder.glob("[!_]*.lua")) == sorted(SCRIPTS)
    texts = "".join(path.read_text() for path in folder.glob("*.lua"))
    assert all(f"-- include: {path.stem}\n" in texts for path in folder.glob("_*.lua"))


async def test_one_asker_of_the_fleet_fetches_the_limits_of_an_unknown_caller(ledger: Ledger, clock: Clock) -> None:
    """Of many first requests one is told to ask Zion; another is when that one gave up, or said nothing for 10 s."""
    firsts = await asyncio.gather(*(admit(ledger, f"req_a_{at}") for at in range(20)))
    assert {verdict.code for verdict in firsts} == {"snapshot"}
    assert [verdict.refresh for verdict in firsts].count(True) == 1
    await ledger.release_refresh(CALLER.external_id)
    assert (await admit(ledger, "req_a_20")).refresh
    assert not (await admit(ledger, "req_a_21")).refresh
    clock.now_ms += 10_000
    assert (await admit(ledger, "req_a_22")).refresh


async def test_requests_under_way_are_bounded(redis_server: RedisServer, ledger: Ledger, clock: Clock) -> None:
    """With three at a time, three of ten are admitted; one that ends, or whose lease does, makes room."""
    bounded = new_ledger(redis_server.url, clock, concurrency_max=3)
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    verdicts = await asyncio.gather(*(admit(bounded, f"req_a_{at}") for at in range(10)))
    admitted = [at for at, verdict in enumerate(verdicts) if verdict.code == "admitted"]
    assert len(admitted) == 3
    assert {verdict.why for verdict in verdicts if verdict.code == "denied"} == {"concurrency"}
    ended = f"req_a_{admitted[0]}"
    await bounded.settle(held(ended, verdicts[admitted[0]]), Bill(1, 10, 5))
    assert (await admit(bounded, "req_a_10")).code == "admitted"
    assert (await admit(bounded, "req_a_11")).why == "concurrency"
    clock.now_ms += 60_001
    assert await bounded.expire_holds(bounded.partition(CALLER.external_id)) == 3
    assert (await admit(bounded, "req_a_12")).code == "admitted"
    await bounded.close()


async def test_the_window_of_tokens_counts_what_is_held_and_then_the_truth(
    redis_server: RedisServer, ledger: Ledger, clock: Clock
) -> None:
    """Holds fill the window, settlements put the truth in their place, and what is asked without a cap shrinks to fit."""
    rated = new_ledger(redis_server.url, clock, rate_tokens=100)
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    first = await admit(rated, "req_a_1", 10, 50, least=50)
    assert (first.code, first.tokens) == ("admitted", Remaining(100, 40, 66_000))
    denied = await admit(rated, "req_a_2", 10, 31, least=31)
    assert (denied.code, denied.why, denied.tokens.remaining) == ("denied", "tokens", 40)
    shrunk = await admit(rated, "req_a_3", 10, 500, least=1)
    assert (shrunk.granted_output, shrunk.tokens.remaining) == (30, 0)
    await rated.settle(held("req_a_1", first), Bill(1, 10, 5))
    await rated.settle(held("req_a_3", shrunk), Bill(0, 0, 0))
    again = await admit(rated, "req_a_4", 10, 500, least=1)
    assert (again.granted_output, again.tokens.remaining) == (75, 0)
    clock.now_ms += 66_000
    later = await admit(rated, "req_a_5", 10, 90, least=90)
    assert (later.code, later.tokens.remaining) == ("admitted", 0)
    # Its sub-bucket is gone: a late truth changes nothing in the window.
    await rated.settle(held("req_a_4", again), Bill(1, 0, 0))
    assert (await admit(rated, "req_a_6", 1, 0, least=0)).why == "tokens"
    await rated.close()


async def test_never_more_tokens_than_the_window_in_any_real_window(
    redis_server: RedisServer, ledger: Ledger, clock: Clock
) -> None:
    """Whatever the times of the requests, the tokens of those admitted within any window are within its limit."""
    rated = new_ledger(redis_server.url, clock, rate_tokens=300, rate_window_ms=10_000)
    await ledger.install_limits(CALLER.external_id, UNLIMITED, (0, 0, 0))
    chance = random.Random(7)
    admitted: list[tuple[int, int]] = []
    for at in range(400):
        clock.now_ms += chance.randint(0, 700)
        asked = chance.randint(1, 60)
        verdict = await admit(rated, f"req_a_{at}", asked, asked, least=asked)
        if verdict.code == "admitted":
            admitted.append((clock.now_ms, 2 * asked))
        assert sum(tokens for when, tokens in admitted if when > clock.now_ms - 10_000) <= 300
    assert len(admitted) > 50
    await rated.close()
