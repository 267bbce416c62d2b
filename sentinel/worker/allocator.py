"""The C library's allocator, told what it may keep. Fails by doing nothing, where it is not glibc's."""

import ctypes
from typing import Final

# mallopt(3). Without them glibc raises its bound to the largest block that was ever given back, up to 32 MiB: bodies would then
# be cut out of a heap that has gaps between what lives longer, grow by being copied, and be kept when they are forgotten.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 2**20
_KEPT_BYTES: Final = 8 * 2**20


def give_back_large_blocks() -> bool:
    """Let each block of a MiB or more be a mapping of its own, which grows without a copy and ends when it is given back.

    Whether the allocator takes it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
