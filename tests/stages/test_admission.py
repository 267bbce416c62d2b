"""admission: what is refused from memory, against a real Redis, with one clock for both; no time is slept."""

import asyncio
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from sentinel.downstream.offload import Offload
from sentinel.journal import Journal
from sentinel.ledger import Ledger, open_redis
from sentinel.ledger.degraded import DegradedAdmission
from sentinel.ledger.limit_errors import Attempts
from sentinel.openai.tokens.histories import Histories
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import metrics, vocab
from sentinel.ops.errors import LedgerUnavailableError, OverLimitError
from sentinel.ops.records import Bill, Call, Caller, Hold, TextPrompt
from sentinel.stages.admission import Admission
from sentinel.stages.admission.counting import Counting
from sentinel.zion.client import Zion
from sentinel.zion.limits import Snapshot
from sentinel.zion.session import open_session
from tests.ledger.test_ledger import NOON_MS, UNLIMITED, limited
from tests.support.ledgers import verdict_of
from tests.support.redis_server import RedisServer, redis_server

__all__ = ["redis_server"]

ADA, BOB = Caller("ada", "ada@example.com"), Caller("bob", "bob@example.com")
CALL = Call("completions", "POST", "/completions", prompt=TextPrompt(tokens_given=3), output_tokens_declared=5)
BOUND_MS = 1000
DAY_US = 86_400_000_000
# Until the sub-bucket of a request at noon has left a window of a minute.
WINDOW_MS = 66_000
TOKENIZER = Tokenizer.load(vocab.ranks)


class Clock:
    """The one clock of the worker and of Redis, in µs: the worker's is finer than that of the scripts."""

    def __init__(self) -> None:
        self.now_us = NOON_MS * 1000
        self.latency_us = 0

    def scripts_ms(self) -> int:
        """What the scripts are told: a call takes its time on the way."""
        self.now_us += self.latency_us
        return self.now_us // 1000

    def worker_ns(self) -> int:
        """The worker's monotonic clock."""
        return self.now_us * 1000

    def passes(self, ms: float) -> None:
        """Time goes by."""
        self.now_us += round(ms * 1000)


class Gateway:
    """Admission and its ledger in one worker. `ask` is what the journey does: check_denied, then admit."""

    def __init__(
        self, url: str, clock: Clock, *, mode: str = "closed", zion_url: str = "http://127.0.0.1:9", **rules: Any
    ) -> None:
        self.clock = clock
        given = {"rate_requests": 0, "rate_window_ms": 60_000, "fresh_ms": 10**9, "stale_ms": 10**9, **rules}
        self.ledger = Ledger(
            open_redis(url, 5.0), partitions=1, lease_ms=60_000, now_ms=clock.scripts_ms, **{"timeout_s": 5.0, **given}
        )
        gate = self.ledger.gate(requests_per_s=10, failures_max=3, open_s=30.0, zion_timeout_s=1.0, waiting_max=64, processes=1)
        # Mostly nobody is asked there: limits are installed as another worker would.
        self.zion = Zion(open_session(connect_s=1, idle_s=1, connections_max=1), zion_url, "key", 1.0, gate)
        self.journal = Journal(Path(tempfile.mkdtemp()), "00000000000000aa", bytes_max=2**20, keep_s=1, refuse_when_full=False)
        self.journal.tend()
        self.histories = Histories(30)
        self.admission = Admission(
            self.ledger,
            self.journal,
            DegradedAdmission(
                mode, ratio=0.5, processes=1, window_ms=60_000, callers_max=10, now_s=lambda: clock.now_us / 10**6
            ),
            self.zion,
            Counting(TOKENIZER, Offload()),
            Attempts(given["rate_requests"], given["rate_window_ms"]),
            self.histories,
            output_tokens_default=5,
            work_output_tokens=50,
            limits_ttl_s=300,
            limits_wait_s=1.0,
            missing_limit="allow",
            now_s=lambda: clock.now_us / 10**6,
            monotonic_ns=clock.worker_ns,
        )
        self._sequence = 0

    def next_id(self) -> str:
        """The id of a new request."""
        self._sequence += 1
        return f"req_00000000000000aa_{self._sequence:x}"

    async def ask(self, caller: Caller = ADA, call: Call = CALL) -> Hold:
        """One request. Raises OverLimitError or LedgerUnavailableError."""
        self.admission.check_denied(caller)
        return await self.admission.admit(caller, call, self.next_id())

    async def refused(self, caller: Caller = ADA, call: Call = CALL) -> OverLimitError:
        """The refusal of one request."""
        with pytest.raises(OverLimitError) as caught:
            await self.ask(caller, call)
        return caught.value

    def recalled(self, caller: Caller = ADA) -> OverLimitError | None:
        """What is said from memory, if anything."""
        try:
            self.admission.check_denied(caller)
        except OverLimitError as error:
            return error
        return None

    async def close(self) -> None:
        """Close the edges."""
        await self.admission.learning.close()
        self.journal.close()
        shutil.rmtree(self.journal.directory)
        await self.zion.close()
        await self.ledger.close()


