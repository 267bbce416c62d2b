"""Bills that could not be written down, in memory until they can be, or until Redis has taken them.

Never fails. Past `bills_max` the oldest is dropped with an error: the one way usage can be lost here.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from sentinel.journal.segment import Place, Receipt, read_entry
from sentinel.ops.logs import Log
from sentinel.ops.records import Entry

_log: Final = Log("journal")

_AT_ONCE: Final = 256


class Unwritten:
    """Such bills and their receipts, oldest first, as a Place."""

    def __init__(self, bills_max: int) -> None:
        self._bills_max = bills_max
        self._bills: dict[int, tuple[bytes, Receipt]] = {}
        self._waiting: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        return len(self._bills)

    @property
    def waiting(self) -> int:
        """Bills that Redis has not taken when it was asked."""
        return len(self._waiting)

    def keep(self, line: bytes) -> Receipt:
        """One more, as it is to be written."""
        self._count += 1
        receipt = Receipt(self, self._count)
        self._bills[self._count] = line, receipt
        if len(self._bills) > self._bills_max:
            lost = next(iter(self._bills))
            _log.error("settlement lost: too many wait for redis", request_id=read_entry(self._bills[lost][0]).request_id)
            self.take(lost, 0.0)
        return receipt

    def lines(self, most: int) -> list[bytes]:
        """The oldest, so many at most."""
        return [line for line, _ in islice(self._bills.values(), most)]

    def move(self, place: Place, position: int) -> None:
        """The oldest stands there now."""
        oldest = next(iter(self._bills))
        _, receipt = self._bills.pop(oldest)
        receipt.place, receipt.position = place, position
        if oldest in self._waiting:
            self._waiting.discard(oldest)
            place.wait(position)

    def take(self, position: int, _now_s: float) -> None:
        """See Place."""
        self._bills.pop(position, None)
        self._waiting.discard(position)

    def wait(self, position: int) -> None:
        """See Place."""
        if position in self._bills:
            self._waiting.add(position)

    def told(self) -> Iterator[list[tuple[Entry, Receipt]]]:
        """The bills that are to be told again, some at a time."""
        waiting = [self._bills[position] for position in sorted(self._waiting)]
        for at in range(0, len(waiting), _AT_ONCE):
            yield [(read_entry(line), receipt) for line, receipt in waiting[at : at + _AT_ONCE]]
