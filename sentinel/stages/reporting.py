"""reporting: unreported sums become batches to Zion, at 100 increments or 500 ms after the first, whichever is sooner.

Nothing is lost on a failure: sums and sealed batches live in Redis, a failed batch is sent again later with the same
bytes and the same idempotency key, by any worker. What Zion refuses for good is kept as a dead letter with its
reason. A slow scan finds what a dead worker left behind.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from sentinel import metrics
from sentinel.edges.ledger import Batch, Ledger, Settled
from sentinel.edges.zion import Zion
from sentinel.errors import LedgerUnavailableError, ZionUnavailableError
from sentinel.logs import Log
from sentinel.protocol import increments

_log: Final = Log("reporting")
_SCAN_S: Final = 5.0
_BATCHES_MAX: Final = 1000
_REFUSED_FOR_GOOD: Final = frozenset({400, 413, 422})


class Reporting:
    """Reports usage of this worker's partitions promptly, and of all partitions slowly."""

    def __init__(
        self,
        ledger: Ledger,
        zion: Zion,
        *,
        usage_format: str,
        items_max: int,
        interval_ms: int,
        retry_s: float,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._ledger = ledger
        self._zion = zion
        self._usage_format = usage_format
        self._items_max = items_max
        self._interval_s = interval_ms / 1000
        self._retry_s = retry_s
        self._now_s = now_s or asyncio.get_running_loop().time
        self._due: dict[int, float] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._loop: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to report."""
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Report what this worker has settled; what cannot be sent now stays in Redis for the next worker."""
        self._closing = True
        self._wake.set()
        if self._loop is not None:
            # Not cancelled: a report that is on its way is waited for, for as long as one call to Zion may take.
            await self._loop
        for partition in list(self._due):
            await self._report(partition)

    def report(self, partition: int, settled: Settled) -> None:
        """Take note that `partition` has unreported usage; it is sent in the background."""
        if settled.waiting >= self._items_max:
            self._due[partition] = 0.0
            self._wake.set()
        elif partition not in self._due:
            self._due[partition] = self._now_s() + self._interval_s
            self._wake.set()

    async def _run(self) -> None:
        # Spread over the workers, so that they do not all scan at once.
        scan_at = self._now_s() + random.uniform(0, _SCAN_S)
        while not self._closing:
            now_s = self._now_s()
            if now_s >= scan_at:
                scan_at = now_s + _SCAN_S
                for partition in range(self._ledger.partitions):
                    self._due.setdefault(partition, now_s)
            due = next((partition for partition, at in self._due.items() if at <= now_s), None)
            if due is None:
                await self._sleep(min([scan_at, *self._due.values()]) - now_s)
            else:
                del self._due[due]
                await self._report(due)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _report(self, partition: int) -> None:
        """Send batches of a partition until it is empty, or one fails."""
        try:
            for _ in range(_BATCHES_MAX):
                batch = await self._ledger.take(partition)
                if batch is None or not await self._send(batch):
                    return
        except LedgerUnavailableError:
            _log.warning("usage waits for redis", partition=partition)
        except Exception as error:  # noqa: BLE001 - a defect met with one batch must not end the reports of all others
            _log.error("defect", exception=error, partition=partition)

    async def _send(self, batch: Batch) -> bool:
        """Whether the batch is settled with Zion, one way or the other."""
        report = increments.build(batch.items, self._usage_format, batch.sealed_at_ms)
        try:
            answer = await self._zion.report(report.body, batch.id)
        except ZionUnavailableError as error:
            return await self._postpone(batch, error.message)
        if answer.status in _REFUSED_FOR_GOOD:
            # The same bytes would be refused again: kept for the operator, still counted against the caller.
            refused = dict.fromkeys(range(len(batch.items)), f"status {answer.status}")
        elif answer.status != 200:
            return await self._postpone(batch, f"status {answer.status}")
        else:
            refused = self._refused(report, answer.body, batch.id)
        if refused:
            metrics.DEAD_LETTERS.inc(len(refused))
            _log.error("zion refuses increments for good", batch=batch.id, reasons=sorted(set(refused.values())))
            await self._ledger.bury(batch, refused)
        else:
            await self._ledger.done(batch)
        metrics.REPORT_BATCHES.labels("sent").inc()
        metrics.REPORTED.inc(len(batch.items) - len(refused))
        return True

    def _refused(self, report: increments.Increments, answer: bytes, batch_id: str) -> dict[int, str]:
        try:
            return increments.refused(report, answer)
        except ValueError as error:
            # Zion said 200, so it has applied the batch: sending it again could count it twice.
            _log.error("zion's answer to a usage report cannot be read", batch=batch_id, error=str(error))
            return {}

    async def _postpone(self, batch: Batch, error: str) -> bool:
        metrics.REPORT_BATCHES.labels("failed").inc()
        _log.warning("usage report failed", batch=batch.id, items=len(batch.items), attempt=batch.attempts, error=error)
        await self._ledger.fail(batch, int(self._retry_s * 1000 * random.uniform(0.9, 1.1)))
        return False
