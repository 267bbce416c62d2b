"""leases: a hold outlives its worker only as long as its lease. Live requests renew theirs; what died is charged by a sweeper.

Fails safe both ways: a renewal that Redis does not take leaves the lease as it is (the hold is then charged by estimate, and
the late truth corrects it), and a sweep that fails is made again by any worker a moment later. A hold that cannot be read keeps
no other from being swept.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec import Struct

from sentinel.ledger import Ledger
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.logs import Log
from sentinel.ops.records import Hold

_log: Final = Log("leases")

# Renewed at a third of its length, so that two renewals may fail before it is over.
_RENEWALS: Final = 3
_SWEEPS: Final = 6
# Renewed together: so many times in the time after which each is due. Streams come one by one, and thousands of them would be a
# call to Redis and a look for the next one each.
_ROUNDS: Final = 80
# Renewals under way at once: enough for one pipeline, few enough not to fill it.
_BEATS_MAX: Final = 256


class Produced(Protocol):
    """What a meter shows of an answer that is still arriving."""

    @property
    def events(self) -> int:
        """Events so far; for a stream of tokens about one each."""


class Lease(Struct, eq=False):
    """The lease of one request: `watch` is given the meter of its answer, once there is one. `opening` waits for the answer of
    work that is asked to the end.
    """

    hold: Hold
    renew_at_s: float
    meter: Produced | None = None
    sent: bool = False
    opening: asyncio.Task[Any] | None = None

    def mark_sent(self) -> None:
        """From now on the provider may work for this request."""
        self.sent = True

    def mark_failed(self) -> None:
        """What it was sent has failed, and so cost nothing."""
        self.sent = False

    def watch(self, meter: Produced) -> None:
        """From now on the output so far is what `meter` shows."""
        self.meter = meter


class Leases:
    """Renews the leases of this worker's requests and sweeps those of dead ones. `now_s` is a monotonic clock."""

    def __init__(self, ledger: Ledger, *, lease_s: float, now_s: Callable[[], float] | None = None) -> None:
        self._ledger = ledger
        self._renewal_s = lease_s / _RENEWALS
        self._sweep_s = lease_s / _SWEEPS
        self._now_s = now_s or asyncio.get_running_loop().time
        # In the order in which they are due: a renewed lease goes to the end.
        self._live: dict[str, Lease] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to renew and to sweep."""
        self._tasks = [asyncio.create_task(self._renew_all()), asyncio.create_task(self._sweep_all())]

    async def close(self) -> None:
        """Stop both; what is still held then expires and is charged by another worker."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def take(self, hold: Hold) -> Lease:
        """The lease of an admitted request; give it back with `drop` before its bill is written."""
        lease = Lease(hold, self._now_s() + self._renewal_s)
        self._live[hold.request_id] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        """The request is over; twice is harmless."""
        self._live.pop(lease.hold.request_id, None)

    async def _renew_all(self) -> None:
        while True:
            first = next(iter(self._live.values()), None)
            wait_s = self._renewal_s if first is None else first.renew_at_s - self._now_s()
            if wait_s > 0:
                # A lease taken meanwhile is due later than this: none is missed.
                await asyncio.sleep(max(wait_s, self._renewal_s / _ROUNDS))
            else:
                await self._renew(self._due())

    def _due(self) -> list[Lease]:
        """The leases to be renewed now, moved to the end of the line."""
        now_s = self._now_s()
        due: list[Lease] = []
        for lease in self._live.values():
            if lease.renew_at_s > now_s or len(due) == _BEATS_MAX:
                break
            due.append(lease)
        for lease in due:
            del self._live[lease.hold.request_id]
            lease.renew_at_s = now_s + self._renewal_s
            self._live[lease.hold.request_id] = lease
        return due

    async def _renew(self, leases: list[Lease]) -> None:
        beats = [self._ledger.renew(lease.hold, 0 if lease.meter is None else lease.meter.events) for lease in leases]
        results = await asyncio.gather(*beats, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, LedgerUnavailableError):
                _log.error("defect", exception=failure)
        if failures:
            _log.warning("leases not renewed", failed=len(failures), of=len(leases))

    async def _sweep_all(self) -> None:
        while True:
            # Jittered, so that the workers of a fleet do not all look at once.
            await asyncio.sleep(self._sweep_s * random.uniform(0.5, 1.0))
            for partition in range(self._ledger.partitions):
                try:
                    await self._ledger.expire_holds(partition)
                except LedgerUnavailableError:
                    break
                except Exception as error:  # noqa: BLE001 - a defect met with one hold must not keep all others held
                    _log.error("defect", exception=error, partition=partition)
