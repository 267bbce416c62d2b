"""What the ledger costs: `python -m bench.ledger_calls` prints admit and settle round trips a second and CPU a pair.

It starts a Redis of its own, once on a unix socket and once on TCP, and asks through a whole Ledger. Compare figures of one
machine only. `--callers 1 16` takes other numbers of callers, `--seconds 2` measures longer. The last lines are
what each script costs Redis, in its own CPU time (INFO cpu) and with all that a call is to it, over 20 000 calls each.
"""

import argparse
import asyncio
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from sentinel.devstack.redis_server import find_server
from sentinel.edges.ledger import Ledger, open_redis
from sentinel.protocol.limits import MetricLimit, Snapshot, Verdict
from sentinel.records import Bill, Caller, Hold

_CALLERS = [1, 16, 64, 256]
_USERS = 100
_DAY_MS = 86_400_000


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    """The URLs of a new Redis: unix socket and TCP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sr-", dir="/tmp") as directory:
        path = Path(directory) / "redis.sock"
        options = ["--port", str(port), "--unixsocket", str(path), "--dir", directory, "--save", "", "--daemonize", "no"]
        process = subprocess.Popen([find_server(), *options], stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            yield f"unix://{path}", f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _ledger(url: str, *, windows: bool) -> Ledger:
    rates = {"rate_requests": 10**6, "rate_tokens": 10**9} if windows else {"rate_requests": 0}
    times = {"lease_ms": 60_000, "rate_window_ms": 60_000, "fresh_ms": 300_000, "stale_ms": 3_600_000}
    return Ledger(open_redis(url, 5.0), partitions=16, timeout_s=5.0, **times, **rates)


async def _install(ledger: Ledger) -> list[Caller]:
    start_ms = int(time.time() * 1000) // _DAY_MS * _DAY_MS
    limit = MetricLimit(10**12, 0, start_ms, start_ms + _DAY_MS, "DAILY")
    callers = [Caller(f"user-{at:06d}-of-the-bench", f"user-{at}@example.com") for at in range(_USERS)]
    for caller in callers:
        await ledger.install(caller.external_id, Snapshot(limit, limit, limit), (0, 0, 0))
    return callers


def _hold(request_id: str, caller: Caller, verdict: Verdict) -> Hold:
    said = (verdict.requests, verdict.input, verdict.output, verdict.rate)
    return Hold(request_id, caller, "gpt-4o", 100, verdict.granted_output, *said)


async def _ask(ledger: Ledger, caller: Caller, prefix: str, numbers: Iterator[int], until_s: float) -> int:
    pairs = 0
    while time.perf_counter() < until_s:
        request_id = f"req_{prefix}_{next(numbers):x}"
        verdict = await ledger.admit(caller, request_id, 100, 200, 1, "gpt-4o")
        assert verdict.code == "admitted", verdict
        assert (await ledger.settle(_hold(request_id, caller, verdict), Bill(100, 20, 1))).why == "ok"
        pairs += 1
    return pairs


async def _rounds(name: str, url: str, callers: list[int], seconds: float) -> None:
    for count in callers:
        ledger = _ledger(url, windows=False)
        await ledger.open()
        users, prefix = await _install(ledger), f"{time.time_ns() % 2**64:016x}"
        numbers = iter(range(10**9))
        await asyncio.gather(*(_ask(ledger, users[0], prefix, numbers, time.perf_counter() + 0.1) for _ in range(count)))
        cpu_s, begun_s = time.process_time(), time.perf_counter()
        asked = (_ask(ledger, users[at % _USERS], prefix, numbers, begun_s + seconds) for at in range(count))
        pairs = sum(await asyncio.gather(*asked))
        cpu_s, took_s = time.process_time() - cpu_s, time.perf_counter() - begun_s
        print(f"{name:4} {count:4} callers: {2 * pairs / took_s:8.0f} calls/s  {cpu_s / pairs / 2 * 1e6:6.1f} us CPU a call")
        await ledger.close()


async def _cpu_s(redis: Redis) -> float:
    used = await redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


async def _scripts(url: str) -> None:
    redis = open_redis(url, 5.0)
    for windows in (False, True):
        ledger = _ledger(url, windows=windows)
        await ledger.open()
        await redis.flushall()
        users, prefix = await _install(ledger), f"{time.time_ns() % 2**64:016x}"
        costs: dict[str, float] = {}
        ids = [f"req_{prefix}_{at:x}" for at in range(20_000)]
        verdicts: list[Verdict] = []
        for name in ("admit", "settle"):
            before_s = await _cpu_s(redis)
            for start in range(0, len(ids), 500):
                some = range(start, start + 500)
                if name == "admit":
                    asked = [ledger.admit(users[at % _USERS], ids[at], 100, 200, 1, "gpt-4o") for at in some]
                    verdicts += await asyncio.gather(*asked)
                else:
                    held = [_hold(ids[at], users[at % _USERS], verdicts[at]) for at in some]
                    await asyncio.gather(*(ledger.settle(hold, Bill(100, 20, 1)) for hold in held))
            costs[name] = (await _cpu_s(redis) - before_s) / len(ids) * 1e6
        print(
            f"in Redis, {'two windows' if windows else 'no window'}: " + ", ".join(f"{n} {c:.1f} us" for n, c in costs.items())
        )
        await ledger.close()
    await redis.aclose()


async def main(callers: list[int], seconds: float) -> None:
    """Both ways, then the scripts."""
    with _server() as (unix, tcp):
        await _rounds("unix", unix, callers, seconds)
        await _rounds("tcp", tcp, callers, seconds)
        await _scripts(unix)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--callers", type=int, nargs="*", default=_CALLERS)
    parser.add_argument("--scripts-only", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    uvloop.run(main([] if given.scripts_only else given.callers, given.seconds))
