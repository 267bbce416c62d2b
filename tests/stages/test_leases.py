"""stages.leases: renewals and sweeps go on, whatever one of them meets. A scripted ledger."""

import asyncio
from typing import cast

import pytest

from sentinel.ledger import Ledger
from sentinel.ops.errors import LedgerUnavailableError
from sentinel.ops.records import Caller, Hold, Remaining
from sentinel.stages.leases import Leases

FREE = Remaining(None, None, None)


class Fails:
    """A ledger of two partitions that fails for one request, and at the first sweep; it notes what it is asked."""

    partitions = 2

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self.beats: list[str] = []
        self.swept: list[int] = []

    async def renew(self, hold: Hold, _output_tokens: int) -> bool:
        self.beats.append(hold.request_id)
        if hold.request_id == "req_1":
            raise self._failure
        return True

    async def expire_holds(self, partition: int) -> int:
        self.swept.append(partition)
        if partition == 0 and self.swept.count(0) == 1:
            raise self._failure
        return 0


@pytest.mark.parametrize("failure", [ValueError("a hold that cannot be read"), LedgerUnavailableError("away")])
async def test_one_failure_ends_neither_renewals_nor_sweeps(failure: Exception) -> None:
    """A defect met with one hold is logged; all others are renewed and swept, again and again."""
    ledger = Fails(failure)
    leases = Leases(cast("Ledger", ledger), lease_s=0.03)
    for name in ("req_1", "req_2"):
        leases.take(Hold(name, Caller("ada", "a@b"), "m", 1, 1, FREE, FREE, FREE, FREE))
    leases.open()
    async with asyncio.timeout(10):
        while ledger.beats.count("req_2") < 3 or ledger.swept.count(1) < 3:
            await asyncio.sleep(0)
    await leases.close()
    assert ledger.beats.count("req_1") >= 3  # its own lease is renewed as well, as soon as that can be
    assert ledger.swept.count(0) >= 3
