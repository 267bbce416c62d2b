"""One file of a journal: its name, its lock, its lines, and which of its bills Redis has taken.

A file is named `<boot>-<number>.jsonl` and locked (flock) for as long as the worker of that boot lives: a free lock means that
its worker is dead. A last line without its end was torn by that death and is not read. It is read by its open file, which stays
where its directory was moved away or unmounted. Raises OSError as the disk does.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from sentinel.ops.logs import Log
from sentinel.ops.records import Entry
from sentinel.zion.increments import Seal

_log: Final = Log("journal")

_NAME: Final = re.compile(r"([0-9a-f]{16})-[0-9]{6}\.jsonl")
_READ_BYTES: Final = 65_536
_PROBE: Final = b" " * 4096

Line = TypeVar("Line")

_IN_FLIGHT, _TAKEN, _WAITING = range(3)

# An Entry as a line of JSON: its names come as they are written there, without brackets. A request id is the gateway's own, and
# has nothing in it to escape.
LINE: Final = '["%s",%d,"%s",%s,%d,%d,%d]\n'

# Lines of JSON all begin so, as they are written here.
_SEALED: Final = b'["sealed"'

read_entry: Final = msgspec.json.Decoder(Entry).decode
_read_seal: Final = msgspec.json.Decoder(Seal).decode
write_seal: Final = msgspec.json.Encoder().encode


def boot_of(name: str) -> str:
    """The boot that a file belongs to, "" for a file that is not a journal's."""
    found = _NAME.fullmatch(name)
    return found[1] if found else ""


def lock(file: int) -> bool:
    """Whether the lock of an open file was free and its name is still there; it is held until `file` is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file).st_nlink > 0


def entries(file: int, name: str, entries_max: int = 256) -> Iterator[list[Entry]]:
    """What requests have cost, or may cost, in an open file, some at a time."""
    found = (_read(read_entry, line, name) for line in _lines(file) if line and not line.startswith(_SEALED))
    return batched((entry for entry in found if entry is not None), entries_max)


def batched(found: Iterable[Line], most: int) -> Iterator[list[Line]]:
    """The same in lists of so many at most."""
    rest = iter(found)
    while some := list(islice(rest, most)):
        yield some


def seals(file: int, name: str) -> Iterator[Seal]:
    """The batches that were about to be sent."""
    for line in _lines(file):
        if line.startswith(_SEALED) and (seal := _read(_read_seal, line, name)) is not None:
            yield seal


def _lines(file: int) -> Iterator[bytes]:
    """The whole lines of an open file."""
    rest = b""
    at = 0
    while read := os.pread(file, _READ_BYTES, at):
        at += len(read)
        *lines, rest = (rest + read).split(b"\n")
        yield from lines


def _read(read: Callable[[bytes], Line], line: bytes, name: str) -> Line | None:
    """A line that cannot be read is logged and passed over."""
    try:
        return read(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.error("line of the journal cannot be read", file=name, error=str(error))
        return None


class Place(Protocol):
    """Where bills stand, each known by its position."""

    def take(self, position: int, now_s: float) -> None:
        """Redis has taken this bill; twice is harmless."""

    def wait(self, position: int) -> None:
        """Redis has not taken this bill now: it is to be told again."""


class Receipt(msgspec.Struct, eq=False):
    """Where a bill stands."""

    place: Place
    position: int


class Segment:
    """A file that its own worker appends to. A bill is known by its position among the settled lines."""

    def __init__(self, path: Path, file: int, now_s: float) -> None:
        self.path = path
        self.file = file
        self.bytes = 0
        self.opened_at_s = now_s
        self.taken_at_s = now_s
        self.waiting = 0
        self._states = bytearray()

    @property
    def open_bills(self) -> int:
        """How many Redis has not taken."""
        return len(self._states) - self._states.count(_TAKEN)

    def append(self, bills: int) -> range:
        """The positions of so many more bills, which are on their way to Redis."""
        first = len(self._states)
        self._states += bytes(bills)  # all _IN_FLIGHT
        return range(first, first + bills)

    def take(self, position: int, now_s: float) -> None:
        """Redis has taken this bill; twice is harmless."""
        states = self._states
        if (state := states[position]) != _TAKEN:
            if state == _WAITING:
                self.waiting -= 1
            states[position] = _TAKEN
            self.taken_at_s = now_s

    def wait(self, position: int) -> None:
        """Redis has not taken this bill now: it is to be told again."""
        if self._states[position] == _IN_FLIGHT:
            self._states[position] = _WAITING
            self.waiting += 1

    def told(self) -> Iterator[list[tuple[Entry, Receipt]]]:
        """The bills that are to be told again, some at a time."""
        position = 0
        for read in entries(self.file, self.path.name):
            found: list[tuple[Entry, Receipt]] = []
            for entry in read:
                if entry.kind == "settled":
                    if self._states[position] == _WAITING:
                        found.append((entry, Receipt(self, position)))
                    position += 1
            if found:
                yield found


def remove(path: Path) -> None:
    """Delete a file, if it is there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def sizes_in(directory: Path) -> dict[str, int]:
    """The bytes of each file that is there, by name."""
    sizes = {}
    with os.scandir(directory) as found:
        for entry in found:
            with suppress(FileNotFoundError):
                sizes[entry.name] = entry.stat().st_size
    return sizes


def create(directory: Path, boot: str, number: int, now_s: float) -> Segment | None:
    """A new, locked, empty file for this boot; None where somebody took it in between. OSError where the disk is full."""
    path = directory / f"{boot}-{number:06d}.jsonl"
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if lock(file):
            # A full disk still makes files: only written bytes say that there is room.
            os.write(file, _PROBE)
            os.ftruncate(file, 0)
            return Segment(path, file, now_s)
    except OSError:
        path.unlink(missing_ok=True)
        os.close(file)
        raise
    os.close(file)
    return None
