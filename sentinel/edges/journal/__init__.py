"""The journal of one worker: what it started and what it settled, in an append-only file that survives kill -9.

The lines of one tick of the loop are written at its end, with one write, so that the page cache has them before Redis is asked.
Fails loudly, never the request at hand: a full or unwritable disk is an error in the log, a metric, and `state`; what is
settled then is not journalled (`settled` gives None, `wait` False), and `refuses` says whether new work is turned away.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from sentinel import metrics
from sentinel.edges.journal.orphans import Orphan, adopt
from sentinel.edges.journal.segment import Receipt, Segment, create, entries, size
from sentinel.logs import Log
from sentinel.protocol.users import who
from sentinel.records import Bill, Entry, Hold

__all__ = ["Journal", "Orphan", "Receipt"]

_log: Final = Log("journal")

_SEGMENT_BYTES_MAX: Final = 4 * 2**20
_SEGMENTS_MIN: Final = 16
# A file of a quiet worker holds minutes, not days: whoever adopts it has little to tell again.
_SEGMENT_S: Final = 300.0
# From here on space is worth more than a second telling of what Redis has taken.
_TIGHT: Final = 0.6
_ALARM: Final = 0.8
# The rest is for the bills of what already runs.
_REFUSE: Final = 0.95


class Journal:
    """Append-only files of `boot` in `directory`, which all workers of a host share, bounded to `bytes_max` together.

    `keep_s`: how long a bill stays after Redis has taken it, above what Redis loses when it dies. `now_s` is a monotonic clock,
    `now_ms` Unix time; `at_end_of_tick` calls a function when everything else of this tick is done.
    """

    def __init__(
        self,
        directory: Path,
        boot: str,
        *,
        bytes_max: int,
        keep_s: float,
        refuse_when_full: bool,
        now_s: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        at_end_of_tick: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        self.directory = directory
        self.state = "ok"
        self.keep_s = keep_s
        self._boot = boot
        self._bytes_max = bytes_max
        self._segment_bytes_max = min(_SEGMENT_BYTES_MAX, bytes_max // _SEGMENTS_MIN)
        self._refuse_when_full = refuse_when_full
        self._now_s = now_s
        self.now_ms = now_ms
        self._at_end_of_tick = at_end_of_tick or asyncio.get_running_loop().call_soon
        self._segments: list[Segment] = []
        self._current: Segment | None = None
        self._number = 0
        self._buffer = bytearray()
        self._buffer_bills = 0
        self._own_bytes = 0
        self._others_bytes = 0
        self._room = 0
        # Until when Redis is known to have kept what it took; what it took later may still be lost.
        self._safe_s = 0.0
        # What runs: the started line of each request, and where it stands.
        self._running: dict[str, tuple[Segment, bytes]] = {}

    @property
    def refuses(self) -> bool:
        """Whether new work is to be turned away, because nobody could tell of it after a crash."""
        return self._refuse_when_full and (self._current is None or self.bytes_used > _REFUSE * self._bytes_max)

    @property
    def bytes_used(self) -> int:
        """What all journals of this directory take, those of others as of the last `tend`."""
        return self._others_bytes + self._own_bytes + len(self._buffer)

    @property
    def waiting(self) -> int:
        """Bills that Redis has not taken when it was asked."""
        return sum(segment.waiting for segment in self._segments)

    def open(self) -> None:
        """Begin to write. A disk that cannot be written is tried again by `tend`."""
        self.tend()

    def started(self, hold: Hold) -> None:
        """A request goes to the provider."""
        line = self._line("started", hold, hold.input_tokens, 0, 1)
        segment = self._append(line)
        if segment is not None:
            self._running[hold.request_id] = (segment, line)

    def settled(self, hold: Hold, bill: Bill) -> Receipt | None:
        """A request is over, and this is its bill; None where it cannot be written down."""
        segment = self._append(self._line("settled", hold, bill.input_tokens, bill.output_tokens, bill.requests))
        self._running.pop(hold.request_id, None)
        if segment is None:
            return None
        self._buffer_bills += 1
        return Receipt(segment, segment.append())

    def take(self, receipt: Receipt) -> None:
        """Redis has taken the bill."""
        receipt.segment.take(receipt.position, self._now_s())

    def wait(self, receipt: Receipt) -> bool:
        """Redis has not taken the bill: whether it stands here and will be among `untold`."""
        self.flush()
        return receipt.segment.wait(receipt.position)

    def untold(self) -> Iterator[list[tuple[Entry, Receipt]]]:
        """The bills that wait for Redis, some at a time; `take` each that Redis has taken."""
        for segment in [segment for segment in self._segments if segment.waiting]:
            position = 0
            for told in entries(segment.path):
                found: list[tuple[Entry, Receipt]] = []
                for entry in told:
                    if entry.kind == "settled":
                        if segment.waits(position):
                            found.append((entry, Receipt(segment, position)))
                        position += 1
                if found:
                    yield found

    def settled_since(self, since_ms: int) -> Iterator[list[Entry]]:
        """All bills written since then (Unix ms), some at a time."""
        self.flush()
        for segment in list(self._segments):
            for told in entries(segment.path):
                if found := [entry for entry in told if entry.kind == "settled" and entry.at_ms >= since_ms]:
                    yield found

    def adopt(self) -> Orphan | None:
        """The journal of a worker that is dead, or None."""
        return adopt(self.directory)

    def flush(self) -> None:
        """Write what this tick has gathered. What the disk does not take is not in the journal."""
        segment, lines, bills = self._current, bytes(self._buffer), self._buffer_bills
        self._buffer.clear()
        self._buffer_bills = 0
        if segment is None or not lines:
            return
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(segment.file, left) :]
        except OSError as error:
            segment.forget(segment.bills - bills)
            self._fail(error)
        else:
            segment.bytes += len(lines)
            self._own_bytes += len(lines)

    def confirm(self) -> None:
        """The run of Redis that took the bills still answers: those that are old enough need not be told again."""
        self._safe_s = self._now_s() - self.keep_s

    def tend(self) -> None:
        """Once a second: delete what nobody needs, begin a new file in time, try a disk that failed, show how full it is."""
        self.flush()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            current = self._current
            if current is None or (current.bytes and self._now_s() - current.opened_at_s > _SEGMENT_S):
                self._begin()
            own = {segment.path.name for segment in self._segments}
            with os.scandir(self.directory) as found:
                self._others_bytes = sum(size(entry) for entry in found if entry.name not in own)
            for segment in list(self._segments):
                if self._deletable(segment):
                    self._delete(segment)
        except OSError as error:
            self._fail(error)
        self._measure()
        if self._current is not None:
            self._note("full" if self.bytes_used > _REFUSE * self._bytes_max else "ok")
        metrics.JOURNAL_BYTES.set(self.bytes_used)
        metrics.JOURNAL_ALARM.set(self._current is None or self.bytes_used > _ALARM * self._bytes_max)

    def close(self) -> None:
        """Give up the files: what is still needed of them is adopted by whoever lives."""
        self.tend()
        for segment in self._segments:
            if not segment.bytes:
                segment.path.unlink(missing_ok=True)
            os.close(segment.file)
        self._segments, self._own_bytes, self._room, self._current = [], 0, 0, None

    def _line(self, kind: str, hold: Hold, input_tokens: int, output_tokens: int, requests: int) -> bytes:
        """An Entry as JSON. A request id is the gateway's own, and has nothing in it to escape."""
        names = who(hold.caller, hold.model)[1:-1]
        amounts = f"{input_tokens},{output_tokens},{requests}"
        return f'["{kind}",{self.now_ms()},"{hold.request_id}",{names},{amounts}]\n'.encode()

    def _append(self, line: bytes) -> Segment | None:
        """The file that gets the line at the end of this tick; None where there is none, or no room."""
        if len(line) > self._room and not self._make_room(len(line)):
            return None
        self._room -= len(line)
        if not self._buffer:
            self._at_end_of_tick(self.flush)
        self._buffer += line
        return self._current

    def _make_room(self, size: int) -> bool:
        """Whether a line of `size` bytes can be taken, in a new file where this one is full."""
        if self.bytes_used + size > self._bytes_max:
            return False
        if self._current is not None and self._current.bytes + len(self._buffer) + size > self._segment_bytes_max:
            self._rotate()
        self._measure()
        return self._current is not None

    def _measure(self) -> None:
        """How many bytes may come before `_make_room` is asked; a flush changes nothing of that."""
        self._room = 0
        if self._current is not None:
            left = self._segment_bytes_max - self._current.bytes - len(self._buffer)
            self._room = min(left, self._bytes_max - self.bytes_used)

    def _rotate(self) -> None:
        self.flush()
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
        running = {name: line for name, (at, line) in self._running.items() if at is segment}
        for name, line in running.items():
            if (moved := self._append(line)) is None:
                return
            self._running[name] = (moved, line)
        self.flush()
        if self._current is None:
            return
        segment.path.unlink(missing_ok=True)
        os.close(segment.file)
        self._own_bytes -= segment.bytes
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
