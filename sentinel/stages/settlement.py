"""settlement.settle: the bill of a finished request, written to the ledger exactly once.

Always runs, whatever happened before. The provider's own usage wins; else the prompt's estimate and a local count of what was
produced are billed, marked with the reason. What Redis does not take now waits here and is tried again with the same request
id (a duplicate changes nothing); past `waiting_max` the oldest is dropped with an error, the one way usage can be lost here.
"""

import asyncio
from collections import deque
from typing import Final

from sentinel import metrics
from sentinel.edges.ledger import Ledger, Settled
from sentinel.errors import LedgerUnavailableError
from sentinel.logs import Log
from sentinel.protocol.tokens import Tokenizer
from sentinel.records import Bill, Call, Ending, Hold, Outcome

_log: Final = Log("settlement")
_RETRY_S: Final = 1.0
_INLINE_CHARACTERS_MAX: Final = 16_384


class Settlement:
    """Writes bills. `open` starts the second tries, `close` makes the last one."""

    def __init__(self, ledger: Ledger, tokenizer: Tokenizer, *, waiting_max: int = 100_000) -> None:
        self._ledger = ledger
        self._tokenizer = tokenizer
        self._waiting: deque[tuple[Hold, Bill]] = deque()
        self._waiting_max = waiting_max
        self._retries: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to try waiting settlements again, once a second."""
        self._retries = asyncio.create_task(self._try_again())

    async def close(self) -> None:
        """Try once more what waits; what Redis still does not take is named in an error."""
        if self._retries is not None:
            self._retries.cancel()
            await asyncio.wait([self._retries])
        await self._write_waiting()
        if self._waiting:
            _log.error("settlements lost at shutdown", count=len(self._waiting))

    async def settle(self, hold: Hold, call: Call, outcome: Outcome) -> tuple[Bill, Settled | None]:
        """The bill, and what the ledger said (None where it waits for Redis to come back)."""
        bill = await self._bill(hold, call, outcome)
        _count(hold, bill)
        try:
            return bill, await self._ledger.settle(hold, bill, blind=hold.local)
        except LedgerUnavailableError:
            self._waiting.append((hold, bill))
            if len(self._waiting) > self._waiting_max:
                lost, _ = self._waiting.popleft()
                _log.error("settlement lost: too many wait for redis", request_id=lost.request_id)
            metrics.SETTLEMENTS_WAITING.set(len(self._waiting))
            return bill, None

    async def _bill(self, hold: Hold, call: Call, outcome: Outcome) -> Bill:
        if not outcome.started:
            return Bill(0, 0, 0)
        usage = outcome.usage
        if usage is not None and (outcome.ending is Ending.SUCCESS or not outcome.produced):
            return Bill(1, usage.input_tokens, usage.output_tokens)
        if call.prompt is None or outcome.ending is Ending.UPSTREAM_ERROR:
            return Bill(1, 0, 0)
        output_tokens = await self._count(outcome, call.model)
        reason = "no_usage" if outcome.ending is Ending.SUCCESS else outcome.ending.value
        if usage is not None:
            # A provider that reports as it goes, and broke off after its last report.
            return Bill(1, usage.input_tokens, usage.output_tokens + output_tokens, reason)
        return Bill(1, hold.input_tokens, output_tokens, reason)

    async def _count(self, outcome: Outcome, model: str) -> int:
        """Tokens of what was produced; long texts off the loop (wire.md K3)."""

        def count() -> int:
            return sum(self._tokenizer.text(text, model) for text in outcome.produced)

        long = sum(map(len, outcome.produced)) > _INLINE_CHARACTERS_MAX
        counted = await asyncio.to_thread(count) if long else count()
        return counted + outcome.produced_bytes_uncounted // 4

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        while self._waiting:
            try:
                hold, bill = self._waiting[0]
                await self._ledger.settle(hold, bill, blind=hold.local)
            except LedgerUnavailableError:
                return
            self._waiting.popleft()
            metrics.SETTLEMENTS_WAITING.set(len(self._waiting))


def _count(hold: Hold, bill: Bill) -> None:
    metrics.TOKENS.labels("input").inc(bill.input_tokens)
    metrics.TOKENS.labels("output").inc(bill.output_tokens)
    metrics.BILLS.labels(bill.reason or ("provider" if bill.requests else "released")).inc()
    if bill.requests and not bill.reason and bill.input_tokens:
        metrics.ESTIMATE_RATIO.observe(hold.input_tokens / bill.input_tokens)
