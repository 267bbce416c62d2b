"""Bills that could not be written down, in memory until they can be, or until Redis has taken them.

Never fails. Past `bills_max` the oldest is dropped with an error: the one way usage can be lost here.
"""

from collections.abc import Iterator
from typing import Final

from sentinel.edges.journal.segment import Receipt, read_entry
from sentinel.logs import Log
from sentinel.records import Entry

_log: Final = Log("journal")

_AT_ONCE: Final = 256


class Unwritten:
    """The receipts of such bills, oldest first, as a Place."""

    def __init__(self, bills_max: int) -> None:
        self._bills_max = bills_max
        self._receipts: dict[int, Receipt] = {}
        self._waiting: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        return len(self._receipts)

    @property
    def waiting(self) -> int:
        """Bills that Redis has not taken when it was asked."""
        return len(self._waiting)

    @property
    def first(self) -> Receipt:
        """The oldest; there must be one."""
        return next(iter(self._receipts.values()))

    def keep(self, receipt: Receipt, *, waits: bool = False) -> None:
        """One more; `waits` where Redis has not taken it."""
        self._count += 1
        receipt.place, receipt.position = self, self._count
        self._receipts[self._count] = receipt
        if waits:
            self._waiting.add(self._count)
        if len(self._receipts) > self._bills_max:
            _log.error("settlement lost: too many wait for redis", request_id=read_entry(self.pop()[0].line).request_id)

    def pop(self) -> tuple[Receipt, bool]:
        """Take the oldest out: its receipt, and whether Redis has not taken it."""
        position = next(iter(self._receipts))
        receipt, waits = self._receipts.pop(position), position in self._waiting
        self._waiting.discard(position)
        return receipt, waits

    def take(self, position: int, _now_s: float) -> None:
        """See Place."""
        self._receipts.pop(position, None)
        self._waiting.discard(position)

    def wait(self, position: int) -> None:
        """See Place."""
        if position in self._receipts:
            self._waiting.add(position)

    def told(self) -> Iterator[list[tuple[Entry, Receipt]]]:
        """The bills that are to be told again, some at a time."""
        waiting = [self._receipts[position] for position in sorted(self._waiting)]
        for at in range(0, len(waiting), _AT_ONCE):
            yield [(read_entry(receipt.line), receipt) for receipt in waiting[at : at + _AT_ONCE]]
