"""A long piece of JSON in little memory, while it passes: base64 shortened, and of all else as much as fits. Cannot fail.

Images are most of what is long, so that what is kept is the whole for whoever looks for usage or text in it. Only where more
than that is long, its two ends are kept, and what is between them is unread.
"""

from collections import deque
from typing import Final

from sentinel.openai.tokens.base64_text import is_signs

# Looked at in blocks, that lie the same way however the bytes were cut.
_BLOCK_BYTES: Final = 4096
# Of base64, so that it is still known for what it is.
_RUN_BLOCKS_MAX: Final = 16
START_BYTES_MAX: Final = 64 << 10
# What is looked at in one go: about 3 ms, and more than is read meanwhile.
_SLICE_BYTES: Final = 256 << 10
_SLICES_AT_ONCE: Final = 2
END_BYTES_MAX: Final = 16 << 10


class Abridged:
    """Bytes go in by `add`; `whole` is what is left of all of them, None where that is more than `bytes_max` (at least 64 KiB).

    Then `start` and `end` are its two ends.
    """

    __slots__ = ("_bytes_max", "_kept", "_kept_bytes", "_rest", "_run_blocks", "_tail", "_waiting")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = max(bytes_max, START_BYTES_MAX)
        self._kept = bytearray()
        self._tail: bytes | None = None
        self._waiting: deque[bytes] = deque()
        self._rest = b""
        self._run_blocks = 0
        self._kept_bytes = 0

    def add(self, chunk: bytes) -> None:
        """The next bytes. What comes at once is looked at bit by bit, so that nobody waits for it."""
        self._waiting.extend(chunk[at : at + _SLICE_BYTES] for at in range(0, len(chunk), _SLICE_BYTES))
        for _ in range(min(len(self._waiting), _SLICES_AT_ONCE)):
            self._look(self._waiting.popleft())

    def _look_all(self) -> None:
        while self._waiting:
            self._look(self._waiting.popleft())

    def _look(self, chunk: bytes) -> None:
        looked = self._rest + chunk
        at = 0
        while self._tail is None and at + _BLOCK_BYTES <= len(looked):
            block = looked[at : at + _BLOCK_BYTES]
            at += _BLOCK_BYTES
            # A block that ends within an escape has a sign too many, so that none is ever parted.
            self._run_blocks = self._run_blocks + 1 if is_signs(block) else 0
            if self._run_blocks <= _RUN_BLOCKS_MAX:
                self._keep(block)
        self._rest = looked[at:]
        if self._tail is not None:
            # It is too long in any case: nothing is looked at any more, only its end is kept.
            self._kept_bytes += len(self._rest)
            self._tail = (self._tail + self._rest)[-END_BYTES_MAX:]
            self._rest = b""

    @property
    def words_bytes(self) -> int:
        """Its length without the base64 that was left out before it was too long."""
        self._look_all()
        return self._kept_bytes + len(self._rest)

    @property
    def whole(self) -> bytes | None:
        """All of it, abridged."""
        self._look_all()
        if self._tail is not None or len(self._kept) + len(self._rest) > self._bytes_max:
            return None
        return bytes(self._kept) + self._rest

    @property
    def start(self) -> bytes:
        """Its beginning."""
        self._look_all()
        kept = bytes(self._kept[:START_BYTES_MAX])
        return kept if self._tail is not None else (kept + self._rest)[:START_BYTES_MAX]

    @property
    def end(self) -> bytes:
        """Its end."""
        self._look_all()
        tail = bytes(self._kept[-END_BYTES_MAX:]) if self._tail is None else self._tail
        return (tail + self._rest)[-END_BYTES_MAX:]

    def _keep(self, block: bytes) -> None:
        self._kept_bytes += len(block)
        self._kept += block
        if len(self._kept) > self._bytes_max:
            self._tail = bytes(self._kept[-END_BYTES_MAX:])
            del self._kept[START_BYTES_MAX:]


def abridged(text: bytes) -> bytes:
    """`text` with its base64 shortened."""
    if len(text) <= _RUN_BLOCKS_MAX * _BLOCK_BYTES:
        return text
    shorter = Abridged(len(text))
    shorter.add(text)
    return shorter.whole or text
