"""Reconcile what the provider served with what Zion booked and what still waits in Redis.

`python -m sentinel.devstack.reconcile --provider URL --zion URL [--redis URL] [--user E-MAIL]… [--wait SECONDS] [--json]`

Both are the simulators' own addresses. Prints what is lost, unexpected and duplicated, and sums per user. Exit codes: 0 nothing
is, 1 something is, 2 a part does not answer. Run it when nothing is under way, or let it wait: the three are not read at one
instant, and what a worker has not settled yet (a hold, a journal) counts as lost.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict
from typing import Any, Final

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sentinel.devstack.comparison import METRICS, NOTHING, Amounts, Batch, Comparison, Waiting, compare, summed

_POLL_S: Final = 0.1
_TIMEOUT_S: Final = 30.0
_PAGE: Final = 200


async def reconcile(provider: str, zion: str, redis: str = "", users: Collection[str] | None = None) -> Comparison:
    """Read all and compare. Raises aiohttp's and redis' errors, and TimeoutError, where a part does not answer."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(raise_for_status=True, timeout=timeout) as session:
        # What waits is read before the ledger it goes to: what moves in between is then counted twice, not lost.
        served = await _read(session, f"{provider.rstrip('/')}/simulator/served")
        waiting = await read_waiting(redis) if redis else None
        booked = await _read(session, f"{zion.rstrip('/')}/simulator/ledger")
    return compare(served["rows"], booked["rows"], waiting, users)


async def reconciled(
    provider: str, zion: str, redis: str = "", users: Collection[str] | None = None, *, wait_s: float = 0
) -> Comparison:
    """`reconcile`, again until nothing differs or `wait_s` are over; the last comparison."""
    until_s = asyncio.get_running_loop().time() + wait_s
    while True:
        comparison = await reconcile(provider, zion, redis, users)
        if comparison.equal or asyncio.get_running_loop().time() >= until_s:
            return comparison
        await asyncio.sleep(_POLL_S)


def report(comparison: Comparison) -> str:
    """What a person reads."""
    lines = []
    for name in ("lost", "unexpected", "duplicated"):
        differences = getattr(comparison, name)
        lines.append(f"{name}: {len(differences) or 'nothing'}")
        lines += [f"  {difference}" for difference in differences]
    if comparison.nameless:
        lines.append(f"served without the field user, not compared: {comparison.nameless}")
    users = sorted({*comparison.served, *comparison.booked, *comparison.waiting})
    width = max([4, *map(len, users)])
    shown = "requests/input/output"
    lines += ["", f"{'user':<{width}}  {'served':>24}  {'booked':>24}  {'waiting':>24}   ({shown})"]
    for user in users:
        columns = (sums.get(user, NOTHING) for sums in (comparison.served, comparison.booked, comparison.waiting))
        lines.append(f"{user:<{width}}  " + "  ".join(f"{'/'.join(map(str, column)):>24}" for column in columns))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sentinel.devstack.reconcile")
    parser.add_argument("--provider", required=True, metavar="URL", help="where the provider's simulator listens")
    parser.add_argument("--zion", required=True, metavar="URL", help="where Zion's simulator listens")
    parser.add_argument("--redis", default="", metavar="URL", help="the ledger's Redis; without it nothing may wait")
    parser.add_argument("--user", action="append", metavar="E-MAIL", help="only this user; may be repeated")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long differences may take to go away")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    try:
        comparison = asyncio.run(reconciled(chosen.provider, chosen.zion, chosen.redis, chosen.user, wait_s=chosen.wait))
    except (aiohttp.ClientError, RedisError, OSError, TimeoutError, ValueError) as error:
        print(f"reconcile: a part does not answer: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(
        json.dumps({**asdict(comparison), "equal": comparison.equal, "metrics": METRICS}) if chosen.json else report(comparison)
    )
    return 0 if comparison.equal else 1


async def _read(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


async def read_waiting(url: str) -> Waiting:
    """What waits in every partition of the ledger (its keys: docs/limits.md)."""
    unreported: list[tuple[str, Amounts]] = []
    dead: list[tuple[str, Amounts]] = []
    batches: list[Batch] = []
    async with Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S) as redis:
        # Sums become batches, and these dead letters: read in that order nothing slips through, at worst it shows twice.
        async for field, amounts in _fields(redis, "a:{s*}"):
            given, produced, requests = map(int, amounts.split(b"|"))
            external_id, email, *_ = json.loads(field)
            unreported.append((email or external_id, (requests, given, produced)))
        async for field, items in _fields(redis, "b:{s*}"):
            if b":" not in field:
                batches.append(Batch(field.decode(), summed(map(_item, json.loads(items)))))
        async for _, letter in _fields(redis, "x:{s*}"):
            dead.append(_item(json.loads(letter)[2]))
    return Waiting(summed(unreported), tuple(batches), summed(dead))


async def _fields(redis: Redis, pattern: str) -> AsyncIterator[tuple[bytes, bytes]]:
    async for name in redis.scan_iter(pattern, count=_PAGE):
        async for field, value in redis.hscan_iter(name, count=_PAGE):
            yield field, value


def _item(item: Sequence[Any]) -> tuple[str, Amounts]:
    """(user, amounts) of an item: [external id, e-mail, model, period start, input, output, requests, these names now]."""
    external_id, email = item[7] if len(item) > 7 else item[:2]
    return email or external_id, (item[6], item[4], item[5])


if __name__ == "__main__":
    sys.exit(main())
