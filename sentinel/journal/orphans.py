"""The journals that dead workers left: found by their free locks, read, and deleted once the ledger has everything.

Of several processes that look at once one gets the locks; if it dies in turn, the next one does. OSError where the
directory cannot be read.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sentinel.journal.seals import some
from sentinel.journal.segment import boot_of, entries, lock, remove
from sentinel.ops.records import Entry
from sentinel.zion.increments import Seal


class Orphan:
    """All files of one dead worker, locked until `delete`, `put_aside` or `release`."""

    def __init__(self, boot: str, files: dict[Path, int]) -> None:
        self.boot = boot
        self._files = files

    def tell(self) -> Iterator[list[Entry]]:
        """What it settled, some at a time, in the order in which it was written; at last what it started and never settled."""
        lost: dict[str, Entry] = {}
        for path in sorted(self._files):
            for told in entries(self._files[path], path.name):
                settled = [entry for entry in told if entry.kind == "settled"]
                for entry in told:
                    if entry.kind == "started":
                        lost[entry.request_id] = entry
                    else:
                        lost.pop(entry.request_id, None)
                if settled:
                    yield settled
        if lost:
            yield list(lost.values())

    def sealed(self) -> Iterator[list[Seal]]:
        """The batches it was about to report, some at a time."""
        for path in sorted(self._files):
            yield from some(self._files[path], path.name)

    def delete(self) -> None:
        """The ledger has everything."""
        for path in self._files:
            remove(path)
        self.release()

    def put_aside(self) -> None:
        """Keep the files for an operator, under names that nobody replays."""
        for path in self._files:
            path.rename(path.with_suffix(".late"))
        self.release()

    def release(self) -> None:
        """Leave the files to whoever comes next."""
        for file in self._files.values():
            os.close(file)
        self._files = {}


def adopt(directory: Path) -> Orphan | None:
    """The journal of one dead worker, or None where there is none. A process never gets what it has already."""
    boots: dict[str, list[Path]] = defaultdict(list)
    with suppress(FileNotFoundError, NotADirectoryError):
        for found in directory.iterdir():
            if boot := boot_of(found.name):
                boots[boot].append(found)
    for boot, paths in boots.items():
        if (files := _lock_all(paths)) is not None:
            return Orphan(boot, files)
    return None


def _lock_all(paths: list[Path]) -> dict[Path, int] | None:
    """Every file open and locked, or none."""
    files: dict[Path, int] = {}
    for path in paths:
        try:
            files[path] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            break  # somebody else has just finished with it, or the directory went away
        if not lock(files[path]):
            break
    else:
        return files
    for file in files.values():
        os.close(file)
    return None
