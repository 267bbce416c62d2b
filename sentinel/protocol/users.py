"""Who used which model, as the ledger and the journal write it: JSON, made once for a caller and a model. Pure; cannot fail."""

from functools import lru_cache
from typing import Final

import msgspec

from sentinel.records import Caller

_CALLERS_MAX: Final = 4096
# A client may write any name; what is longer is not kept.
_MODEL_CHARACTERS_MAX: Final = 200

_encode: Final = msgspec.json.Encoder().encode


def who(caller: Caller, model: str) -> str:
    """`["<external id>","<e-mail>","<model>"]`. A lone surrogate, which UTF-8 cannot say, is written out."""
    if len(model) > _MODEL_CHARACTERS_MAX:
        return _written(caller.external_id, caller.email, model)
    return _kept(caller.external_id, caller.email, model)


def _written(*names: str) -> str:
    try:
        return _encode(names).decode()
    except UnicodeEncodeError:
        return _encode([name.encode("utf-8", "backslashreplace").decode() for name in names]).decode()


_kept: Final = lru_cache(_CALLERS_MAX)(_written)
