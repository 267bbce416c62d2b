"""reporting.delivery: one batch after another from the ledger's outbox to Zion, until it is booked, buried, or put off.

What is about to be sent stands in the journal: a Redis that loses it would give the same usage to another batch. Zion has not
answered well: the same bytes again later, under the same idempotency key. It refuses single increments for good: those become
dead letters, the rest is done. It refuses a whole batch, or has no endpoint for batches: the increments go one by one, each
under a key of its own derived from the batch's, and each answer is noted in Redis, so that nothing that was answered is ever
sent again. Raises LedgerUnavailableError; the batch then comes back when its claim is over.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from sentinel.journal import Journal
from sentinel.ledger import Batch, Ledger
from sentinel.ops import metrics
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.zion import increments
from sentinel.zion.client import RETRY_AFTER_S, Answer, Zion
from sentinel.zion.gate import Gate, Pass

_log: Final = Log("reporting")

_REFUSED_FOR_GOOD: Final = frozenset({400, 404, 413, 422})
_NO_ENDPOINT: Final = frozenset({404, 405})
_LOOK_FOR_BATCHES_S: Final = 600.0
_BATCHES_MAX: Final = 1000
_CLOSING_S: Final = 5.0
_ACKNOWLEDGE_TRIES: Final = 5
_ACKNOWLEDGE_S: Final = 1.0


class HeldBack(msgspec.Struct, frozen=True):
    """Something waits on: come back after `wait_s`; `by_gate`: until then no report of any partition may go."""

    wait_s: float
    by_gate: bool = False


class Delivery:
    """Delivers batches. `retry_s` is put ± 10 % between two attempts."""

    def __init__(
        self,
        ledger: Ledger,
        gate: Gate,
        zion: Zion,
        journal: Journal,
        *,
        usage_format: str,
        items_max: int,
        retry_s: float,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._ledger = ledger
        self._gate = gate
        self._zion = zion
        self._journal = journal
        self._usage_format = usage_format
        self._items_max = items_max
        self._retry_s = retry_s
        self._now_s = now_s or asyncio.get_running_loop().time
        self._batches_from_s = float("-inf")
        self._until_s = float("inf")

    def close(self) -> None:
        """Begin nothing new in 5 s; what is not sent by then stays in Redis."""
        self._until_s = self._now_s() + _CLOSING_S

    async def deliver(self, partition: int) -> HeldBack | None:
        """Send batches of a partition until nothing is left (None), one fails, or the gate says no."""
        for _ in range(_BATCHES_MAX):
            queue = await self._ledger.peek(partition)
            if self._now_s() > self._until_s:
                return None
            if not queue.ready:
                return HeldBack(queue.wait_s) if queue.wait_ms else None
            turn = await self._gate.ask()
            if not turn.granted:
                return HeldBack(turn.wait_s, by_gate=True)
            batch = await self._ledger.claim_batch(partition, self._items_max, usage_format=self._usage_format)
            if batch is None:
                await self._gate.report_result(turn, "unused")
                return None
            if batch.attempts == 1:
                # A later one has been sealed for so long that Redis does not lose that, or stands in another's journal.
                self._journal.sealed(batch.seal(self._journal.now_ms()))
            if not await self._send(batch, turn):
                return HeldBack(self._retry_s * 1.1)
        return HeldBack(0.0)

    async def _send(self, batch: Batch, turn: Pass) -> bool:
        """Whether the batch is settled with Zion, one way or the other."""
        report = increments.build(batch.items, batch.usage_format, batch.sealed_at_ms)
        if batch.lost:
            metrics.REPORTS_UNSURE.inc()
        await self._ledger.replicas.hold()
        # What was begun one by one goes on so: the batch's own key would book again what is booked already. What may have gone
        # whole goes so again: other keys would.
        if batch.singly or (self._now_s() < self._batches_from_s and batch.attempts == 1):
            return await self._send_singly(batch, report, turn)
        answer = await self._zion.report(report.body, batch.id)
        if answer.status == 200:
            await self._finish(batch, report, self._refused(answer.body, batch.id))
            await self._tell(turn, answer)
            return True
        if answer.status in _NO_ENDPOINT:
            self._batches_from_s = self._now_s() + _LOOK_FOR_BATCHES_S
            _log.warning("zion takes no batches: increments go one by one", status=answer.status)
        elif answer.status in _REFUSED_FOR_GOOD:
            _log.warning("zion refuses a batch: its increments go one by one", batch=batch.id, status=answer.status)
        else:
            await self._postpone(batch, _described(answer), lost=answer.lost)
            await self._tell(turn, answer)
            return False
        await self._tell(turn, answer)
        return await self._send_singly(batch, report, None)

    async def _send_singly(self, batch: Batch, report: increments.Increments, turn: Pass | None) -> bool:
        """Send what is not answered yet, one by one; `turn` is one that the gate has granted already."""
        if not batch.singly and not await self._ledger.ack_items(batch, {}):
            if turn is not None:
                await self._gate.report_result(turn, "unused")
            return True  # somebody else got it through
        answers, failed, lost = dict(batch.parts), "", False
        for position, single in enumerate(report.singles):
            if position in answers:
                continue
            turn = turn or await self._turn()
            if turn is None:
                failed = failed or "the gate"
                break
            answer = await self._zion.report_one(single, f"{batch.id}-{position}")
            verdict = _verdict(answer)
            if verdict is None:
                failed, lost = _described(answer), lost or answer.lost
            else:
                answers[position] = verdict
                if not await self._ledger.ack_items(batch, {position: verdict}):
                    await self._tell(turn, answer)
                    return True  # somebody else got it through
            await self._tell(turn, answer, failed=verdict is None)
            turn = None
        if turn is not None:
            await self._gate.report_result(turn, "unused")
        if failed:
            return await self._postpone(batch, failed, lost=lost)
        await self._finish(batch, report, {position: reason for position, reason in answers.items() if reason})
        return True

    async def _turn(self) -> Pass | None:
        """The gate's leave for one more increment; None where that takes longer than the rate alone makes it."""
        while self._now_s() < self._until_s:
            turn = await self._gate.ask()
            if turn.granted:
                return turn
            if turn.why != "rate":
                return None
            await asyncio.sleep(turn.wait_s)
        return None

    async def _tell(self, turn: Pass, answer: Answer, *, failed: bool | None = None) -> None:
        """Tell the gate: Zion is well where it answers what was asked, even with a refusal."""
        if answer.status == 429:
            await self._gate.report_result(turn, "busy", answer.retry_after_s or RETRY_AFTER_S)
        else:
            bad = answer.status in {0, 401, 403} or answer.status >= 500 if failed is None else failed
            await self._gate.report_result(turn, "failed" if bad else "ok")

    async def _finish(self, batch: Batch, report: increments.Increments, reasons: Mapping[int, str]) -> None:
        """Zion has all but what it refuses for good: acknowledge it, with patience, since it would be sent again otherwise."""
        refusals = increments.refusals(report, reasons)
        for tries_left in reversed(range(_ACKNOWLEDGE_TRIES)):
            try:
                if refusals:
                    await self._ledger.dead_letter(batch, refusals)
                else:
                    await self._ledger.ack_batch(batch)
                break
            except LedgerUnavailableError:
                if not tries_left:
                    raise
                await asyncio.sleep(_ACKNOWLEDGE_S)
        if refusals:
            metrics.DEAD_LETTERS.inc(len(refusals))
            _log.error("zion refuses increments for good", batch=batch.id, reasons=sorted(set(reasons.values())))
        metrics.REPORT_BATCHES["sent"] += 1
        metrics.REPORTED.inc(len(batch.items) - len(refusals))

    def _refused(self, answer: bytes, batch_id: str) -> dict[int, str]:
        try:
            return increments.refused(answer)
        except ValueError as error:
            # Zion said 200, so it has applied the batch: sending it again could count it twice.
            _log.error("zion's answer to a usage report cannot be read", batch=batch_id, error=str(error))
            return {}

    async def _postpone(self, batch: Batch, error: str, *, lost: bool) -> bool:
        metrics.REPORT_BATCHES["failed"] += 1
        _log.warning("usage report failed", batch=batch.id, items=len(batch.items), attempt=batch.attempts, error=error)
        await self._ledger.retry_batch(batch, int(self._retry_s * 1000 * random.uniform(0.9, 1.1)), lost=lost)
        return False


def _verdict(answer: Answer) -> str | None:
    """What a single increment's answer decides: "" for booked, a reason for refused, None for neither.

    A 404 in other words than Zion's own, or about the path itself, is no word on the increment: there is no such endpoint.
    """
    if answer.status == 200:
        return ""
    if answer.status not in _REFUSED_FOR_GOOD:
        return None
    words = increments.failure(answer.body)
    if answer.status == 404 and (words is None or "/usage/external/" in words):
        return None
    return f"status {answer.status}: {words or 'no reason'}"


def _described(answer: Answer) -> str:
    return f"status {answer.status}" if answer.status else "no answer"
