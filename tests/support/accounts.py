"""An account as it lies in Redis (sentinel/ledger/scripts/_account.lua), for tests that look at it without the scripts."""

import struct
from typing import Final

_METRICS: Final = ("input", "output", "requests")
_read: Final = struct.Struct("<4d24d").unpack_from


def read_account(packed: bytes) -> dict[str, list[int]]:
    """By metric: limit, base, settled, acknowledged, held, start and end of the period, since when settled counts."""
    figures = [int(figure) for figure in _read(packed)[4:]]
    return {metric: figures[at : at + 8] for metric, at in zip(_METRICS, (0, 8, 16), strict=True)}