@asynccontextmanager
async def gateway(server: RedisServer, snapshot: Snapshot = UNLIMITED, **rules: Any) -> AsyncIterator[Gateway]:
    """One over an empty Redis; it knows the limits of both callers."""
    redis = open_redis(server.url, 5.0)
    await redis.flushall()
    await redis.aclose()
    opened = Gateway(server.url, Clock(), **rules)
    try:
        for caller in (ADA, BOB):
            await opened.ledger.install_limits(caller.external_id, snapshot, (0, 0, 0))
        yield opened
    finally:
        await opened.close()


async def scripts_run(url: str) -> int:
    """How many scripts Redis has run since the last time."""
    redis = open_redis(url, 5.0)
    stats = await redis.info("commandstats")
    await redis.config_resetstat()
    await redis.aclose()
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_redis_is_asked_once(redis_server: RedisServer) -> None:
    """Of a hundred requests of a caller whose requests are used up, one costs Redis a call; all are refused and counted."""
    async with gateway(redis_server, limited(requests=5, used=5)) as running:
        await running.refused(BOB)  # the scripts are loaded
        await scripts_run(redis_server.url)
        metrics.hand_over()
        texts = [(await running.refused()).message for _ in range(100)]
        assert set(texts) == {"Your limit ai_requests is used up: limit 5, remaining 0. Please try again in 12h0m0s."}
        assert metrics.REFUSALS["ai_requests"] == 100
        assert await scripts_run(redis_server.url) == 1


@pytest.mark.parametrize("latency_ms", [0, 0.4, 3])
async def test_a_full_window_stands_to_its_end_and_not_longer(redis_server: RedisServer, latency_ms: float) -> None:
    """In its last second as before: from memory up to the last ms, by the ledger in that, and admitted the ms after."""
    async with gateway(redis_server, rate_requests=1) as running:
        clock = running.clock
        await running.ask()
        clock.passes(WINDOW_MS - 400.5)
        clock.latency_us = round(latency_ms * 1000)
        assert (await running.refused()).retry_after_s == pytest.approx(0.4, abs=0.005)
        clock.latency_us = 0
        end_us = (NOON_MS + WINDOW_MS) * 1000
        while clock.now_us < end_us - 5_000:
            assert running.recalled() is not None
            clock.passes(0.25)
        while running.recalled() is not None:
            clock.passes(0.25)
        assert end_us - 5_000 <= clock.now_us < end_us
        clock.now_us = end_us - 1
        assert (await running.refused()).retry_after_s == 0.001
        clock.passes(0.001)
        assert running.recalled() is None
        await running.ask()


async def test_nothing_stands_longer_than_a_second(redis_server: RedisServer) -> None:
    """A full window that has a minute to go, and requests that are used up until midnight: after a second Redis is asked."""
    for name, snapshot, rate in (("rate", UNLIMITED, 1), ("requests", limited(requests=1), 0)):
        async with gateway(redis_server, snapshot, rate_requests=rate) as running:
            hold = await running.ask()
            await running.ledger.settle(hold, Bill(1, 3, 5))
            await running.refused()
            running.clock.passes(BOUND_MS - 0.001)
            assert running.recalled() is not None, name
            running.clock.passes(0.001)
            assert running.recalled() is None, name


