"""What others notice of one caller who asks for far more than its share, and how soon that caller is told so.

Fails as `tables` do: what is neither answered nor refused is a failure of its row.
"""

import asyncio
from typing import Any, Final

from loadtest import client
from loadtest.figures import Histogram, per
from loadtest.profiles import Profile
from loadtest.rig import Rig
from loadtest.tables import Table, ask

# Of the normal caller: few a second, over so many connections that none waits for another.
_RATE: Final = 50
_CONNECTIONS: Final = 64
# How long the crowd waits for its turn before it is refused: shorter than usual, so that fewer connections are too many.
_WAIT_S: Final = "0.05"


async def crowd(rig: Rig, profile: Profile) -> Table:
    """A caller by a clock, alone and beside a crowd."""
    table = Table(
        "crowd",
        "Beside a crowd",
        f"{_RATE} requests a second by a clock, alone and beside one other caller with so many connections that never rest. "
        f"That one is refused where it has waited for {_WAIT_S} s; it asks again after `Retry-After`, or at once.",
        ["crowd", "others/s", "p50 ms", "p99 ms", "crowd served/s", "refused/s", "refusal p50 ms", "refusal p99 ms", "core %"],
    )
    await rig.start_gateway(SENTINEL_TURN_WAIT_SECONDS=_WAIT_S)
    for count in (0, *profile.crowd):
        for obeys in (True, False) if count else (True,):
            await _row(rig, profile, table, count, obeys=obeys)
    await rig.start_gateway()
    return table


async def _row(rig: Rig, profile: Profile, table: Table, count: int, *, obeys: bool) -> None:
    row = f"{count} that {'obey' if obeys else 'come again at once'}" if count else "nobody"
    lasts_s = profile.warm_up + profile.seconds
    job = {"mode": "ask", "url": rig.sentinel.url, "connections": count, "callers_prefix": "crowd", "may_be_refused": True}
    many = await client.start({**job, "obeys": obeys, "warm_up": profile.warm_up, "seconds": lasts_s}) if count else None
    await asyncio.sleep(profile.warm_up)
    seen = await ask(rig, rig.sentinel, profile, connections=_CONNECTIONS, rate=_RATE)
    table.failed(row, seen)
    told: dict[str, Any] = {"good": 0, "failed": 0, "failures": {}, "seconds": 1, "refusals": {}}
    if many is not None:
        told = await client.finished(many)
        table.failed(f"{row}, the crowd", told)
    refusals = Histogram({int(bucket): number for bucket, number in told["refusals"].items()})
    rates = [per(told["good"], told["seconds"]), per(len(refusals), told["seconds"])]
    times = [refusals.percentile_ms(50), refusals.percentile_ms(99)] if refusals else ["", ""]
    table.rows.append([row, seen["rate"], seen["ms"]["p50"], seen["ms"]["p99"], *rates, *times, seen["busy"]])
