"""The end of a tick of the loop: what ended as usual in it is settled together, by one write to the journal, and then in Redis.

Redis is asked when the journal has the bills, and not before: a worker that is killed in between has them told by whoever comes
next. Never fails: what Redis does not take waits in the journal, and what has no hold any more is left to `otherwise`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from sentinel.journal import Journal, Receipt
from sentinel.ledger import Ledger, Settled, Together
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import Bill, Hold

_log: Final = Log("settlement")

_Ended = tuple[Hold, Bill]


class Tick:
    """Settles what ended in one tick. `otherwise` settles a request alone; `report` is told what a partition has to report."""

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        otherwise: Callable[[Hold, Bill, Receipt], Coroutine[Any, Any, object]],
        report: Callable[[Settled], None],
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._otherwise = otherwise
        self._report = report
        self._ended: list[_Ended] = []
        # Calls to Redis whose replies are not there, and requests that are settled alone.
        self._asked: set[Together] = set()
        self._alone: set[asyncio.Task[object]] = set()

    def end(self, hold: Hold, bill: Bill) -> None:
        """This request is over, and its bill of one request is the truth. Redis holds it."""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._settle)
        self._ended.append((hold, bill))

    async def settled(self) -> None:
        """Wait until all that has ended is settled, or waits in the journal."""
        while self._ended or self._asked or self._alone:
            asked = [together.call.reply for together in self._asked]
            if asked or self._alone:
                await asyncio.wait([*asked, *self._alone])
            await asyncio.sleep(0)  # a tick that is not over, or whose replies were not looked at

    def _settle(self) -> None:
        ended, self._ended = self._ended, []
        receipts = self._journal.settled_all(ended)
        for together in self._ledger.settle_all(ended):
            self._asked.add(together)
            together.call.reply.add_done_callback(partial(self._told, ended, receipts, together))

    def _told(self, ended: Sequence[_Ended], receipts: Sequence[Receipt], together: Together, _reply: object) -> None:
        self._asked.discard(together)
        settled = None
        try:
            left, settled = self._ledger.settled_all(together)
        except LedgerUnavailableError:
            _log.debug("settlements wait for redis", count=len(together.positions))
            return
        finally:
            if settled is None:
                for position in together.positions:
                    self._journal.wait(receipts[position])
        for position in together.positions:
            if position not in left:
                self._journal.take(receipts[position])
                continue
            task: asyncio.Task[object] = asyncio.create_task(self._otherwise(*ended[position], receipts[position]))
            self._alone.add(task)
            task.add_done_callback(self._alone.discard)
        if settled.applied:
            self._report(settled)
