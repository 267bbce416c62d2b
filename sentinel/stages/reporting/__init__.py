"""reporting: unreported sums become batches to Zion, at 100 increments or 500 ms after the first, whichever is sooner.

Nothing is lost on a failure: sums and sealed batches live in Redis, and any worker takes them from there; a slow scan finds
what a dead worker left behind. While the gate to Zion lets no report go, nothing new is sealed: usage waits as sums, which
grow with users and not with requests. What becomes of a batch is said in `delivery`.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Final

from sentinel.ledger import Ledger, Settled
from sentinel.ops import metrics
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.stages.reporting.delivery import Delivery

_log: Final = Log("reporting")
_SCAN_S: Final = 5.0
# Batches of one worker on their way at a time, each of another partition: a Zion that is slow to answer holds up no more.
_DELIVERIES_MAX: Final = 4


class Reporting:
    """Reports usage of this worker's partitions promptly, and of all partitions slowly."""

    def __init__(
        self,
        ledger: Ledger,
        delivery: Delivery,
        *,
        items_max: int,
        interval_ms: int,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._items_max = items_max
        self._interval_s = interval_ms / 1000
        self._now_s = now_s or asyncio.get_running_loop().time
        self._due: dict[int, float] = {}
        self._pause_until_s = float("-inf")
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._loop: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to report."""
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Report what this worker has settled; what cannot be sent now stays in Redis for the next worker."""
        self._closing = True
        self._delivery.close()
        self._wake.set()
        if self._loop is not None:
            # Not cancelled: a report that is on its way is waited for, for as long as one call to Zion may take.
            await self._loop
        if self._under_way:
            await asyncio.wait(self._under_way.values())
        if self._now_s() >= self._pause_until_s:
            for partition in list(self._due):
                await self._deliver(partition)

    def report(self, settled: Settled) -> None:
        """Take note that a partition has unreported usage; it is sent in the background."""
        partition = settled.partition
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
                await self._scan()
            start_at = self._start_due(self._now_s())
            await self._sleep(min(scan_at, start_at) - self._now_s())

    def _start_due(self, now_s: float) -> float:
        """Begin to deliver what is due and may be; when something more will be."""
        for partition, at in list(self._due.items()):
            if len(self._under_way) >= _DELIVERIES_MAX:
                return float("inf")  # one that ends wakes the loop
            if max(at, self._pause_until_s) <= now_s and partition not in self._under_way:
                del self._due[partition]
                self._under_way[partition] = asyncio.create_task(self._deliver(partition))
                self._under_way[partition].add_done_callback(partial(self._ended, partition))
        return min(
            (max(at, self._pause_until_s) for partition, at in self._due.items() if partition not in self._under_way),
            default=float("inf"),
        )

    def _ended(self, partition: int, _task: asyncio.Task[None]) -> None:
        del self._under_way[partition]
        self._wake.set()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _scan(self) -> None:
        """Look at all partitions: what waits there of whoever, for delivery and for the operator."""
        try:
            queues = await asyncio.gather(*(self._ledger.peek(partition) for partition in range(self._ledger.partitions)))
        except LedgerUnavailableError:
            return  # the pipeline says so, and the next scan looks again
        for partition, queue in enumerate(queues):
            if queue.ready or queue.wait_s:
                self._due.setdefault(partition, self._now_s() + (0.0 if queue.ready else queue.wait_s))
        metrics.REPORT_SUMS_WAITING.set(sum(queue.sums for queue in queues))
        metrics.REPORT_BATCHES_WAITING.set(sum(queue.batches for queue in queues))
        metrics.REPORT_OLDEST.set(max(queue.oldest_ms for queue in queues) / 1000)

    async def _deliver(self, partition: int) -> None:
        """Send what waits of a partition, and note when to come back for what could not go."""
        try:
            held_back = await self._delivery.deliver(partition)
        except LedgerUnavailableError:
            _log.warning("usage waits for redis", partition=partition)
        except Exception as error:  # noqa: BLE001 - a defect met with one batch must not end the reports of all others
            _log.error("defect", exception=error, partition=partition)
        else:
            # A longer wait than this is for the scan to end: what the partition has besides need not wait so long.
            if held_back is not None and (held_back.by_gate or held_back.wait_s < _SCAN_S):
                at = self._now_s() + held_back.wait_s
                self._due.setdefault(partition, at)
                if held_back.by_gate:
                    self._pause_until_s = max(self._pause_until_s, at)
