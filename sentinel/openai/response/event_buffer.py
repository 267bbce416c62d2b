"""Raw events kept in little memory, in case a stream ends without usage (rule L4). Full is an answer, not a failure.

Events repeat their envelope, so a long stream is deflated a slice at a time, to a tenth or less; that is cheaper than to decode
it, and the slices are short enough not to be felt (0.1 ms). Most streams end before the first.
"""

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

# As much of an answer as is kept at all (rule L4).
BYTES_MAX: Final = 8 << 20

_RAW_BYTES_MAX: Final = 128 << 10
_SLICE_BYTES: Final = 32 << 10
_LEVEL: Final = 1


class EventBuffer:
    """Regions of whole events, up to `kept_bytes_max` as they lie in memory. Iterates from the oldest."""

    __slots__ = ("_deflated", "_deflated_bytes", "_kept_bytes_max", "_raw", "_raw_bytes")

    def __init__(self, kept_bytes_max: int) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._raw: deque[bytes] = deque()
        self._raw_bytes = 0
        self._deflated: list[bytes] = []
        self._deflated_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        return chain(map(zlib.decompress, self._deflated), self._raw)

    def newest_first(self) -> Iterator[bytes]:
        """The regions from the last to the first; the deflated ones come joined."""
        return chain(reversed(self._raw), map(zlib.decompress, reversed(self._deflated)))

    def add(self, regions: Sequence[bytes], size_bytes: int) -> bool:
        """Keeps `regions`, which are `size_bytes` long in all; False, and none of them, where there is no room."""
        raw_bytes = self._raw_bytes + size_bytes
        if raw_bytes + self._deflated_bytes > self._kept_bytes_max:
            return False
        self._raw.extend(regions)
        self._raw_bytes = raw_bytes
        while self._raw_bytes > _RAW_BYTES_MAX:
            self._deflate()
        return True

    def clear(self) -> None:
        """Forgets everything."""
        self._raw.clear()
        self._deflated.clear()
        self._raw_bytes = self._deflated_bytes = 0

    def _deflate(self) -> None:
        oldest = []
        slice_bytes = 0
        while slice_bytes < _SLICE_BYTES and self._raw:
            oldest.append(self._raw.popleft())
            slice_bytes += len(oldest[-1])
        self._raw_bytes -= slice_bytes
        deflated = zlib.compress(b"".join(oldest), _LEVEL)
        self._deflated.append(deflated)
        self._deflated_bytes += len(deflated)
