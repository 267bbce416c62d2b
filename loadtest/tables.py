"""The tables of a run: what is asked of whom, and what is told of the answers.

Each returns a `Table` whose `failures` say what was not answered as it should be; figures beside failures are never published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from loadtest import client, wrk
from loadtest.figures import Histogram, per
from loadtest.profiles import Profile
from loadtest.rig import Rig, Target

_HALF_LOAD_CONNECTIONS: Final = 16
OTHERS_CONNECTIONS: Final = 8
BESIDE: Final = ["beside", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs/request", "core %"]


@dataclass
class Table:
    """A table, and what of it the targets (`figures`) and plots (`curves`: name to points) need."""

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[str | float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def failed(self, row: str, seen: Mapping[str, Any]) -> None:
        """Note what went wrong in a row."""
        if seen["failed"] or not seen["good"]:
            self.failures.append(f"{self.title}, {row}: {seen['failures'] or 'nothing was answered'}")

    def point(self, curve: str, x: float, y: float) -> None:
        """One more point of a curve."""
        self.curves.setdefault(curve, []).append((x, y))


async def ask(rig: Rig, target: Target, profile: Profile, **job: Any) -> dict[str, Any]:
    """One row of plain requests: what was seen, with `rate`, `ms` by percentile, `cpu_us`, `redis_us`, and `busy` in %."""
    watch = {"target": list(target.pids), "redis": rig.redis_pids}
    given = {"mode": "ask", "url": target.url, "seconds": profile.seconds, "warm_up": profile.warm_up, "watch": watch, **job}
    fast = wrk.find() if target.name == "nginx" else None
    seen = await (wrk.ask(fast, given) if fast else client.run(given))
    latencies = Histogram({int(bucket): count for bucket, count in seen.get("histogram", {}).items()})
    return {
        **seen,
        "latencies": latencies,
        "rate": per(seen["good"], seen["seconds"]),
        "ms": seen.get("percentiles_ms") or latencies.percentiles_ms(),
        "cpu_us": per(seen["cpu_s"]["target"], seen["good"]) * 1e6,
        "redis_us": per(seen["cpu_s"]["redis"], seen["good"]) * 1e6,
        "busy": per(seen["cpu_s"]["target"], seen["seconds"]) * 100,
    }


async def connections(rig: Rig, profile: Profile) -> Table:
    """Plain completions at so many connections, of Sentinel and of the yardstick; and one without either."""
    table = Table(
        "connections",
        "Plain completions",
        "One caller, a body of half a KiB, an answer of 0.8 KiB, connections kept; `core` is how much of it the target had.",
        [
            "connections",
            "target",
            "requests/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "CPU µs/request",
            "Redis µs",
            "core %",
        ],
    )
    direct = await ask(rig, rig.direct, profile, connections=1)
    table.failed("1 connection, provider itself", direct)
    table.rows.append([1, "provider itself", direct["rate"], *direct["ms"].values(), "", "", ""])
    for count in profile.connections:
        for target in (rig.nginx, rig.sentinel):
            if target is None:
                continue
            seen = await ask(rig, target, profile, connections=count)
            table.failed(f"{count} connections, {target.name}", seen)
            redis_us = seen["redis_us"] if target.name == "Sentinel" else ""
            table.rows.append([count, target.name, seen["rate"], *seen["ms"].values(), seen["cpu_us"], redis_us, seen["busy"]])
            table.point(target.name, count, seen["rate"])
            if target.name == "Sentinel" and count == 1:
                table.figures["added_p50_ms"] = seen["ms"]["p50"] - direct["ms"]["p50"]
            best = table.figures.get(f"rate {target.name}", 0.0)
            if seen["rate"] > best:
                table.figures |= {f"rate {target.name}": seen["rate"], f"cpu {target.name}": seen["cpu_us"]}
    return table


async def half_load(rig: Rig, profile: Profile, rate: float) -> Table:
    """By a clock, at half of what was the most."""
    table = Table(
        "half_load",
        "At half load",
        "Requests by a clock, at half the rate Sentinel reached; the latency of each begins when it was due.",
        ["target", "requests/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"],
    )
    for target in (rig.direct, rig.sentinel):
        seen = await ask(rig, target, profile, connections=_HALF_LOAD_CONNECTIONS, rate=rate / 2)
        table.failed(target.name, seen)
        table.rows.append([target.name, seen["rate"], *seen["ms"].values()])
        table.figures[f"p99 {target.name}"] = seen["ms"]["p99"]
        table.curves[target.name] = seen["latencies"].bars()
    table.figures["added_p99_ms"] = table.figures["p99 Sentinel"] - table.figures["p99 provider itself"]
    return table


async def logging(rig: Rig, profile: Profile) -> Table:
    """A line of log a request, and none."""
    table = Table(
        "logging",
        "With and without the log",
        "64 connections. Every other table is without: `SENTINEL_LOG_LEVEL=error`.",
        ["log level", "requests/s", "CPU µs/request"],
    )
    for level in ("info", "error"):
        await rig.start_gateway(level)
        seen = await ask(rig, rig.sentinel, profile, connections=64)
        table.failed(level, seen)
        table.rows.append([level, seen["rate"], seen["cpu_us"]])
    return table


async def bodies(rig: Rig, profile: Profile) -> Table:
    """Requests of all sizes, whose prompts are the same each time."""
    table = Table(
        "bodies",
        "Size of the request",
        "8 connections; one long message, the same each time, so that its tokens are known after the first.",
        ["body KiB", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "CPU µs/KiB"],
    )
    for size in profile.bodies:
        seen = await ask(rig, rig.sentinel, profile, connections=8, body_bytes=size)
        table.failed(f"{size} bytes", seen)
        kib = size / 1024
        ms = seen["ms"]
        table.rows.append([kib, seen["rate"], ms["p50"], ms["p99"], seen["cpu_us"], seen["cpu_us"] / kib])
        table.point("Sentinel", kib, seen["cpu_us"])
    return table


async def callers(rig: Rig, profile: Profile) -> Table:
    """Requests of so many callers in turn, after each has been seen once."""
    table = Table(
        "callers",
        "Number of callers",
        "64 connections, callers in turn, after every one has asked once. A worker remembers 10 000 profiles, Redis all.",
        ["callers", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "Redis µs"],
    )
    for count in profile.callers:
        seen = await ask(
            rig, rig.sentinel, profile, connections=64, callers_count=count, callers_prefix=f"of{count}", touch_all=True
        )
        table.failed(f"{count} callers", seen)
        table.rows.append([count, seen["rate"], seen["ms"]["p50"], seen["ms"]["p99"], seen["cpu_us"], seen["redis_us"]])
        table.point("Sentinel", count, seen["cpu_us"])
        table.figures[f"cpu of {count}"] = seen["cpu_us"]
    return table


async def refusals(rig: Rig, profile: Profile) -> Table:
    """What is refused beside what is not."""
    table = Table(
        "refusals",
        "Refusals",
        "64 connections. 401: a token that Zion does not know. 429: a caller who has used up the requests.",
        ["answer", "requests/s", "p50 ms", "p99 ms", "CPU µs/request"],
    )
    for status, prefix in ((200, "caller"), (401, "nobody"), (429, "spent")):
        seen = await ask(rig, rig.sentinel, profile, connections=64, callers_prefix=prefix, expect=status)
        table.failed(str(status), seen)
        table.rows.append([status, seen["rate"], seen["ms"]["p50"], seen["ms"]["p99"], seen["cpu_us"]])
    return table


async def beside(rig: Rig, profile: Profile) -> Table:
    """What well-behaved callers notice of others."""
    table = Table(
        "beside",
        "Beside others who do not behave",
        f"{OTHERS_CONNECTIONS} connections with plain completions, alone and beside so many others.",
        BESIDE,
    )
    kinds = {"hanging": profile.hanging, "unread": profile.unread, "idle": profile.idle}
    words = {"hanging": "requests whose provider hangs", "unread": "streams nobody reads", "idle": "idle connections"}
    for kind, count in {"": 0, **kinds}.items():
        odd = await client.start({"mode": "odd", "url": rig.sentinel.url, "kind": kind, "count": count}) if kind else None
        if odd is not None:
            assert odd.stdout is not None
            assert await odd.stdout.readline() == b"ready\n"
        await ask_beside(rig, profile, table, f"{count} {words[kind]}" if kind else "nobody")
        if odd is not None:
            assert odd.stdin is not None
            odd.stdin.close()
            await client.finished(odd)
    return table


async def ask_beside(rig: Rig, profile: Profile, table: Table, row: str) -> None:
    """One row of plain completions beside what `row` names."""
    seen = await ask(rig, rig.sentinel, profile, connections=OTHERS_CONNECTIONS)
    table.failed(row, seen)
    ms = seen["ms"]
    table.rows.append([row, seen["rate"], ms["p50"], ms["p99"], ms["p99.9"], seen["cpu_us"], seen["busy"]])
