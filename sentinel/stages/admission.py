"""admission.admit: requests, input and output tokens and the window, checked and held in ONE call to Redis, all or nothing; and
admission.recall: who is refused already, from memory, before anything else of a request is read.

Fails closed: a limit that is used up is `OverLimitError` (429, named), limits nobody can be asked for are
`ZionUnavailableError`; a refusal consumes nothing. While Redis is away the standby decides from memory, as it is set; what it
does not admit is `LedgerUnavailableError`, and a void in the journal where Redis may hold it all the same. Zion is asked only
for callers the ledger does not know (once at a time) and, in the background, for those whose limits age; while it is away
ageing limits go on to their bound.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from msgspec import Raw

from sentinel import metrics
from sentinel.edges.counting import Counting
from sentinel.edges.journal import Journal
from sentinel.edges.ledger import Ledger
from sentinel.edges.ledger.standby import Standby
from sentinel.edges.section import ENDS, Section
from sentinel.edges.zion import Zion
from sentinel.errors import ForbiddenError, LedgerUnavailableError, OverLimitError, ZionUnavailableError
from sentinel.logs import Log
from sentinel.protocol import denials, headers, limits, wire
from sentinel.protocol.denials import Attempts
from sentinel.protocol.histories import Histories
from sentinel.protocol.limits import KeptLimits
from sentinel.records import Bill, Call, Caller, Hold

_log: Final = Log("admission")

_INLINE_BYTES_MAX: Final = 4096  # no room for more different texts than that allows: the prompt need not be judged
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


class Admission:
    """Holds what a call may cost. `now_s` is the wall clock, for the Unix seconds of `X-RateLimit-Reset`; refusals stand by
    `monotonic_ns`.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        standby: Standby,
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
        self._zion = zion
        self._counting = counting
        self._attempts = attempts
        self._output_tokens_default = output_tokens_default
        self._work_output_tokens = work_output_tokens
        self._histories = histories
        self._limits_ttl_s = limits_ttl_s
        self._limits_wait_s = limits_wait_s
        self._missing_limit = missing_limit
        self._now_s = now_s
        self._monotonic_ns = monotonic_ns
        self._standing = denials.Standing()
        self._learning: dict[str, asyncio.Task[None]] = {}

    def recall(self, caller: Caller) -> None:
        """Raise OverLimitError where `caller` was refused for what only time can end, and that still stands.

        Who runs against a limit again and again then costs neither a body, nor the count of its tokens, nor a call to Redis.
        """
        denial = self._standing.find(caller.external_id)
        if denial is not None and (now_ns := self._monotonic_ns()) < denial.until_ns:
            raise self._refusal(denial.why, denial.hold_at(now_ns))

    async def admit(self, caller: Caller, call: Call, request_id: str, waiting: Section) -> Hold:
        """Hold what `call` may cost its caller; what may take long is done in `waiting`, which another may end. Raises
        OverLimitError, ForbiddenError, ZionUnavailableError or LedgerUnavailableError.
        """
        if len(call.body) > _INLINE_BYTES_MAX:
            input_tokens = await waiting.within(self._counting.long, call, caller.external_id)
        else:
            input_tokens = 0 if call.prompt is None else self._counting.tokenizer.prompt(call.prompt, call.model)
        amounts = (input_tokens, *self._output(call))
        degraded = ""
        asked_ns = self._monotonic_ns()
        try:
            if call.lasts or call.unseen_input or caller.external_id in self._attempts.known:
                verdict = await self._ask(caller, call, request_id, amounts)
            else:
                asked = self._ledger.ask(caller, request_id, *amounts, call.model)
                await asked.reply
                verdict = self._ledger.verdict(asked)
            if verdict.refresh or verdict.code == "snapshot":
                asks = partial(self._ask, caller, call, request_id, amounts)
                verdict = await waiting.within(self._ask_again, verdict, caller, asks)
            self._standby.learn(caller.external_id, verdict)
        except LedgerUnavailableError as error:
            verdict, degraded = self._stand_in(caller, request_id, amounts, error), self._standby.mode
        except ENDS:
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
        metrics.REFUSALS[denials.limit_name(why)] += 1
        return denials.refusal(why, hold, int(self._now_s()))

    def count(self, caller: Caller) -> None:
        """An attempt of `caller` was refused, and nothing has counted it: it is one in its window like any other."""
        if (full := self._attempts.add(caller, now_ns := self._monotonic_ns())) is not None:
            self._standing.keep("rate", *full, now_ns)

    async def _ask(self, caller: Caller, call: Call, request_id: str, amounts: tuple[int, int, int]) -> limits.Verdict:
        """Ask the ledger for any call: it holds what is unseen of it, and counts earlier attempts where it admits this one."""
        admit = partial(self._ledger.admit, caller, request_id)
        if call.lasts or call.unseen_input:
            admit = partial(admit, input_min=amounts[0], work=call.lasts)
            amounts = (amounts[0] + self._histories.tokens(call.named.objects), *amounts[1:])
        if caller.external_id not in self._attempts.known:
            return await admit(*amounts, call.model)
        attempt, verdict = self._attempts.take(caller.external_id, self._monotonic_ns()), None
        try:
            return (verdict := await admit(*amounts, call.model, attempts=attempt.count))
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

    async def _ask_again(
        self, verdict: limits.Verdict, caller: Caller, ask: Callable[[], Coroutine[Any, Any, limits.Verdict]]
    ) -> limits.Verdict:
        """The ledger's verdict, once it knows the caller's limits: one asker of the whole fleet fetches them, the rest wait.

        `verdict` is its first, which says that they are missing or have aged.
        """
        wait_until_s = asyncio.get_running_loop().time() + self._limits_wait_s
        while True:
            if verdict.refresh and verdict.code == "snapshot":
                self._start(caller.external_id, partial(self._learn, caller.external_id, verdict))
            elif verdict.refresh and len(self._learning) < _REFRESHES_MAX:
                self._start(caller.external_id, partial(self._refresh, caller.external_id, verdict))
            if verdict.code != "snapshot" or asyncio.get_running_loop().time() > wait_until_s:
                return verdict
            if (task := self._learning.get(caller.external_id)) is not None:
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
        await asyncio.shield(self._learning[external_id])

    async def close(self) -> None:
        """End the refreshes that are under way; the next admission asks again."""
        tasks = list(self._learning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _output(self, call: Call) -> tuple[int, int]:
        """(tokens to hold, least that will do): a declared cap is held whole, the default shrinks to what remains."""
        if call.prompt is None:
            return 0, 0
        if call.output_tokens_declared is not None:
            return call.output_tokens_declared, call.output_tokens_least or call.output_tokens_declared
        least = wire.output_min(call)
        default = self._work_output_tokens if call.lasts else self._output_tokens_default
        return max(default * call.choices, least), least

    def _start(self, external_id: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin to learn a caller's limits, unless somebody already does."""
        if external_id not in self._learning:
            task = asyncio.create_task(work())
            self._learning[external_id] = task
            task.add_done_callback(lambda done: self._learned(external_id, done))

    def _learned(self, external_id: str, task: asyncio.Task[None]) -> None:
        del self._learning[external_id]
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
        await self._ledger.keep_limits(external_id, limits.write_kept(answer), self._limits_ttl_s)

    async def _install(self, external_id: str, answer: KeptLimits) -> None:
        snapshot = limits.read_snapshot(bytes(answer.limits))
        if snapshot.missing and self._missing_limit == "deny":
            names = ", ".join(metric.value for metric in snapshot.missing)
            raise ForbiddenError(f"This account has no limit for {names}.", code="limit_missing")
        await self._ledger.install(external_id, snapshot, answer.acked, answer.asked_at_ms)
        self._standing.forget(external_id)
