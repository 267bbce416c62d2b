"""Who used which model, as the ledger and the journal write it: JSON, made once for a caller and a model. Pure; cannot fail."""

from functools import lru_cache
from typing import Final

import msgspec

from sentinel.ops.records import Caller

# Of a caller with a model, each kept with at most some 2 KiB: the name of a model has a bound (openai/request/formats.py).
_KEPT_MAX: Final = 16_384

_encode: Final = msgspec.json.Encoder().encode


@lru_cache(_KEPT_MAX)
def who(caller: Caller, model: str) -> str:
    """`["<external id>","<e-mail>","<model>"]`. A lone surrogate, which UTF-8 cannot say, is written out."""
    names = caller.external_id, caller.email, model
    try:
        return _encode(names).decode()
    except UnicodeEncodeError:
        return _encode([name.encode("utf-8", "backslashreplace").decode() for name in names]).decode()