async def test_the_answer_counts_down(redis_server: RedisServer) -> None:
    """Half a second later all times of the same answer are half a second less, and its text says so."""
    async with gateway(redis_server, limited(requests=50), rate_requests=1) as running:
        await running.ask()
        first = await running.refused()
        running.clock.passes(500)
        second = await running.refused()
        assert (first.retry_after_s, second.retry_after_s) == (66.0, 65.5)
        assert first.message.endswith("Please try again in 1m6s.")
        assert second.message.endswith("Please try again in 1m5.5s.")
        told, later = dict(first.headers), dict(second.headers)
        assert (told[b"x-ratelimit-reset-requests"], later[b"x-ratelimit-reset-requests"]) == (b"1m6s", b"1m5.5s")
        assert told[b"x-ratelimit-reset"] == later[b"x-ratelimit-reset"] == b"%d" % (NOON_MS // 1000 + 66)


async def test_what_is_held_never_stands(redis_server: RedisServer) -> None:
    """The last request may be given back: the next is refused by the ledger, and admitted as soon as it was."""
    async with gateway(redis_server, limited(requests=5, used=4)) as running:
        hold = await running.ask()
        assert (await running.refused()).code == "insufficient_quota"
        assert running.recalled() is None
        await running.ledger.settle(hold, Bill(0, 0, 0))
        assert await running.ask()


@pytest.mark.parametrize(
    ("snapshot", "rules", "name"),
    [
        (limited(input=3), {}, "ai_input_tokens"),
        (limited(output=5), {}, "ai_output_tokens"),
        (UNLIMITED, {"rate_tokens": 8}, "tokens"),
        (UNLIMITED, {"concurrency_max": 1}, "concurrency"),
    ],
)
async def test_what_hangs_on_the_request_never_stands(
    redis_server: RedisServer, snapshot: Snapshot, rules: dict[str, Any], name: str
) -> None:
    """Tokens and requests under way are refused by the ledger each time, used up or not."""
    async with gateway(redis_server, snapshot, **rules) as running:
        hold = await running.ask()
        metrics.hand_over()
        await running.refused()
        assert metrics.REFUSALS[name] == 1
        assert running.recalled() is None
        if name != "concurrency":
            await running.ledger.settle(hold, Bill(1, 3, 5))
            await running.refused()
            assert running.recalled() is None


async def test_the_end_of_the_period_ends_it(redis_server: RedisServer) -> None:
    """Requests that are used up are so until midnight, from memory as in the ledger."""
    async with gateway(redis_server, limited(requests=5, used=5)) as running:
        running.clock.passes(12 * 3_600_000 - 300)
        await running.refused()
        running.clock.passes(298)
        assert running.recalled() is not None
        running.clock.passes(1)
        assert running.recalled() is None
        assert (await running.refused()).retry_after_s == 0.001
        running.clock.passes(1)
        assert await running.ask()


async def test_raised_limits_are_seen_within_a_second(redis_server: RedisServer) -> None:
    """Installed by another worker: after the bound at the latest. Installed by this one: at once."""
    async with gateway(redis_server, limited(requests=5, used=5)) as running:
        await running.refused()
        running.clock.passes(1)
        await running.ledger.install_limits(ADA.external_id, limited(requests=6, used=5), (0, 0, 0))
        assert running.recalled() is not None
        running.clock.passes(BOUND_MS - 1)
        hold = await running.ask()
        await running.ledger.settle(hold, Bill(1, 3, 5))
        await running.refused()
        assert running.recalled() is not None
        asked_at_ms = running.clock.now_us // 1000 + 1
        day = {"periodStart": "2026-11-21T00:00:00Z", "periodEnd": "2026-11-22T00:00:00Z", "resetPeriod": "DAILY"}
        entry = {"name": "ai_requests", "limit": 7, "used": 5, **day}
        kept = {"asked_at_ms": asked_at_ms, "acked": [0, 0, 0], "limits": {"limits": [entry]}}
        await running.ledger.keep_limits(ADA.external_id, json.dumps(kept).encode(), 60)
        running.clock.passes(1)
        await running.admission.learning.learn(
            ADA.external_id, await verdict_of(running.ledger, ADA, running.next_id(), 1, 1, 1)
        )
        assert running.recalled() is None
        assert await running.ask()


async def test_another_caller_is_not_touched(redis_server: RedisServer) -> None:
    """One caller's full window says nothing of another's."""
    async with gateway(redis_server, rate_requests=1) as running:
        await running.ask()
        await running.refused()
        assert running.recalled() is not None
        assert await running.ask(BOB)


async def test_the_standby_is_not_remembered(redis_server: RedisServer) -> None:
    """What is refused while Redis is away is decided anew each time."""
    async with gateway(redis_server, limited(requests=2, used=1), mode="sliced") as running:
        hold = await running.ask()
        await running.ledger.settle(hold, Bill(1, 3, 5))
        assert (await running.refused()).code == "insufficient_quota"
        running.clock.passes(BOUND_MS)
        away = Gateway("unix:///nowhere.sock", running.clock, mode="sliced")
        away.admission._standby = running.admission._standby
        assert (await away.refused()).code == "insufficient_quota"
        assert away.recalled() is None
        with pytest.raises(LedgerUnavailableError):
            await away.ask(BOB)
        await away.close()


async def test_what_is_refused_may_be_held_and_is_voided(redis_server: RedisServer) -> None:
    """A request that reached Redis and was refused, or left, stands in the journal as one of nothing; one that did
    not reach it does not.
    """
    async with gateway(redis_server, limited(requests=2), timeout_s=0.2) as running:
        for _ in range(2):
            task = asyncio.create_task(running.ask())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        redis_server.freeze()
        try:
            for _ in range(3):
                with pytest.raises(LedgerUnavailableError):
                    await running.ask()
        finally:
            redis_server.thaw()
        told = [entry for some in running.journal.untold() for entry, _ in some]
        assert [entry.request_id[-1] for entry in told] == ["1", "2", "3"]
        while running.ledger.away:
            await asyncio.sleep(0.01)
        for entry in told:
            await running.ledger.replay(entry)
        assert (await running.ask()).requests.remaining == 1


# ---- by chance ---------------------------------------------------------------------------------------------------------

ACTS = {"ask": 10, "soon": 6, "later": 2, "settle": 4, "install": 1, "sweep": 1, "truth": 1, "midnight": 1}
SOON_MS = (0.3, 1, 1.7, 40, 333.4)
LATER_MS = (998, 999, 999.4, 1000, 1000.9, 2500)


class Life:
    """One caller's history; `given_back_us` is when a limit was installed or an estimate corrected last."""

    def __init__(self, running: Gateway) -> None:
        self.running, self.clock = running, running.clock
        self.given_back_us = -(10**9)
        self.live: list[Hold] = []
        self.expired: list[Hold] = []
        self.recalled = 0
        # Each refusal from memory that the ledger would not have given, or not so.
        self.wrong: list[str] = []

    async def ask(self, _chance: random.Random) -> None:
        """A request; who is refused from memory is refused by the ledger as well, unless a limit is new."""
        error = self.running.recalled()
        if error is not None:
            self.recalled += 1
            verdict = await verdict_of(self.running.ledger, ADA, self.running.next_id(), 3, 5, 5)
            new = self.clock.now_us - self.given_back_us < BOUND_MS * 1000
            if verdict.code == "admitted" and not new:
                self.wrong.append(f"{error.message} But it is admitted.")
            if verdict.code == "denied" and not new:
                told = {"rate": verdict.rate, "requests": verdict.requests}[verdict.why]
                assert error.retry_after_s is not None
                assert told.reset_ms is not None
                code = "rate_limit_exceeded" if verdict.why == "rate" else "insufficient_quota"
                if error.code != code or abs(round(error.retry_after_s * 1000) - told.reset_ms) > 1:
                    self.wrong.append(f"{error.message} But it is {verdict.why}, for {told.reset_ms} ms.")
            return
        try:
            self.live.append(await self.running.admission.admit(ADA, CALL, self.running.next_id()))
        except OverLimitError:
            return

    async def soon(self, chance: random.Random) -> None:
        """Some time goes by."""
        self.clock.passes(chance.choice(SOON_MS))

    async def later(self, chance: random.Random) -> None:
        """About as much as a refusal stands, or more."""
        self.clock.passes(chance.choice(LATER_MS))

    async def midnight(self, _chance: random.Random) -> None:
        """The period is about to end."""
        self.clock.now_us += max(0, DAY_US - self.clock.now_us % DAY_US - 1_500_000)

    async def settle(self, chance: random.Random) -> None:
        """The oldest request ends; now and then it has cost nothing."""
        if self.live:
            requests = chance.choice((1, 1, 0))
            await self.running.ledger.settle(self.live.pop(0), Bill(requests, 3 * requests, 5 * requests))

    async def install(self, chance: random.Random) -> None:
        """Zion's new word."""
        await self.running.ledger.install_limits(ADA.external_id, limited(requests=chance.randint(1, 4), used=1), (0, 0, 0))
        self.given_back_us = self.clock.now_us

    async def sweep(self, _chance: random.Random) -> None:
        """Every lease ends, and is charged by estimate."""
        if self.live:
            self.clock.passes(60_000)
            await self.running.ledger.expire_holds(0)
            self.expired, self.live = self.expired + self.live, []

    async def truth(self, _chance: random.Random) -> None:
        """A worker that was taken for dead says that a request cost nothing."""
        if self.expired:
            await self.running.ledger.settle(self.expired.pop(), Bill(0, 0, 0))
            self.given_back_us = self.clock.now_us


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_whoever_is_refused_from_memory_is_refused_by_the_ledger(redis_server: RedisServer, seed: int) -> None:
    """Whatever happened before: at any µs, but for what is given back within the bound."""
    chance = random.Random(seed)

    async def live() -> Life:
        rules = {"rate_requests": chance.choice((0, 1, 2, 3)), "rate_window_ms": 3_000}
        async with gateway(redis_server, limited(requests=chance.randint(1, 6)), **rules) as running:
            life = Life(running)
            running.clock.latency_us = chance.choice((0, 300, 1_000, 7_000))
            for _ in range(60):
                (act,) = chance.choices(list(ACTS), list(ACTS.values()))
                await getattr(life, act)(chance)
            return life

    life = asyncio.run(live())
    event(f"from memory: {min(life.recalled, 5)}")
    assert not life.wrong


async def test_refused_attempts_fill_the_window(redis_server: RedisServer) -> None:
    """Who only sends what is refused is refused by the window like any other, without Redis, until the first of them is old."""
    async with gateway(redis_server, rate_requests=3) as running:
        await running.ask(BOB)  # the scripts are loaded
        await scripts_run(redis_server.url)
        for _ in range(3):
            assert running.recalled() is None
            running.admission.count(ADA)
            running.clock.passes(10)
        error = running.recalled()
        assert error is not None
        assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 59.97)
        assert await scripts_run(redis_server.url) == 0
        running.clock.passes(60_000 - 30)
        assert running.recalled() is None
        await running.ask()


