"""How a caller's limits get into the ledger: from what is kept in Redis, or from Zion, by one asker at a time.

Zion is asked only for callers the ledger does not know and, in the background, for those whose limits age; while it is away
ageing limits go on to their bound. Fails closed: limits nobody can be asked for, or that cannot be read, are
ZionUnavailableError, an account without one that it must have ForbiddenError.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from msgspec import Raw

from sentinel.ledger import Ledger
from sentinel.ops.errors import ForbiddenError, LedgerUnavailableError, ZionUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import Caller
from sentinel.zion import limits
from sentinel.zion.client import Zion
from sentinel.zion.limits import KeptLimits

_log: Final = Log("admission")

_REFRESHES_MAX: Final = 256
_LOOK_AGAIN_S: Final = 0.025


class Before(Protocol):
    """What the ledger said before Zion is asked: what Zion had acknowledged by then, and when that was."""

    @property
    def acked(self) -> tuple[int, int, int]:
        """Input, output, requests."""

    @property
    def clock_ms(self) -> int:
        """The ledger's clock, Unix ms."""


class Learning:
    """Has limits installed, and says by `on_installed` whose. What is kept of Zion's answer stays for `ttl_s`; who asks waits
    for `wait_s`. `missing_limit` "deny" refuses accounts that lack a limit.
    """

    def __init__(
        self,
        ledger: Ledger,
        zion: Zion,
        on_installed: Callable[[str], None],
        *,
        ttl_s: int,
        wait_s: float,
        missing_limit: str,
    ) -> None:
        self._ledger = ledger
        self._zion = zion
        self._on_installed = on_installed
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._missing_limit = missing_limit
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def known(
        self, verdict: limits.Verdict, caller: Caller, ask: Callable[[], Coroutine[Any, Any, limits.Verdict]]
    ) -> limits.Verdict:
        """The ledger's verdict, once it knows the caller's limits: one asker of the whole fleet fetches them, the rest wait.

        `verdict` is its first, which says that they are missing or have aged.
        """
        wait_until_s = asyncio.get_running_loop().time() + self._wait_s
        while True:
            if verdict.refresh and verdict.code == "snapshot":
                self._start(caller.external_id, partial(self._learn, caller.external_id, verdict))
            elif verdict.refresh and len(self._under_way) < _REFRESHES_MAX:
                self._start(caller.external_id, partial(self._refresh, caller.external_id, verdict))
            if verdict.code != "snapshot" or asyncio.get_running_loop().time() > wait_until_s:
                return verdict
            if (task := self._under_way.get(caller.external_id)) is not None:
                # Shielded: the first asker may leave while others wait for the same limits.
                await asyncio.shield(task)
            else:
                # Another worker or host asks: look again soon.
                await asyncio.sleep(_LOOK_AGAIN_S)
            verdict = await ask()

    async def learn(self, external_id: str, before: Before) -> None:
        """Have the limits of a caller installed whom the ledger does not know, without admitting anything.

        Raises ForbiddenError, ZionUnavailableError or LedgerUnavailableError.
        """
        self._start(external_id, partial(self._learn, external_id, before))
        await asyncio.shield(self._under_way[external_id])

    async def close(self) -> None:
        """End the refreshes that are under way; the next admission asks again."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, external_id: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin to learn a caller's limits, unless somebody already does."""
        if external_id not in self._under_way:
            task = asyncio.create_task(work())
            self._under_way[external_id] = task
            task.add_done_callback(lambda done: self._learned(external_id, done))

    def _learned(self, external_id: str, task: asyncio.Task[None]) -> None:
        del self._under_way[external_id]
        if not task.cancelled():
            # Read here so that a failure whose askers have left is not reported as unread.
            task.exception()

    async def _learn(self, external_id: str, before: Before) -> None:
        """Install the limits of a caller the ledger does not know; what was kept in Redis will do where it can be read."""
        try:
            kept = await self._ledger.limits(external_id)
            if kept is not None:
                try:
                    await self._install(external_id, limits.read_kept(kept))
                    return
                except ValueError:
                    _log.warning("limits in redis cannot be read", external_id=external_id)
            await self._ask_zion(external_id, before, first=True)
        except (ZionUnavailableError, ForbiddenError):
            await self._ledger.release_refresh(external_id)
            raise

    async def _refresh(self, external_id: str, before: Before) -> None:
        """Install newer limits in the background; the old ones stay where Zion or Redis is away."""
        try:
            await self._ask_zion(external_id, before, first=False)
        except (ZionUnavailableError, ForbiddenError, LedgerUnavailableError) as error:
            _log.warning("limits not refreshed", external_id=external_id, error=error.message)

    async def _ask_zion(self, external_id: str, before: Before, *, first: bool) -> None:
        answer = KeptLimits(before.clock_ms, before.acked, Raw(await self._zion.limits(external_id, first=first)))
        try:
            await self._install(external_id, answer)
        except ValueError as error:
            _log.error("limits of zion cannot be read", external_id=external_id, error=str(error))
            raise ZionUnavailableError("The limits of this account cannot be read.", retry_after_s=2) from error
        await self._ledger.keep_limits(external_id, limits.write_kept(answer), self._ttl_s)

    async def _install(self, external_id: str, answer: KeptLimits) -> None:
        snapshot = limits.read_snapshot(bytes(answer.limits))
        if snapshot.missing and self._missing_limit == "deny":
            names = ", ".join(metric.value for metric in snapshot.missing)
            raise ForbiddenError(f"This account has no limit for {names}.", code="limit_missing")
        await self._ledger.install_limits(external_id, snapshot, answer.acked, answer.asked_at_ms)
        self._on_installed(external_id)
