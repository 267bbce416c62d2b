"""What awaits: a hold and its settlement at a real Redis, and the whole journey of a request in this process.

Each figure is of a round: one request alone, or 64 at a time, whose time is then that of all of them (`requests` beside it).
"""

import asyncio
import itertools

import pytest

from bench.in_process import BODY, STREAMED
from bench.provider import COMPLETION
from sentinel.ledger import Ledger, open_redis
from sentinel.ops.records import Bill, Caller, Hold
from sentinel.zion.limits import MetricLimit, Snapshot, read_verdict

_PLENTY = MetricLimit(10**12, 0, 0, 0, "NEVER")
_EVENTS = 200
# An id is settled once, in whatever round.
_numbers = itertools.count()


@pytest.fixture
def ledger(sentinel, loop):
    """A ledger of its own on Sentinel's Redis, with one caller who has plenty."""
    made = Ledger(
        open_redis(sentinel.redis_url, 1.0),
        partitions=16,
        timeout_s=1.0,
        lease_ms=60_000,
        rate_requests=10**8,
        rate_window_ms=60_000,
        fresh_ms=10**9,
        stale_ms=10**9,
    )
    loop.run_until_complete(made.open())
    loop.run_until_complete(made.install_limits("caller", Snapshot(_PLENTY, _PLENTY, _PLENTY), (0, 0, 0)))
    yield made
    loop.run_until_complete(made.close())


@pytest.mark.benchmark(group="ledger")
@pytest.mark.parametrize("at_once", [1, 64])
def measure_admit_settle(benchmark, loop, ledger, at_once):
    """Held and settled: two scripts, one after the other."""
    caller = Caller("caller", "caller@load.test")

    async def round_trip():
        request_id = f"req_bench_{next(_numbers):x}"
        asked = ledger.ask(caller, request_id, 57, 256, 1, "gpt-4o-mini")
        await asked.reply
        verdict = read_verdict(ledger.said(asked))
        assert verdict.code == "admitted"
        left = (verdict.requests, verdict.input, verdict.output, verdict.rate)
        await ledger.settle(Hold(request_id, caller, "gpt-4o-mini", 57, 256, *left), Bill(1, 57, 120))

    async def all_of_them():
        await asyncio.gather(*(round_trip() for _ in range(at_once)))

    benchmark(lambda: loop.run_until_complete(all_of_them()))
    benchmark.extra_info["requests"] = at_once


@pytest.mark.benchmark(group="journey")
@pytest.mark.parametrize("at_once", [1, 64])
def measure_plain(benchmark, loop, sentinel, at_once):
    """A plain chat completion."""

    async def all_of_them():
        return await asyncio.gather(*(sentinel.chat(BODY) for _ in range(at_once)))

    answers = benchmark(lambda: loop.run_until_complete(all_of_them()))
    assert set(answers) == {COMPLETION}
    benchmark.extra_info["requests"] = at_once


@pytest.mark.benchmark(group="journey")
def measure_streamed(benchmark, loop, sentinel):
    """A stream of 200 events, as fast as they come."""
    wish = b"events=%d" % _EVENTS
    answer = benchmark(lambda: loop.run_until_complete(sentinel.chat(STREAMED, wish)))
    assert answer.endswith(b"data: [DONE]\n\n")
    assert answer.count(b'"at":') == _EVENTS
    benchmark.extra_info["events"] = _EVENTS
