"""The gate to Zion, one for all workers and hosts: so many calls a second, a breaker for reports, and Zion's own Retry-After.

Reports ask before each POST and tell what became of it; they raise LedgerUnavailableError where Redis is away, since what they
would report lies there. Calls that a caller waits for (`turn`) come before reports, pass a breaker that is open (it judges
reports), and go ahead where Redis is away; ZionUnavailableError says that there is no place within their time.
"""

import asyncio
import random
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from sentinel import metrics
from sentinel.edges.ledger.pipeline import Pipeline
from sentinel.errors import LedgerUnavailableError, ZionUnavailableError
from sentinel.logs import Log

_log: Final = Log("gate")

# One hash tag: all of it is one place in a Redis Cluster.
_STATE: Final = "zg:{zion}"
_CALLERS: Final = "zg:{zion}:callers"
_REPORTS: Final = "zg:{zion}:reports"
_JITTER_S: Final = 0.02


class Pass(msgspec.Struct, frozen=True):
    """What the gate says to one call: `why` is go, probe, or why not: rate, open (the breaker), shut (Zion said 429)."""

    id: str
    why: str
    wait_s: float

    @property
    def granted(self) -> bool:
        """Whether the call may be made; then `tell` must hear of it."""
        return self.why in {"go", "probe"}


class Gate:
    """The gate as this worker sees it; `turn_s` is how long a caller's call may wait for its place."""

    def __init__(
        self,
        pipeline: Pipeline,
        now_ms: Callable[[], int],
        *,
        requests_per_s: int,
        failures_max: int,
        open_s: float,
        probe_s: float,
        turn_s: float,
    ) -> None:
        self._pipeline = pipeline
        self._now_ms = now_ms
        self._requests_per_s = requests_per_s
        self._failures_max = failures_max
        self._open_ms = int(open_s * 1000)
        self._probe_ms = int(probe_s * 1000)
        self._turn_s = turn_s

    async def ask(self) -> Pass:
        """Whether a report may go now: gate.lua. Raises LedgerUnavailableError."""
        return await self._ask("report", secrets.token_hex(8))

    async def tell(self, one: Pass, result: str, retry_after_s: float = 0.0) -> None:
        """What became of a granted report: "ok", "failed", "busy" (429, with Zion's `retry_after_s`) or "unused": tell.lua.

        Raises LedgerUnavailableError.
        """
        arguments = (self._now_ms(), one.id, result, self._failures_max, self._open_ms, int(retry_after_s * 1000))
        is_open, changed = await self._pipeline.script("tell", [_STATE, _REPORTS], arguments)
        metrics.ZION_BREAKER.set(is_open)
        if changed and is_open:
            _log.warning("zion fails: reports wait", seconds=self._open_ms / 1000)
        elif changed:
            _log.info("zion takes reports again")

    async def turn(self) -> None:
        """Wait for the turn of a call that a caller waits for. Raises ZionUnavailableError; goes ahead where Redis is away."""
        loop = asyncio.get_running_loop()
        until_s, call_id = loop.time() + self._turn_s, secrets.token_hex(8)
        while True:
            try:
                said = await self._ask("caller", call_id)
            except LedgerUnavailableError:
                return
            if said.granted:
                return
            if said.why == "shut" or loop.time() + said.wait_s > until_s:
                raise ZionUnavailableError("The governance service is asked too much right now.", retry_after_s=said.wait_s)
            await asyncio.sleep(said.wait_s + random.uniform(0, _JITTER_S))

    async def shut(self, retry_after_s: float) -> None:
        """Zion answered a caller's call with 429: nobody in the fleet asks before `retry_after_s`. Never fails."""
        try:
            await self.tell(Pass("", "go", 0.0), "busy", retry_after_s)
        except LedgerUnavailableError:
            _log.warning("the fleet was not told that zion is busy", seconds=retry_after_s)

    async def _ask(self, kind: str, call_id: str) -> Pass:
        arguments = (self._now_ms(), call_id, kind, self._requests_per_s, self._probe_ms)
        why, wait_ms, is_open = await self._pipeline.script("gate", [_STATE, _CALLERS, _REPORTS], arguments)
        metrics.ZION_BREAKER.set(is_open)
        said = Pass(call_id, why.decode(), wait_ms / 1000)
        metrics.ZION_GATE.labels(kind, said.why).inc()
        return said
