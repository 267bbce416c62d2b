"""The journal of one worker: what it started, settled and is about to report, in an append-only file that survives kill -9.

All is written at once, so that the page cache has what is started before the provider is asked, and a bill before Redis is.
Fails loudly, never the request at hand: a full or unwritable disk is an error in the log, a metric, and `state`; bills wait in
memory then and are written first thing when it is well again, and `refuses` says whether new work is turned away.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Final

from sentinel.journal.orphans import Orphan, adopt
from sentinel.journal.seals import REFUSE, Seals
from sentinel.journal.segment import LINE, Receipt, Segment, batched, create, entries, remove, sizes_in
from sentinel.journal.unwritten import Unwritten
from sentinel.ledger.payer import who
from sentinel.ops import metrics
from sentinel.ops.logs import Log
from sentinel.ops.records import Bill, Entry, Hold

__all__ = ["Journal", "Orphan", "Receipt", "adopt"]

_log: Final = Log("journal")

_SEGMENT_BYTES_MAX: Final = 4 * 2**20
_SEGMENTS_MIN: Final = 16
# A file of a quiet worker holds minutes, not days: whoever adopts it has little to tell again.
_SEGMENT_S: Final = 300.0
# From here on space is worth more than a second telling of what Redis has taken.
_TIGHT: Final = 0.6
_ALARM: Final = 0.8
# Lines that are written together where many are.
_AT_ONCE: Final = 256


class Journal(Seals):
    """Append-only files of `boot` in `directory`, which all workers of a host share, bounded to `bytes_max` together.

    `keep_s`: how long a bill stays after Redis has taken it, above what Redis loses when it dies. `unwritten_max`: how many
    bills wait in memory while the disk takes none. `now_s` is a monotonic clock, `unix_s` Unix time.
    """

    def __init__(
        self,
        directory: Path,
        boot: str,
        *,
        bytes_max: int,
        keep_s: float,
        refuse_when_full: bool,
        unwritten_max: int = 100_000,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.state = "ok"
        self.keep_s = keep_s
        self._boot = boot
        self._bytes_max = bytes_max
        self._segment_bytes_max = min(_SEGMENT_BYTES_MAX, bytes_max // _SEGMENTS_MIN)
        self._refuse_when_full = refuse_when_full
        self._now_s = now_s
        self._unix_s = unix_s
        self._segments: list[Segment] = []
        self._current: Segment | None = None
        self._number = 0
        self._unwritten = Unwritten(unwritten_max)
        self._others_bytes = 0
        # How long the present file may get before `_make_room` is asked.
        self._full_bytes = 0
        # Whether new work is to be turned away, because nobody could tell of it after a crash.
        self.refuses = refuse_when_full
        # Until when Redis is known to have kept what it took; what it took later may still be lost.
        self._safe_s = 0.0
        # What runs: the started line of each request, and where it stands.
        self._running: dict[str, tuple[Segment, bytes]] = {}

    @property
    def bytes_used(self) -> int:
        """What all journals of this directory take, those of others as of the last `tend`."""
        return self._others_bytes + sum(segment.bytes for segment in self._segments)

    @property
    def waiting(self) -> int:
        """Bills that Redis has not taken when it was asked."""
        return self._unwritten.waiting + sum(segment.waiting for segment in self._segments)

    def now_ms(self) -> int:
        """Unix time, as lines are told by it."""
        return int(self._unix_s() * 1000)

    def started(self, hold: Hold) -> None:
        """A request is about to go to the provider: when this returns, that stands on the disk, if it can."""
        names = who(hold.caller, hold.model)[1:-1]
        line = (LINE % ("started", self._unix_s() * 1000, hold.request_id, names, hold.input_tokens, 0, 1)).encode()
        if (segment := self._write(line)) is not None:
            self._running[hold.request_id] = segment, line

    def settled(self, hold: Hold, bill: Bill) -> Receipt:
        """A request is over, and this is its bill, which stands on the disk when this returns, if it can; `take` it or let it
        `wait`.
        """
        return self.settled_all(((hold, bill),))[0]

    def settled_all(self, ended: Sequence[tuple[Hold, Bill]]) -> list[Receipt]:
        """The same of several, by one write; a receipt for each."""
        at_ms = self._unix_s() * 1000
        lines = []
        for hold, bill in ended:
            names = who(hold.caller, hold.model)[1:-1]
            amounts = bill.input_tokens, bill.output_tokens, bill.requests
            lines.append((LINE % ("settled", at_ms, hold.request_id, names, *amounts)).encode())
            self._running.pop(hold.request_id, None)
        if (segment := self._write(b"".join(lines))) is not None:
            return list(map(Receipt, repeat(segment), segment.append(len(lines))))
        if len(ended) > 1:
            return [self.settled(*one) for one in ended]  # there may be room for some
        return [self._unwritten.keep(lines[0])]

    def take(self, receipt: Receipt) -> None:
        """Redis has taken the bill."""
        receipt.place.take(receipt.position, self._now_s())

    def wait(self, receipt: Receipt) -> None:
        """Redis has not taken the bill: it will be among `untold`."""
        receipt.place.wait(receipt.position)

    def untold(self) -> Iterator[list[tuple[Entry, Receipt]]]:
        """The bills that wait for Redis, some at a time; `take` each that Redis has taken."""
        yield from self._unwritten.told()
        for segment in [segment for segment in self._segments if segment.waiting]:
            yield from segment.told()

    def settled_since(self, since_ms: int) -> Iterator[list[Entry]]:
        """All bills written since then (Unix ms), some at a time."""
        for segment in list(self._segments):
            for told in entries(segment.file, segment.path.name):
                if found := [entry for entry in told if entry.kind == "settled" and entry.at_ms >= since_ms]:
                    yield found

    def confirm(self) -> None:
        """The run of Redis that took the bills still answers: those that are old enough need not be told again."""
        self._safe_s = self._now_s() - self.keep_s

    def tend(self) -> None:
        """At the start and once a second: delete what nobody needs, begin a new file in time, try a disk that failed, write
        down what is in memory, show how full it is.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sizes = sizes_in(self.directory)
            self._others_bytes = sum(sizes.values()) - sum(sizes.get(segment.path.name, 0) for segment in self._segments)
            current = self._current
            # Gone from its directory, nobody would find it: that was moved away, or another one is mounted over it.
            gone = current is None or current.path.name not in sizes
            if current is None or gone or (current.bytes and self._now_s() - current.opened_at_s > _SEGMENT_S):
                self._begin()
            for segment in list(self._segments):
                if self._deletable(segment):
                    self._delete(segment)
            if self._unwritten:
                self._write_down()
        except OSError as error:
            self._fail(error)
        self._measure()
        if self._current is not None:
            self._note("full" if self.bytes_used > REFUSE * self._bytes_max else "ok")
        metrics.JOURNAL_BYTES.set(self.bytes_used)
        metrics.JOURNAL_ALARM.set(self._current is None or self.bytes_used > _ALARM * self._bytes_max)

    def close(self) -> None:
        """Give up the files: what is still needed of them is adopted by whoever lives. What never got there is lost."""
        self.tend()
        if self._unwritten:
            _log.error("settlements lost at shutdown", count=len(self._unwritten))
        for segment in self._segments:
            if not segment.bytes:
                remove(segment.path)
            os.close(segment.file)
        self._segments, self._current = [], None

    def _write_down(self) -> None:
        """What is in memory alone, oldest first, as far as there is room."""
        at_once = _AT_ONCE
        while lines := self._unwritten.lines(at_once):
            if (segment := self._write(b"".join(lines))) is not None:
                for position in segment.append(len(lines)):
                    self._unwritten.move(segment, position)
            elif at_once > 1:
                at_once = 1  # there may be room for some
            else:
                return

    def _write(self, lines: bytes) -> Segment | None:
        """The file that has all of it now; None where there is none, no room, or where it failed."""
        size = len(lines)
        segment = self._current
        if segment is None or segment.bytes + size > self._full_bytes:
            segment = self._make_room(size)
            if segment is None:
                return None
        try:
            taken = os.write(segment.file, lines)
            while taken < size:
                taken += os.write(segment.file, lines[taken:])
        except OSError as error:
            self._fail(error)
            return None
        segment.bytes += size
        return segment

    def _make_room(self, size: int) -> Segment | None:
        """The file that takes `size` bytes, a new one where this one is full; None where there is none, or no room."""
        if self.bytes_used + size > self._bytes_max:
            return None
        if self._current is not None and self._current.bytes + size > self._segment_bytes_max:
            self._rotate()
        self._measure()
        return self._current

    def _measure(self) -> None:
        """When `_make_room` is to be asked again, and whether new work is refused."""
        full = True
        if self._current is not None:
            used, refuse_bytes = self.bytes_used, int(REFUSE * self._bytes_max)
            full = used > refuse_bytes
            left = (self._bytes_max if full else refuse_bytes) - used
            self._full_bytes = min(self._segment_bytes_max, self._current.bytes + left)
        self.refuses = self._refuse_when_full and full

    def _rotate(self) -> None:
        try:
            self._begin()
        except OSError as error:
            self._fail(error)

    def _begin(self) -> None:
        """A new file; the last one stays until it can be deleted."""
        segment = None
        while segment is None:
            self._number += 1
            segment = create(self.directory, self._boot, self._number, self._now_s())
        self._segments.append(segment)
        self._current = segment
        self._measure()

    def _deletable(self, segment: Segment) -> bool:
        """Whether all its bills are taken, and so long ago that Redis cannot lose them; less long where space is short."""
        if segment is self._current or segment.open_bills:
            return False
        tight = self.bytes_used > _TIGHT * self._bytes_max
        return segment.taken_at_s <= self._safe_s + (self.keep_s if tight else 0)

    def _delete(self, segment: Segment) -> None:
        """Delete a file that has nothing left to tell but what still runs, which moves on: a long stream keeps no file."""
        running = [(name, line) for name, (at, line) in self._running.items() if at is segment]
        for some in batched(running, _AT_ONCE):
            if (moved := self._write(b"".join(line for _, line in some))) is None:
                return
            self._running |= {name: (moved, line) for name, line in some}
        remove(segment.path)
        os.close(segment.file)
        self._segments.remove(segment)

    def _fail(self, error: OSError) -> None:
        """Stop writing to a file that failed; its whole lines can still be read."""
        if self._current is not None:
            try:
                os.ftruncate(self._current.file, self._current.bytes)
            except OSError as second:
                _log.warning("the journal's last line stays torn", error=str(second))
            self._current = None
        self._measure()
        metrics.JOURNAL_ERRORS.inc()
        metrics.JOURNAL_ALARM.set(1)
        self._note(f"cannot be written: {error.strerror or error}")

    def _note(self, state: str) -> None:
        """Log when it fails and when it is well again, not every try in between."""
        if state != self.state:
            self.state = state
            if state == "ok":
                _log.info("the journal is written again")
            else:
                _log.error("the journal fails", state=state, refuses=self._refuse_when_full, directory=str(self.directory))
