"""Where things lie in the ledger: the names of its Redis keys (docs/limits.md). Pure; cannot fail.

All keys of a partition have one hash tag, so that a script's keys lie in one slot of a Redis Cluster.
"""

import zlib
from functools import lru_cache
from typing import Final

# Above the callers whose tokens a worker remembers by default, so that as many in turn are found here too.
_CALLERS_MAX: Final = 16_384


def partition_of(external_id: str, partitions: int) -> int:
    """Where the account of a caller lies; the same on every host."""
    return zlib.crc32(external_id.encode("utf-8", "backslashreplace")) % partitions


def key(kind: str, partition: int, name: str = "") -> str:
    """The key of a `kind` (q, r, z, d, a, b, s, x, …) in a partition, of one caller or request where it has a `name`."""
    return f"{kind}:{{s{partition:02d}}}:{name}" if name else f"{kind}:{{s{partition:02d}}}"


class Partition:
    """The keys of a partition that every request asks for; what `tombstones` and `settled` begin with ends with the request."""

    __slots__ = ("deadlines", "holds", "number", "settled", "tombstones", "unreported")

    def __init__(self, number: int) -> None:
        self.number = number
        self.holds = key("r", number)
        self.deadlines = key("z", number)
        self.unreported = key("a", number)
        self.tombstones = key("d", number) + ":"
        self.settled = key("t", number) + ":"


class AccountKeys:
    """Where one caller's things lie: the account and its partition."""

    __slots__ = ("account", "partition")

    def __init__(self, account: str, partition: Partition) -> None:
        self.account = account
        self.partition = partition


@lru_cache(_CALLERS_MAX)
def account_keys(external_id: str, partitions: int) -> AccountKeys:
    """The seat of a caller, kept for those who asked lately."""
    number = partition_of(external_id, partitions)
    return AccountKeys(key("q", number, external_id), _partition(number))


_partition: Final = lru_cache(_CALLERS_MAX)(Partition)