async def test_refused_attempts_count_with_those_that_are_served(redis_server: RedisServer) -> None:
    """The next request that is admitted tells the ledger of them, with the same call, and they count there to their end."""
    async with gateway(redis_server, rate_requests=5) as running:
        await running.ask()
        await scripts_run(redis_server.url)
        running.admission.count(ADA)
        running.admission.count(ADA)
        assert (await running.ask()).rate.remaining == 1
        assert await scripts_run(redis_server.url) == 1
        assert (await running.ask()).rate.remaining == 0
        error = await running.refused()
        assert error.code == "rate_limit_exceeded"
        running.clock.passes(WINDOW_MS)
        assert (await running.ask()).rate.remaining == 4


async def test_attempts_that_the_ledger_did_not_count_are_kept(redis_server: RedisServer) -> None:
    """Where it refuses or cannot be asked, they count here as before: no other refusal wipes them out."""
    async with gateway(redis_server, limited(input=10), rate_requests=4) as running:
        for _ in range(2):
            running.admission.count(ADA)
        large = Call("completions", "POST", "/completions", prompt=TextPrompt(tokens_given=50), output_tokens_declared=5)
        assert (await running.refused(ADA, large)).code == "insufficient_quota"
        assert (await running.ask()).rate.remaining == 1
        running.admission.count(ADA)
        assert (await running.refused()).code == "rate_limit_exceeded"
    async with gateway(redis_server, rate_requests=2) as running:
        running.admission.count(ADA)
        await running.ledger.close()
        with pytest.raises(LedgerUnavailableError):
            await running.ask()
        running.admission.count(ADA)
        assert running.recalled() is not None
