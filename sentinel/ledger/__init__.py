"""The atomic quota ledger in Redis: one call holds a request's limits, one settles it, and usage waits there for Zion.

Fails closed: whatever goes wrong on the way to Redis is LedgerUnavailableError, and whether the call ran is then unknown. All
scripts are idempotent by an id they are given, so the same call may be made again. An `admit` that failed ends in one of two
ways: its request is settled (`blind`) where it went on without Redis, or voided by a bill of nothing in the journal.
docs/limits.md tells the algorithm.
"""

import asyncio
import itertools
import secrets
import struct
from collections.abc import Callable
from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sentinel.ledger import settlements
from sentinel.ledger.background_jobs import BackgroundJobs
from sentinel.ledger.keys import account_keys, key, partition_of
from sentinel.ledger.ledger_admin import LedgerAdmin
from sentinel.ledger.object_owners import Owners
from sentinel.ledger.outbox import Batch, Outbox
from sentinel.ledger.payer import who
from sentinel.ledger.redis.connection import Call
from sentinel.ledger.redis.link import run_of
from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.ledger.redis.replicas import Replicas
from sentinel.ledger.settlements import Settled, Settlements, Together
from sentinel.ledger.user_names import Names
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import Caller, Hold
from sentinel.zion.limits import MetricLimit, Snapshot

__all__ = ["Batch", "Ledger", "Settled", "Together", "open_redis", "redis_time"]

_log: Final = Log("ledger")

_SWEEP_CLAIM_MS: Final = 10_000

# What admit.lua calls the rules: they are the same for every request.
_pack_rules: Final = struct.Struct("<7d").pack
_read_who: Final = msgspec.json.Decoder(tuple[str, str, str]).decode


def open_redis(url: str, timeout_s: float) -> Redis:
    """A client for `url` (redis, rediss, unix) as the ledger needs it: it connects on first use and never retries by itself.

    `timeout_s` bounds the set-up of a connection, and one read; what a caller waits for is bounded by the Ledger's own.
    """
    # redis-py's own retries would wait for seconds, ten times, while the caller's time runs.
    return Redis.from_url(
        url, decode_responses=False, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )


# The clock of production: 0, which `int()` is without a call to Python, tells the scripts to use Redis' own.
redis_time: Final[Callable[[], int]] = int


