"""The files of a journal, read as anybody may who does not write them."""

import os
from pathlib import Path

from sentinel.journal.segment import entries
from sentinel.ops.records import Entry


def entries_of(path: Path) -> list[Entry]:
    """All whole lines of one file."""
    file = os.open(path, os.O_RDONLY)
    try:
        return [entry for told in entries(file, path.name) for entry in told]
    finally:
        os.close(file)
