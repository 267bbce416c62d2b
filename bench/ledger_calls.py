"""What the ledger costs: `python -m bench.ledger_calls` prints admit and settle round trips a second and CPU a pair.

It starts a Redis of its own, once on a unix socket and once on TCP, and asks through a whole Ledger. Compare figures of one
machine only. `--callers 1 16` takes other numbers of callers, `--seconds 2` measures longer. The last lines are what each
script costs Redis (`--scripts-only`: these alone), with an append-only file as in production and calls in batches as a busy
worker sends them: inside the script (INFO commandstats), and with all that a call is to its process (INFO cpu, which is what
/proc says: parsing, replies, the file). The least of several rounds, since others may use the machine too.
"""

import argparse
import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from sentinel.devstack.claims import free_port
from sentinel.devstack.redis_server import find_server
from sentinel.ledger import Ledger, open_redis
from sentinel.ops.records import Bill, Caller, Hold
from sentinel.zion.limits import MetricLimit, Snapshot, Verdict, read_verdict

_CALLERS = [1, 16, 64, 256]
_USERS = 100
# Of one kind in a round; at once, as one tick of a busy worker has them.
_CALLS, _AT_ONCE, _ROUNDS = 8_000, 16, 5
_DAY_MS = 86_400_000


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    """The URLs of a new Redis: unix socket and TCP."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sr-", dir="/tmp") as directory:
        path = Path(directory) / "redis.sock"
        options = ["--port", str(port), "--unixsocket", str(path), "--dir", directory, "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "everysec"]
        process = subprocess.Popen([find_server(), *options], stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            yield f"unix://{path}", f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _ledger(url: str, *, rate_requests: int = 0, rate_tokens: int = 0) -> Ledger:
    times = {"lease_ms": 60_000, "rate_window_ms": 60_000, "fresh_ms": 300_000, "stale_ms": 3_600_000}
    rates = {"rate_requests": rate_requests, "rate_tokens": rate_tokens}
    return Ledger(open_redis(url, 5.0), partitions=16, timeout_s=5.0, **times, **rates)


async def _install(ledger: Ledger) -> list[Caller]:
    start_ms = int(time.time() * 1000) // _DAY_MS * _DAY_MS
    limit = MetricLimit(10**12, 0, start_ms, start_ms + _DAY_MS, "DAILY")
    callers = [Caller(f"user-{at:06d}-of-the-bench", f"user-{at}@example.com") for at in range(_USERS)]
    for caller in callers:
        await ledger.install_limits(caller.external_id, Snapshot(limit, limit, limit), (0, 0, 0))
    return callers


def _hold(request_id: str, caller: Caller, verdict: Verdict) -> Hold:
    said = (verdict.requests, verdict.input, verdict.output, verdict.rate)
    return Hold(request_id, caller, "gpt-4o", 100, verdict.granted_output, *said)


async def _admit(ledger: Ledger, caller: Caller, request_id: str) -> Verdict:
    asked = ledger.ask(caller, request_id, 100, 200, 1, "gpt-4o")
    await asked.reply
    return read_verdict(ledger.said(asked))


async def _ask(ledger: Ledger, caller: Caller, prefix: str, numbers: Iterator[int], until_s: float) -> int:
    pairs = 0
    while time.perf_counter() < until_s:
        request_id = f"req_{prefix}_{next(numbers):x}"
        verdict = await _admit(ledger, caller, request_id)
        assert verdict.code == "admitted", verdict
        assert (await ledger.settle(_hold(request_id, caller, verdict), Bill(1, 100, 20))).why == "ok"
        pairs += 1
    return pairs


async def _rounds(name: str, url: str, callers: list[int], seconds: float) -> None:
    for count in callers:
        ledger = _ledger(url)
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


async def _inside_s(redis: Redis) -> float:
    return float((await redis.info("commandstats")).get("cmdstat_evalsha", {}).get("usec", 0)) / 1e6


async def _batch(name: str, ledger: Ledger, users: list[Caller], ids: list[str], verdicts: dict[str, Verdict]) -> None:
    asked = [(one, users[int(one.rpartition("_")[2], 16) % _USERS]) for one in ids]
    if name == "admit":
        said = await asyncio.gather(*(_admit(ledger, user, one) for one, user in asked))
        verdicts.update(zip(ids, said, strict=True))
    else:
        held = [_hold(one, user, verdicts[one]) for one, user in asked]
        if name == "settle_all":
            for together in ledger.settle_all([(one, Bill(1, 100, 20)) for one in held]):
                await together.call.reply
                assert not ledger.settled_all(together)[0]
            return
        assert {told.why for told in await asyncio.gather(*(ledger.settle(one, Bill(1, 100, 20)) for one in held))} == {"ok"}


async def _scripts(url: str) -> None:
    redis = open_redis(url, 5.0)
    windows = {"no window": {}, "requests": {"rate_requests": 10**6}, "both": {"rate_requests": 10**6, "rate_tokens": 10**9}}
    for window, rates in windows.items():
        ledger = _ledger(url, **rates)
        await ledger.open()
        await redis.flushall()
        users, boot = await _install(ledger), f"{time.time_ns() % 2**64:016x}"
        least = {name: (float("inf"), float("inf")) for name in ("admit", "settle", "settle_all")}
        for round_ in range(2 * _ROUNDS):
            ids = [f"req_{boot}_{at:x}" for at in range(round_ * _CALLS, (round_ + 1) * _CALLS)]
            verdicts: dict[str, Verdict] = {}
            for name in ("admit", "settle_all" if round_ % 2 else "settle"):
                cpu_s, inside_s = await _cpu_s(redis), await _inside_s(redis)
                for start in range(0, _CALLS, _AT_ONCE):
                    await _batch(name, ledger, users, ids[start : start + _AT_ONCE], verdicts)
                spent = (await _inside_s(redis) - inside_s, await _cpu_s(redis) - cpu_s)
                least[name] = min(least[name][0], spent[0]), min(least[name][1], spent[1])
        costs = {name: [f"{one / _CALLS * 1e6:.1f}" for one in spent] for name, spent in least.items()}
        whole = (least["admit"][1] + least["settle_all"][1]) / _CALLS * 1e6
        shown = ", ".join(f"{name} {inside} us inside, {cpu} us CPU" for name, (inside, cpu) in costs.items())
        print(f"in Redis, {window:9}: {shown}; a request {whole:.1f} us CPU")
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