class Ledger(Outbox, Settlements):
    """The ledger as this worker sees it. Times in ms unless named otherwise; `rate_requests` and `rate_tokens` 0 switch
    their window off."""

    def __init__(
        self,
        redis: Redis,
        *,
        partitions: int,
        timeout_s: float,
        lease_ms: int,
        rate_requests: int,
        rate_window_ms: int,
        fresh_ms: int,
        stale_ms: int,
        concurrency_max: int = 0,
        works_max: int = 0,
        rate_tokens: int = 0,
        now_ms: Callable[[], int] = redis_time,
    ) -> None:
        self.partitions = partitions
        self._pipeline = Pipeline(redis, timeout_s)
        self.said = self._pipeline.answer
        self._lease_ms = lease_ms
        self._works_max = works_max
        rate = rate_requests or -1
        self._rules = _pack_rules(lease_ms, rate, rate_window_ms, fresh_ms, stale_ms, concurrency_max, rate_tokens or -1)
        self.replicas = Replicas(redis)
        self.admin_ledger = LedgerAdmin(self._pipeline, partitions=partitions, window=(rate, rate_window_ms), now_ms=now_ms)
        self.owners = Owners(self._pipeline, partitions=partitions)
        self.names = Names(self._pipeline, partitions=partitions)
        # A claim that is not renewed ends with the lease of the hold it stands beside.
        self.unfinished = BackgroundJobs(self._pipeline, partitions=partitions, claim_ms=lease_ms)
        self._now_ms = now_ms
        self._unanswered = {}
        self._calls = map(f"{secrets.token_hex(8)}_{{:x}}_".format, itertools.count(1))

    @property
    def away(self) -> bool:
        """Whether Redis has stopped to answer: every call fails at once, until it answers a probe in the background."""
        return self._pipeline.away

    async def open(self) -> None:
        """Connect and load the scripts. Never fails; a Redis that is not there is `away`."""
        await self._pipeline.open()

    def partition(self, external_id: str) -> int:
        """Where the account of a caller lies; the same on every host."""
        return partition_of(external_id, self.partitions)

    def ask(
        self,
        caller: Caller,
        request_id: str,
        input_tokens: int,
        output_tokens: int,
        output_min: int,
        model: str = "",
        *,
        input_min: int | None = None,
        work: bool = False,
        attempts: int = 0,
    ) -> Call:
        """Hold one request, up to `input_tokens` (at least `input_min`, by default all) and up to `output_tokens` (at least
        `output_min`), all or nothing: admit.lua. `work` goes on after its answer, and a caller has at most `works_max` of that.
        `attempts` that were refused before count in the window, where this request does.

        `said` gives what read_verdict reads, once its `reply` is there, or raises LedgerUnavailableError, as this does. Where
        that does not say that nothing was `sent`, or the caller is cancelled meanwhile, the request must be settled, blind, or
        voided. A second call with the same id gets the first one's grant.
        """
        if self._pipeline.behind:
            raise LedgerUnavailableError("Limits cannot be checked right now.", retry_after_s=1, sent=False)
        seat = account_keys(caller.external_id, self.partitions)
        at = seat.partition
        settled, position = settlements.place(at, request_id)
        arguments: tuple[str | bytes | int, ...] = (
            *(5, seat.account, at.holds, at.deadlines, at.tombstones + request_id, settled),
            *(self._now_ms(), request_id, who(caller, model), input_tokens, output_tokens, output_min, position, self._rules),
        )
        if input_min is not None or attempts:
            arguments += (input_tokens if input_min is None else input_min, self._works_max, attempts)
        if work and self._works_max:
            arguments = (6, *arguments[1:6], key("w", at.number, caller.external_id), *arguments[6:])
        return self._pipeline.ask("admit", arguments, resend=True)

    async def install_limits(
        self, external_id: str, snapshot: Snapshot, acked: tuple[int, int, int], fetched_at_ms: int = 0
    ) -> bool:
        """Install what Zion said: install_limits.lua. Whether it was newer than what is known.

        `acked` and `fetched_at_ms` are the `acked` and `clock_ms` of a Verdict from BEFORE Zion was asked (0: now).
        """
        arguments: list[str | int] = [self._now_ms(), fetched_at_ms]
        for limit, acknowledged in zip((snapshot.input, snapshot.output, snapshot.requests), acked, strict=True):
            arguments += _figures(limit, acknowledged)
        keys = (account_keys(external_id, self.partitions).account,)
        return bool((await self._pipeline.script("install_limits", keys, arguments))[0])

    async def release_refresh(self, external_id: str) -> None:
        """Let somebody else refresh a caller's limits: whom a Verdict had asked to could not: release_refresh.lua."""
        await self._pipeline.script("release_refresh", (account_keys(external_id, self.partitions).account,), (self._now_ms(),))

    async def run_id(self) -> str:
        """Which run of which server answers: another one may have lost what the last one acknowledged.

        Where it does not say (INFO may be forbidden), each connection to it counts as one: no run outlives its connections.
        """
        if self._pipeline.unsaid:
            await self._pipeline.command("ping")
            return f"connection {self._pipeline.connections}"
        return run_of(await self._pipeline.command("info", "server"))

    def guard(self) -> None:
        """From now on a Redis that was started again admits nobody until `told` says that it has what it lost."""
        self._pipeline.guarded = True

    def doubt(self) -> None:
        """Another worker has died, which may have met an earlier run of Redis than this one, where none is noted."""
        self._pipeline.first_run_id = "unknown"

    def told(self, run_id: str) -> None:
        """This run of Redis has every bill of this worker."""
        self._pipeline.told(run_id)

    async def renew(self, hold: Hold, output_tokens: int) -> bool:
        """Say that a request still runs and has produced `output_tokens`: renew.lua. Whether its hold is still there."""
        at = account_keys(hold.caller.external_id, self.partitions).partition
        keys = (at.holds, at.deadlines, at.tombstones + hold.request_id)
        arguments = (self._now_ms(), hold.request_id, self._lease_ms, output_tokens, settlements.SETTLED_LIFE_MS)
        return bool((await self._pipeline.script("renew", keys, arguments))[0])

    async def expire_holds(self, partition: int, holds_max: int = 100) -> int:
        """Charge holds whose lease is over with the estimate, input and output so far: expire_holds.lua, then settle.lua for
        each.

        How many there were; the worker that made them died or froze.
        """
        keys = [key("r", partition), key("z", partition), key("g", partition)]
        claimed = await self._pipeline.script("expire_holds", keys, (self._now_ms(), _SWEEP_CLAIM_MS, holds_max))
        settlements = []
        for at in range(1, len(claimed), 4):
            external_id, email, model = _read_who(claimed[at + 1])
            amounts = (claimed[at + 2], claimed[at + 3], 1)
            caller = Caller(external_id, email)
            settlements.append(self._settle(caller, claimed[at].decode(), model, amounts, "expired"))
        settled = await asyncio.gather(*settlements)
        if settled:
            _log.warning("holds expired and were charged by estimate", partition=partition, count=len(settled))
        return len(settled)

    async def profile(self, token_sha256: str) -> bytes | None:
        """What is kept of a token's caller, by the hex digest of the token."""
        return _optional_bytes(await self._pipeline.command("get", f"jwt:{token_sha256}"))

    async def keep_profile(self, token_sha256: str, value: bytes, ttl_s: int) -> None:
        """Keep a token's caller for `ttl_s`."""
        await self._pipeline.command("set", f"jwt:{token_sha256}", value, "EX", ttl_s)

    async def forget_profile(self, token_sha256: str) -> None:
        """Keep a token's caller no longer."""
        await self._pipeline.command("del", f"jwt:{token_sha256}")

    async def limits(self, external_id: str) -> bytes | None:
        """Zion's last answer for a caller, as it was kept."""
        return _optional_bytes(await self._pipeline.command("get", f"limits:{external_id}"))

    async def keep_limits(self, external_id: str, value: bytes, ttl_s: int) -> None:
        """Keep Zion's answer for `ttl_s`, for other workers and for operators."""
        await self._pipeline.command("set", f"limits:{external_id}", value, "EX", ttl_s)

    async def answer(self, name: str) -> bytes | None:
        """An answer that is kept under `name`."""
        return _optional_bytes(await self._pipeline.command("get", f"answer:{name}"))

    async def keep_answer(self, name: str, value: bytes, ttl_s: int) -> None:
        """Keep an answer for `ttl_s`."""
        await self._pipeline.command("set", f"answer:{name}", value, "EX", ttl_s)

    async def ping(self) -> None:
        """Whether Redis answers. Raises LedgerUnavailableError."""
        await self._pipeline.command("ping")

    async def close(self) -> None:
        """Finish what is under way and close the connections."""
        await self._pipeline.close()


def _figures(limit: MetricLimit, acked: int) -> tuple[str | int, ...]:
    amount = -1 if limit.limit is None else limit.limit
    return amount, limit.used, limit.start_ms, limit.end_ms, limit.period, acked


def _optional_bytes(reply: object) -> bytes | None:
    return reply if isinstance(reply, bytes) else None
