"""admission.admit: requests, input and output tokens and the window, checked and held in ONE call to Redis, all or nothing; and
admission.check_denied: who is refused already, from memory, before anything else of a request is read.

Fails closed: a limit that is used up is `OverLimitError` (429, named), limits nobody can be asked for are
`ZionUnavailableError` (learning.py); a refusal consumes nothing. While Redis is away the standby decides from memory, as it is
set; what it does not admit is `LedgerUnavailableError`, and a void in the journal where Redis may hold it all the same.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sentinel.journal import Journal
from sentinel.ledger import Ledger, limit_errors
from sentinel.ledger.degraded import DegradedAdmission
from sentinel.ledger.limit_errors import Attempts
from sentinel.openai import headers, wire
from sentinel.openai.tokens.histories import Histories
from sentinel.ops import metrics
from sentinel.ops.errors import LedgerUnavailableError, OverLimitError, ZionUnavailableError
from sentinel.ops.records import Bill, Call, Caller, Hold
from sentinel.stages.admission.counting import Counting
from sentinel.stages.admission.limits_refresh import Learning
from sentinel.zion import limits
from sentinel.zion.client import Zion

_INLINE_BYTES_MAX: Final = 4096  # no room for more different texts than that allows: the prompt need not be judged


class Admission:
    """Holds what a call may cost; `learning` has the limits of callers installed for that. `now_s` is the wall clock, for the
    Unix seconds of `X-RateLimit-Reset`; refusals stand by `monotonic_ns`.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        standby: DegradedAdmission,
        zion: Zion,
        counting: Counting,
        attempts: Attempts,
        histories: Histories,
        *,
        output_tokens_default: int,
        work_output_tokens: int,
        limits_ttl_s: int,
        limits_wait_s: float,
        missing_limit: str,
        now_s: Callable[[], float] = time.time,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._standby = standby
        self._counting = counting
        self._attempts = attempts
        self._output_tokens_default = output_tokens_default
        self._work_output_tokens = work_output_tokens
        self._histories = histories
        self._now_s = now_s
        self._monotonic_ns = monotonic_ns
        self._standing = limit_errors.DenialCache()
        self.learning = Learning(
            ledger, zion, self._standing.forget, ttl_s=limits_ttl_s, wait_s=limits_wait_s, missing_limit=missing_limit
        )

    def check_denied(self, caller: Caller) -> None:
        """Raise OverLimitError where `caller` was refused for what only time can end, and that still stands.

        Who runs against a limit again and again then costs neither a body, nor the count of its tokens, nor a call to Redis.
        """
        denial = self._standing.find(caller.external_id)
        if denial is not None and (now_ns := self._monotonic_ns()) < denial.until_ns:
            raise self._refusal(denial.why, denial.hold_at(now_ns))

    async def admit(self, caller: Caller, call: Call, request_id: str) -> Hold:
        """Hold what `call` may cost its caller. Raises OverLimitError, ForbiddenError, ZionUnavailableError or
        LedgerUnavailableError. Who cancels it holds nothing: what Redis may hold by then is void.
        """
        if len(call.body) > _INLINE_BYTES_MAX:
            input_tokens = await self._counting.long(call, caller.external_id)
        else:
            input_tokens = 0 if call.prompt is None else self._counting.tokenizer.prompt(call.prompt, call.model)
        amounts = (input_tokens, *self._output(call))
        degraded = ""
        asked_ns = self._monotonic_ns()
        try:
            if call.detached or call.unseen_input or caller.external_id in self._attempts.known:
                verdict = await self._ask(caller, call, request_id, amounts)
            else:
                asked = self._ledger.ask(caller, request_id, *amounts, call.model)
                await asked.reply
                verdict = limits.read_verdict(self._ledger.said(asked))
            if verdict.refresh or verdict.code == "snapshot":
                asks = partial(self._ask, caller, call, request_id, amounts)
                verdict = await self.learning.known(verdict, caller, asks)
            self._standby.learn(caller.external_id, verdict)
        except LedgerUnavailableError as error:
            verdict, degraded = self._stand_in(caller, request_id, amounts, error), self._standby.mode
        except asyncio.CancelledError:
            self._void(caller, request_id)
            raise
        hold = Hold(
            request_id=request_id,
            caller=caller,
            model=call.model,
            input_tokens=max(input_tokens, verdict.granted_input),
            output_tokens=verdict.granted_output,
            requests=verdict.requests,
            tokens_input=verdict.input,
            tokens_output=verdict.output,
            rate=verdict.rate,
            rate_tokens=verdict.tokens,
            output_capped=verdict.granted_output < amounts[1],
            degraded=degraded,
        )
        if verdict.code == "admitted":
            return hold
        if verdict.code == "denied":
            if verdict.stands_ms > 0:
                self._standing.keep(verdict.why, hold, verdict.stands_ms, asked_ns)
            raise self._refusal(verdict.why, hold)
        raise ZionUnavailableError("The limits of this account are not known right now.", retry_after_s=2)

    def _refusal(self, why: str, hold: Hold) -> OverLimitError:
        metrics.REFUSALS[limit_errors.limit_name(why)] += 1
        return limit_errors.refusal(why, hold, int(self._now_s()))

    def count(self, caller: Caller) -> None:
        """An attempt of `caller` was refused, and nothing has counted it: it is one in its window like any other."""
        if (full := self._attempts.add(caller, now_ns := self._monotonic_ns())) is not None:
            self._standing.keep("rate", *full, now_ns)

    async def _ask(self, caller: Caller, call: Call, request_id: str, amounts: tuple[int, int, int]) -> limits.Verdict:
        """Ask the ledger for any call: it holds what is unseen of it, and counts earlier attempts where it admits this one."""
        least = amounts[0] if call.detached or call.unseen_input else None
        if least is not None:
            amounts = (least + self._histories.tokens(call.referenced_ids.objects), *amounts[1:])
        attempt, verdict = self._attempts.take(caller.external_id, self._monotonic_ns()), None
        try:
            asked = self._ledger.ask(
                caller, request_id, *amounts, call.model, input_min=least, work=call.detached, attempts=attempt.count
            )
            await asked.reply
            return (verdict := limits.read_verdict(self._ledger.said(asked)))
        finally:
            if verdict is None or verdict.code != "admitted":
                self._attempts.give(caller.external_id, attempt, self._monotonic_ns())

    def settle(self, hold: Hold, bill: Bill) -> None:
        """Take note of what a request has cost that was admitted without Redis."""
        if hold.degraded:
            self._standby.settle(hold, bill)

    def _stand_in(
        self, caller: Caller, request_id: str, amounts: tuple[int, int, int], error: LedgerUnavailableError
    ) -> limits.Verdict:
        """The standby's verdict. Raises LedgerUnavailableError.

        Whether the call has run is unknown: what is admitted here is settled under the same id, which also frees what Redis
        may hold of it; what is not is voided.
        """
        verdict = self._standby.admit(caller.external_id, *amounts)
        if error.sent and (verdict is None or verdict.code != "admitted"):
            self._void(caller, request_id)
        if verdict is None:
            shown = () if self._standby.mode == "closed" else headers.degraded(self._standby.mode)
            raise LedgerUnavailableError(error.message, retry_after_s=1, headers=shown) from error
        return verdict

    def _void(self, caller: Caller, request_id: str) -> None:
        """Redis may hold this request, which never goes to the provider: whoever tells the journal gives it back, even after a
        crash, before its lease would charge it.
        """
        self._journal.wait(self._journal.settled(Hold(request_id, caller, "", 0, 0), Bill(0, 0, 0)))

    def _output(self, call: Call) -> tuple[int, int]:
        """(tokens to hold, least that will do): a declared cap is held whole, the default shrinks to what remains."""
        if call.prompt is None:
            return 0, 0
        if call.output_tokens_declared is not None:
            return call.output_tokens_declared, call.output_tokens_least or call.output_tokens_declared
        least = wire.output_min(call)
        default = self._work_output_tokens if call.detached else self._output_tokens_default
        return max(default * call.choices, least), least
