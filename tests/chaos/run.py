"""One run: a stack, its callers, its faults, and what must hold afterwards, as a list of what does not.

Raises what the stack raises where it does not come up, or a fault cannot be mended.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from redis.asyncio import Redis

from sentinel.devstack import reconcile
from sentinel.devstack.comparison import Comparison
from sentinel.devstack.stack import Stack
from sentinel.ledger.keys import key, partition_of
from tests.chaos import verdict
from tests.chaos.clients import Clients, Note
from tests.chaos.faults import Faults, all_up
from tests.chaos.schedule import Fault, plan
from tests.support.accounts import read_account
from tests.support.running import User, make_user

_ERRORS: Final = Path(__file__).parents[2] / "docs" / "errors.md"
_PARTITIONS: Final = 16
_UNLIMITED, _LIMITED, _EACH = 4, 2, 2
_REQUESTS_A_SECOND: Final = 4
_SETTLED_S: Final = 40.0
_LOOK_S: Final = 0.25
_SETTINGS: Final = {
    "SENTINEL_RATE_LIMIT_REQUESTS": "0",
    "SENTINEL_LEASE_SECONDS": "5",
    "SENTINEL_BACKGROUND_POLL_SECONDS": "1",
    # So that what work in the background holds is what it costs.
    "SENTINEL_UNSEEN_INPUT_TOKENS_DEFAULT": "0",
    "SENTINEL_REPORT_INTERVAL_MS": "100",
    "SENTINEL_REPORT_RETRY_SECONDS": "0.3",
    "SENTINEL_ZION_BREAKER_SECONDS": "0.3",
    "SENTINEL_REDIS_TIMEOUT_SECONDS": "0.3",
    "SENTINEL_DRAIN_SECONDS": "2",
    "ZION_TIMEOUT_SECONDS": "1",
    "CACHE_TTL_SECONDS": "2",
}


@dataclass
class Result:
    """What a run has found, and how much it did."""

    faults: list[Fault]
    notes: list[Note] = field(default_factory=list)
    kills: list[verdict.Span] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def said(self) -> str:
        """In short."""
        kinds = Counter(f"{fault.lane} {fault.kind}" for fault in self.faults)
        ends = Counter(f"{note.status} {note.code}".strip() if note.status else "no answer" for note in self.notes)
        lines = [f"{len(self.notes)} requests: {dict(ends)}", f"{len(self.faults)} faults: {dict(kinds)}"]
        return "\n".join([*lines, *(f"WRONG {one}" for one in self.wrong)])


class Run:
    """A run of `seconds` over a stack, by `seed`. `exact`: nobody may be served more than its limit."""

    def __init__(self, stack: Stack, seed: int, seconds: float, *, exact: bool) -> None:
        self._stack = stack
        self._exact = exact
        self._seed = seed
        self._limits: dict[str, int] = {}
        self._users: list[User] = []
        self._limit = int(seconds * _REQUESTS_A_SECOND)
        self._result = Result(plan(seed, seconds))

    async def run(self) -> Result:
        """Do it all."""
        result = self._result
        for at in range(_UNLIMITED + _LIMITED):
            user = await make_user(self._stack, requests=self._limit if at < _LIMITED else 10**6)
            self._users.append(user)
            if at < _LIMITED:
                self._limits[user.email] = self._limit
        await all_up(self._stack)
        faults = Faults(self._stack, [user.email for user in self._users], self._seed)
        clients = Clients(self._stack, self._users, self._seed, each=_EACH)
        await faults.run(result.faults)
        await clients.end()
        result.notes, result.kills = clients.notes, faults.kills
        await self._until(self._unsettled)
        await self._spend(clients)
        result.wrong += await self._until(self._unsettled)
        result.wrong += verdict.strange_answers(result.notes, _ERRORS.read_text(), result.kills)
        result.wrong += verdict.strange_lines(self._stack.child("sentinel").log.read_text())
        return result

    async def _compared(self) -> tuple[Comparison, list[dict[str, Any]]]:
        names = {user.email for user in self._users}
        # What is charged is read before what is served: what is asked in between would look lost.
        comparison = await reconcile.reconcile(self._stack.provider_url, self._stack.zion_url, self._stack.redis_url, names)
        return comparison, (await self._stack.control("provider", "served"))["rows"]

    async def _unsettled(self) -> list[str]:
        """What does not hold now."""
        comparison, rows = await self._compared()
        expected = verdict.bounds(rows, self._result.notes, self._result.kills)
        found = verdict.misses(expected, comparison.booked, comparison.waiting)
        found += comparison.duplicated
        found += verdict.held(await self._accounts())
        found += await self._left_behind()
        return found + (verdict.over_the_limit(rows, self._limits) if self._exact else [])

    async def _left_behind(self) -> list[str]:
        """Holds, deadlines and records of work that still stand, whatever the accounts say: docs/limits.md has the keys."""
        async with Redis.from_url(self._stack.redis_url) as redis:
            return [
                f"{name.decode()} still stands" for kind in ("r", "z", "g") async for name in redis.scan_iter(f"{kind}:{{s*}}")
            ]

    async def _accounts(self) -> dict[str, dict[str, list[int]]]:
        async with Redis.from_url(self._stack.redis_url) as redis:
            found = {}
            for user in self._users:
                packed = await redis.get(key("q", partition_of(user.external_id, _PARTITIONS), user.external_id))
                if isinstance(packed, bytes):
                    found[user.email] = read_account(packed)
            return found

    async def _until(self, wrong: Callable[[], Any]) -> list[str]:
        """What is wrong in the end; nothing as soon as nothing is."""
        until_s = time.monotonic() + _SETTLED_S
        while (found := await wrong()) and time.monotonic() < until_s:
            await asyncio.sleep(_LOOK_S)
        return list(found)

    async def _spend(self, clients: Clients) -> None:
        """Who has a limit asks until all of it is spent: neither less nor more is left than what was not charged."""
        limited = [user for user in self._users if user.email in self._limits]
        until_s = time.monotonic() + _SETTLED_S
        async with aiohttp.ClientSession() as http:
            while left := await self._left():
                if not self._exact and all(count < 0 for count in left.values()):
                    return
                if time.monotonic() > until_s:
                    self._result.wrong += [f"{name}: {count} requests cannot be spent" for name, count in left.items()]
                    return
                for user in limited:
                    if user.email in left:
                        await clients.plain(http, user)

    async def _left(self) -> dict[str, int]:
        """How many requests each limited user has not been charged, where that is not 0."""
        comparison, _ = await self._compared()
        charged = {
            name: comparison.booked.get(name, (0, 0, 0))[0] + comparison.waiting.get(name, (0, 0, 0))[0]
            for name in self._limits
        }
        return {name: limit - charged[name] for name, limit in self._limits.items() if limit != charged[name]}


async def run(directory: Path, seed: int, seconds: float, mode: str = "closed") -> Result:
    """A run over a stack of its own, which decides in this `mode` while Redis is away."""
    async with Stack(directory, settings=_SETTINGS | {"SENTINEL_ON_REDIS_DOWN": mode}) as stack:
        return await Run(stack, seed, seconds, exact=mode == "closed").run()


def shown(result: Result) -> str:
    """All that was asked and done, as lines of JSON, for who looks for a cause."""
    rows = [vars(fault) for fault in result.faults] + [vars(note) for note in result.notes]
    return "\n".join(json.dumps(row) for row in rows)
