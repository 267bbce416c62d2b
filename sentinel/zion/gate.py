"""The gate to Zion, one for all workers and hosts: so many calls a second, a breaker for reports, and Zion's own Retry-After.

Each kind of call has some of the rate of its own: reports, calls for known callers, and never-seen tokens, which anybody can
send. Reports ask before each POST and tell what became of it; they raise LedgerUnavailableError where Redis is away, since
what they would report lies there. Calls that a caller waits for (`turn`) pass a breaker that is open (it judges reports), and
have their process's share of the rate where Redis is away; ZionUnavailableError says that there is no place within their time.
"""

import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from sentinel.ledger.redis.pipeline import Pipeline
from sentinel.ops import metrics
from sentinel.ops.errors import LedgerUnavailableError, ZionUnavailableError
from sentinel.ops.logs import Log
from sentinel.zion.local_rate import Share
from sentinel.zion.queues import Line, Pass

__all__ = ["Gate", "Pass"]

_log: Final = Log("gate")

# One hash tag: all of it is one place in a Redis Cluster.
_STATE: Final = "zg:{zion}"
_REPORTS: Final = "zg:{zion}:reports"
_KEYS: Final = (_STATE, "zg:{zion}:callers", _REPORTS, "zg:{zion}:new")
# A call whose answer was lost, while Redis is not away: asked again soon, under the same id.
_ASK_AGAIN_S: Final = 0.05
# Where Redis goes away or comes back, nobody calls for so long: a second, and the time by which workers notice it apart. So the
# calls of the gate and of the shares do not add up.
_CHANGE_S: Final = 1.75


class Gate:
    """The gate as this worker sees it; `turn_s` is how long a caller's call may wait for its place, `processes` how many share
    the rate.
    """

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
        waiting_max: int,
        processes: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._now_ms = now_ms
        self._now_s = now_s
        self._requests_per_s = requests_per_s
        self._failures_max = failures_max
        self._open_ms = int(open_s * 1000)
        self._probe_ms = int(probe_s * 1000)
        self._shut_until_s = float("-inf")
        self._share = Share(requests_per_s, processes)
        self._lines = {
            kind: Line(partial(self._ask_or_share, kind), waiting_max=waiting_max, turn_s=turn_s, shared=kind == "new")
            for kind in ("known", "new")
        }

    async def ask(self) -> Pass:
        """Whether a report may go now: gate.lua. Raises LedgerUnavailableError."""
        return await self._ask("report", secrets.token_hex(8))

    async def report_result(self, one: Pass, result: str, retry_after_s: float = 0.0) -> None:
        """What became of a granted report: "ok", "failed", "busy" (429, with Zion's `retry_after_s`) or "unused":
        gate_result.lua.

        Raises LedgerUnavailableError.
        """
        arguments = (self._now_ms(), one.id, result, self._failures_max, self._open_ms, int(retry_after_s * 1000))
        is_open, changed = await self._pipeline.script("gate_result", [_STATE, _REPORTS], arguments)
        metrics.ZION_BREAKER.set(is_open)
        if changed and is_open:
            _log.warning("zion fails: reports wait", seconds=self._open_ms / 1000)
        elif changed:
            _log.info("zion takes reports again")

    async def turn(self, kind: Literal["known", "new"], *, first: bool) -> None:
        """Wait for the turn of a call for a `known` caller, or of a `new` token; `first` before others of its kind.

        Raises ZionUnavailableError.
        """
        try:
            await self._lines[kind].wait(first=first)
        except ZionUnavailableError:
            metrics.ZION_GATE[kind, "turned_away"] += 1
            raise

    async def shut(self, retry_after_s: float) -> None:
        """Zion answered a caller's call with 429: nobody in the fleet asks before `retry_after_s`. Never fails."""
        self._shut_until_s = self._now_s() + retry_after_s
        try:
            await self.report_result(Pass("", "go", 0.0), "busy", retry_after_s)
        except LedgerUnavailableError:
            _log.warning("the fleet was not told that zion is busy", seconds=retry_after_s)

    def close(self) -> None:
        """Let nobody wait any more."""
        for line in self._lines.values():
            line.close()

    async def _ask_or_share(self, kind: str, call_id: str) -> Pass:
        """What the gate says, or where Redis is away this process's share. Never fails."""
        now_s = self._now_s()
        wait_s = self._pipeline.changed_s + _CHANGE_S - now_s
        if self._pipeline.away and self._shut_until_s > now_s:
            return Pass(call_id, "shut", self._shut_until_s - now_s)
        if wait_s <= 0 and self._pipeline.away:
            wait_s = self._share.ask(kind, now_s)
        elif wait_s <= 0:
            try:
                return await self._ask(kind, call_id)
            except LedgerUnavailableError:
                wait_s = _ASK_AGAIN_S
        why = "rate" if wait_s > 0 else "go"
        metrics.ZION_GATE[kind, why] += 1
        return Pass(call_id, why, wait_s)

    async def _ask(self, kind: str, call_id: str) -> Pass:
        arguments = (self._now_ms(), call_id, kind, self._requests_per_s, self._probe_ms)
        why, wait_ms, is_open = await self._pipeline.script("gate", _KEYS, arguments)
        metrics.ZION_BREAKER.set(is_open)
        said = Pass(call_id, why.decode(), wait_ms / 1000)
        metrics.ZION_GATE[kind, said.why] += 1
        return said
