"""The table of streams: what an event costs, how late it comes, and what an open stream takes of memory."""

from dataclasses import dataclass
from typing import Any

from loadtest import client
from loadtest.figures import Histogram, per
from loadtest.profiles import Profile
from loadtest.rig import Rig, Target
from loadtest.tables import Table

_OPENED_PER_S = 200


async def streams(rig: Rig, profile: Profile) -> Table:
    """So many paced streams at a time, of Sentinel and of the yardstick; the events of all together come at one rate."""
    table = Table(
        "streams",
        "Streams",
        f"{profile.events_per_s} events a second over all streams together, each a read of its own. `asked p50` is from the "
        "request on a new connection to the first event; the other times are from when the provider sent an event until the "
        "client had it. Memory is what the worker had more than before.",
        [
            "streams",
            "target",
            "events/s",
            "CPU µs/event",
            "asked p50 ms",
            "first p50 ms",
            "first p99 ms",
            "p50 ms",
            "p99 ms",
            "KiB/stream",
        ],
    )
    for count in profile.streams:
        for target in (rig.direct, rig.nginx, rig.sentinel):
            if target is not None:
                _tell(table, count, target, await stream(target, profile, count))
    return table


@dataclass(frozen=True)
class Events:
    """What a job of streams saw: processor time an event, and times by the request, of the first event, of all."""

    cpu_us: float
    opened: Histogram
    first: Histogram
    delays: Histogram


def summed(seen: dict[str, Any]) -> Events:
    """The answer of a job of streams as figures."""
    opened, first, delays = (
        Histogram({int(at): n for at, n in seen[name].items()}) for name in ("opened", "first", "histogram")
    )
    return Events(per(seen["cpu_s"]["target"], seen["events"]) * 1e6, opened, first, delays)


async def stream(target: Target, profile: Profile, count: int) -> dict[str, Any]:
    """One job of so many streams: what it saw."""
    gap_s = count / profile.events_per_s
    lasts_s = count / _OPENED_PER_S + profile.seconds + 3
    return await client.run(
        {
            "mode": "stream",
            "url": target.url_paced,
            "streams": count,
            "opened_per_s": _OPENED_PER_S,
            # The first stream must still run when the last one has been measured, on a machine that is late as well.
            "events": int(lasts_s / gap_s * 1.3) + 2,
            "gap_ms": gap_s * 1000,
            "seconds": profile.seconds,
            "watch": {"target": list(target.pids)},
        }
    )


def _tell(table: Table, count: int, target: Target, seen: dict[str, Any]) -> None:
    table.failed(f"{count} streams, {target.name}", seen)
    events = summed(seen)
    cpu_us, first, delays = events.cpu_us, events.first, events.delays
    kib = seen["memory_bytes"]["target"] / 1024 / count
    measured = bool(target.pids)
    table.rows.append(
        [
            count,
            target.name,
            per(seen["events"], seen["seconds"]),
            cpu_us if measured else "",
            events.opened.percentile_ms(50),
            first.percentile_ms(50),
            first.percentile_ms(99),
            delays.percentile_ms(50),
            delays.percentile_ms(99),
            kib if measured and count >= 100 else "",
        ]
    )
    # The last, largest number of streams is what the targets and the plot are about.
    table.curves[target.name] = delays.bars()
    table.figures |= {
        f"cpu {target.name}": cpu_us,
        f"first p99 {target.name}": first.percentile_ms(99),
        f"asked p50 {target.name}": events.opened.percentile_ms(50),
        f"kib {target.name}": kib,
        "streams": count,
    }
