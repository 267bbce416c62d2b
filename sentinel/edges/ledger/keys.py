"""Where things lie in the ledger: the names of its Redis keys (docs/limits.md). Pure; cannot fail.

All keys of a partition have one hash tag, so that a script's keys lie in one slot of a Redis Cluster.
"""

import zlib
from typing import Final

# Sub-buckets of a sliding window: a change makes every window start anew.
WINDOW_BUCKETS: Final = 10


def partition_of(external_id: str, partitions: int) -> int:
    """Where the account of a caller lies; the same on every host."""
    return zlib.crc32(external_id.encode("utf-8", "backslashreplace")) % partitions


def key(kind: str, partition: int, name: str = "") -> str:
    """The key of a `kind` (q, w, r, z, d, a, b, s, x, …) in a partition, of one caller or request where it has a `name`."""
    return f"{kind}:{{s{partition:02d}}}:{name}" if name else f"{kind}:{{s{partition:02d}}}"
