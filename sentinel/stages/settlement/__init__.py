"""settlement.settle: the bill of a finished request, written to the ledger exactly once.

Always runs, whatever happened before. The provider's own usage wins; else the prompt's estimate and a local count of what was
produced are billed, marked with the reason. A bill stands in the journal before Redis is asked, and what Redis does not take is
told again from there (a duplicate changes nothing), as are the voids of requests that were refused.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from sentinel.journal import Journal, Receipt
from sentinel.ledger import Ledger, Settled
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import metrics
from sentinel.ops.errors import JournalFullError, LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import NO_TOKENS, NOTHING_PRODUCED, Bill, Call, Ending, Entry, Hold, Outcome, Produced
from sentinel.stages.settlement.tick import Tick

_log: Final = Log("settlement")
_RETRY_S: Final = 1.0
_JOURNAL_RETRY_S: Final = 5.0
# At the end, for a Redis that is away for a moment only.
_LAST_TRIES: Final = 8
_LAST_TRY_S: Final = 0.25
# Told again at a time: each of these calls has the deadline of a live one, and live ones travel with them.
_AT_ONCE: Final = 32
_INLINE_CHARACTERS_MAX: Final = 16_384
# What could not be read of an answer is charged by the hold from here on; less of it is no answer that anybody would read.
_UNREAD_BYTES_MIN: Final = 1 << 20


class Settlement:
    """Writes bills. `open` starts the second tries, `close` makes the last ones.

    `report` is told what a partition has to report by then.
    """

    def __init__(self, ledger: Ledger, journal: Journal, tokenizer: Tokenizer, report: Callable[[Settled], None]) -> None:
        self._ledger = ledger
        self.journal = journal
        # The request goes to the provider: from now on its end is owed, whatever becomes of this process.
        self.start = journal.started
        self._tokenizer = tokenizer
        self._report = report
        self._tick = Tick(ledger, journal, self._write, report)
        self._retries: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to try waiting settlements again, once a second."""
        self._retries = asyncio.create_task(self._try_again())

    async def close(self) -> None:
        """Try what waits a little longer; the journal keeps what Redis still does not take."""
        if self._retries is not None:
            self._retries.cancel()
            await asyncio.wait([self._retries])
        await self._tick.settled()
        await self._tell()
        for _ in range(_LAST_TRIES):
            if self.journal.waiting:
                await asyncio.sleep(_LAST_TRY_S)
                await self._tell()

    def no_journal(self) -> JournalFullError:
        """Why new work is refused where the journal `refuses` it: nobody could tell of it after a crash."""
        return JournalFullError("This gateway cannot keep its records right now.", retry_after_s=_JOURNAL_RETRY_S)

    def usual(self, hold: Hold, outcome: Outcome) -> Bill | None:
        """The bill of an answer that ended well, with the provider's own figures, of a request that Redis holds; it is settled
        with all others of this tick. None where `settle` is to look.
        """
        usage = outcome.usage
        if usage is None or not usage.input_tokens or usage.derived or hold.degraded:
            return None
        if outcome.ending is not Ending.SUCCESS or not outcome.started or outcome.produced is not NOTHING_PRODUCED:
            return None
        bill = Bill(1, usage.input_tokens, usage.output_tokens)
        _billed.add((hold.input_tokens, bill))
        self._tick.end(hold, bill)
        return bill

    async def settle(self, hold: Hold, call: Call, outcome: Outcome) -> Bill:
        """The bill, when it is in the ledger, or waits for Redis to come back."""
        bill = await self._bill(hold, call, outcome)
        _billed.add((hold.input_tokens, bill))
        receipt = self.journal.settled(hold, bill)  # Redis is asked when the journal has it
        await self._write(hold, bill, receipt)
        return bill

    async def _write(self, hold: Hold, bill: Bill, receipt: Receipt) -> None:
        """Tell the ledger one bill that the journal has."""
        settled = None
        try:
            told = await self._ledger.settle(hold, bill, blind=bool(hold.degraded))
            settled = told if told.why != "unknown" else await self._write_blind(hold, bill)
        except LedgerUnavailableError:
            _log.debug("settlement waits for redis", request_id=hold.request_id)
        finally:
            if settled is not None:
                self.journal.take(receipt)
            else:
                self.journal.wait(receipt)
                self._show()
        if settled is not None:
            self._report(settled)

    async def _write_blind(self, hold: Hold, bill: Bill) -> Settled:
        _log.warning("redis has lost a hold", request_id=hold.request_id)
        return await self._ledger.settle(hold, bill, blind=True)

    async def _bill(self, hold: Hold, call: Call, outcome: Outcome) -> Bill:
        """The bill of whatever has ended."""
        produced, ending = outcome.produced, outcome.ending
        usage = outcome.usage or produced.usage
        if not outcome.started:
            return Bill(0, 0, 0)
        if outcome.unseen:
            return await self._unseen(hold, call, outcome)
        if usage is None and call.prompt is None:
            return Bill(1, 0, 0)
        if ending is Ending.UPSTREAM_ERROR or usage == NO_TOKENS:
            # What failed before it said anything has no other cost, and what is given again none.
            return Bill(1, usage.input_tokens, usage.output_tokens) if usage is not None else Bill(1, 0, 0)
        if usage is None:
            input_tokens, reason = hold.input_tokens, "no_usage"
            output_tokens = 0 if _echoes(call, produced) else await self._count(produced, call.model)
        else:
            # A provider that reports as it goes, and broke off after its last report; or one that left a side out.
            input_tokens = usage.input_tokens or hold.input_tokens
            output_tokens = 0 if usage.derived and not hold.output_tokens else usage.output_tokens
            if (outcome.usage is not None or not output_tokens) and not _echoes(call, produced):
                output_tokens += await self._count(produced, call.model)
            if usage.total_tokens:
                # The prompt is known better than what was thought; but what was said is not less than it is.
                produces = hold.output_tokens > 0
                output_tokens = min(usage.total_tokens, max(output_tokens, usage.total_tokens - hold.input_tokens)) * produces
                input_tokens = usage.total_tokens - output_tokens
            estimated = usage.derived or (input_tokens, output_tokens) != (usage.input_tokens, usage.output_tokens)
            reason = "half_usage" if estimated else ""
        if reason and ending is not Ending.SUCCESS:
            reason = ending.value
        if produced.unread_bytes:
            reason = "unread"
            if produced.unread_bytes >= _UNREAD_BYTES_MIN:
                output_tokens = max(output_tokens, hold.output_tokens)
        return Bill(1, input_tokens, output_tokens, reason)

    async def _unseen(self, hold: Hold, call: Call, outcome: Outcome) -> Bill:
        """The bill of what nobody will ever see: what was held, or what is known of it where that is more."""
        usage = outcome.usage or NO_TOKENS
        counted = usage.output_tokens + await self._count(outcome.produced, call.model)
        return Bill(1, usage.input_tokens or hold.input_tokens, max(counted, hold.output_tokens), outcome.unseen)

    async def _count(self, produced: Produced, model: str) -> int:
        """Tokens of what was produced; long texts off the loop (rule K3)."""
        texts = produced.texts

        def count() -> int:
            return sum(self._tokenizer.text(text, model) for text in texts)

        long = sum(map(len, texts)) > _INLINE_CHARACTERS_MAX
        counted = await asyncio.to_thread(count) if long else count()
        return counted + produced.bytes_uncounted // 4 + produced.media_tokens

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._tell()
            except Exception as error:  # noqa: BLE001 - a defect met with one bill must not end the second tries of all others
                _log.error("defect", exception=error)

    async def _tell(self) -> None:
        """Tell the ledger what waits, until it is away again."""
        try:
            for told in self.journal.untold():
                for at in range(0, len(told), _AT_ONCE):
                    await self._tell_some(told[at : at + _AT_ONCE])
        except (LedgerUnavailableError, OSError) as error:
            _log.debug("settlements wait", error=str(error), count=self.journal.waiting)
        self._show()

    async def _tell_some(self, told: Sequence[tuple[Entry, Receipt]]) -> None:
        """Raises LedgerUnavailableError where none of them gets through: a single one may be what Redis cannot take."""
        answers = await asyncio.gather(*(self._ledger.replay(entry) for entry, _ in told), return_exceptions=True)
        for (_, receipt), answer in zip(told, answers, strict=True):
            if isinstance(answer, Settled):
                self.journal.take(receipt)
                metrics.REPLAYED["waiting"] += answer.applied
            elif not isinstance(answer, LedgerUnavailableError):
                raise answer
        failures = [answer for answer in answers if isinstance(answer, LedgerUnavailableError)]
        if len(failures) == len(told):
            raise failures[0]

    def _show(self) -> None:
        metrics.SETTLEMENTS_WAITING.set(self.journal.waiting)


def _echoes(call: Call, produced: Produced) -> bool:
    """Whether all that was said are the prompts of a completion (`echo`), which no model produced."""
    return bool(call.echoed and produced.texts) and all(hash(text) in call.echoed for text in produced.texts)


def _count(estimated_tokens: int, bill: Bill) -> None:
    """Count a bill, and how well the tokens of its input were estimated."""
    metrics.TOKENS["input"] += bill.input_tokens
    metrics.TOKENS["output"] += bill.output_tokens
    metrics.BILLS[bill.reason or ("provider" if bill.requests else "released")] += 1
    if bill.requests and not bill.reason and bill.input_tokens:
        metrics.ESTIMATE_RATIO.observe(estimated_tokens / bill.input_tokens)


_billed: Final = metrics.Rows(_count)
