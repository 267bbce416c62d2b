"""The seals in a journal: which batches were about to go to Zion. The half of Journal that reports use.

Fails silently: a batch whose seal the disk does not take goes to Zion all the same, and is only not safe from a Redis that
loses it at that moment. The journal itself is loud then.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final

from sentinel.journal.segment import Segment, batched, seals, write_seal
from sentinel.zion.increments import Seal

# The rest is for the bills of what already runs.
REFUSE: Final = 0.95
_AT_ONCE: Final = 32


class Seals(ABC):
    """What Journal does for reports; its parts are Journal's."""

    _bytes_max: int
    _segments: list[Segment]
    _now_s: Callable[[], float]

    def sealed(self, seal: Seal) -> bool:
        """A batch is about to go to Zion: whether that stands on the disk when this returns."""
        line = write_seal(seal) + b"\n"
        fits = self.bytes_used + len(line) <= REFUSE * self._bytes_max
        segment = self._write(line) if fits else None
        if segment is None:
            return False
        # Kept as long as a bill that Redis takes now.
        segment.taken_at_s = self._now_s()
        return True

    def sealed_since(self, since_ms: int) -> Iterator[list[Seal]]:
        """All seals written since then (Unix ms), some at a time."""
        for segment in list(self._segments):
            yield from some(segment.file, segment.path.name, since_ms)

    @property
    @abstractmethod
    def bytes_used(self) -> int:
        """What all journals of this directory take."""

    @abstractmethod
    def _write(self, lines: bytes) -> Segment | None:
        """The file that has it now."""


def some(file: int, name: str, since_ms: int = 0) -> Iterator[list[Seal]]:
    """The seals in an open file that were written since then (Unix ms), some at a time."""
    return batched((seal for seal in seals(file, name) if seal.at_ms >= since_ms), _AT_ONCE)
