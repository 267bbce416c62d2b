"""What admits while Redis is away: slices of what the ledger last said (`sliced`), everything (`open`), or nothing (`closed`).

Decides from memory alone, never waits and never fails; where it cannot decide it says None, and the request is refused. What it
remembers is bounded, and dies with its worker. docs/operations.md tells how far it can be wrong.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from sentinel.ledger.degraded_quota import DegradedQuota
from sentinel.ops import metrics
from sentinel.ops.records import UNLIMITED, Bill, Hold, Remaining
from sentinel.zion.limits import Verdict


class DegradedAdmission:
    """One a worker. `processes` are all workers of all hosts; `now_s` is a monotonic clock."""

    def __init__(
        self,
        mode: str,
        *,
        ratio: float,
        processes: int,
        window_ms: int,
        callers_max: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode = mode
        self._ratio = ratio
        self._processes = processes
        self._window_ms = window_ms
        self._callers_max = callers_max
        self._now_s = now_s
        self._slices: OrderedDict[str, DegradedQuota] = OrderedDict()

    @property
    def admits(self) -> bool:
        """Whether anybody could be admitted without Redis now."""
        return self.mode == "open" or bool(self._slices)

    def learn(self, external_id: str, verdict: Verdict) -> None:
        """Remember what the ledger said of a caller; what it says takes the place of what was remembered."""
        if self.mode != "sliced" or verdict.code not in ("admitted", "denied"):
            return
        known = self._slices.get(external_id)
        if known is None:
            known = self._slices[external_id] = DegradedQuota(self._ratio, self._processes, self._window_ms)
            if len(self._slices) > self._callers_max:
                self._slices.popitem(last=False)
        else:
            self._slices.move_to_end(external_id)
        known.told = (verdict.input, verdict.output, verdict.requests, verdict.rate, int(self._now_s() * 1000))

    def admit(self, external_id: str, input_tokens: int, output_tokens: int, output_min: int) -> Verdict | None:
        """Admit or deny one request, amounts as in Ledger.ask; None for a caller not known here, or a spent slice."""
        verdict = self._decide(external_id, input_tokens, output_tokens, output_min)
        admitted = verdict is not None and verdict.code == "admitted"
        metrics.DEGRADED[self.mode, "admitted" if admitted else "refused"] += 1
        return verdict

    def settle(self, hold: Hold, bill: Bill) -> None:
        """A request that was admitted here is over: what it did not use may be admitted again."""
        known = self._slices.get(hold.caller.external_id)
        if known is not None:
            known.give_back(hold.input_tokens - bill.input_tokens, hold.output_tokens - bill.output_tokens, 1 - bill.requests)

    def _decide(self, external_id: str, input_tokens: int, output_tokens: int, output_min: int) -> Verdict | None:
        if self.mode == "open":
            return _verdict("ok", output_tokens, UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)
        known = self._slices.get(external_id)
        if known is None:
            return None
        grant = known.take(input_tokens, output_tokens, output_min, self._now_ms())
        if grant.why == "spent":
            return None
        return _verdict(grant.why, grant.output_tokens, grant.input, grant.output, grant.requests, grant.rate)

    def _now_ms(self) -> int:
        return int(self._now_s() * 1000)


def _verdict(why: str, output: int, given: Remaining, produced: Remaining, requests: Remaining, rate: Remaining) -> Verdict:
    code = "admitted" if why == "ok" else "denied"
    return Verdict(code, why, output, given, produced, requests, rate, refresh=False, acked=(0, 0, 0), clock_ms=0)
