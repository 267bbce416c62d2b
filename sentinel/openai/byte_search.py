"""Long texts searched for fixed bytes: in linear time, and in slices, so that other threads get their turn. Cannot fail."""

from collections.abc import Iterator
from typing import Final

# Searched in a fraction of a millisecond; in shorter texts nobody need be thought of.
SLICE_BYTES: Final = 256 * 1024


def places(text: bytes, wanted: bytes, slice_bytes: int = SLICE_BYTES) -> Iterator[int]:
    """Where `wanted` begins in `text`, from the left, one behind the other."""
    start = 0
    while start < len(text):
        at = text.find(wanted, start, start + slice_bytes + len(wanted) - 1)
        if at < 0:
            start += slice_bytes
        else:
            yield at
            start = at + len(wanted)


def holds(text: bytes, wanted: bytes) -> bool:
    """Whether `wanted` is in `text`."""
    return next(places(text, wanted), None) is not None
