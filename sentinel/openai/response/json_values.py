"""The JSON objects in a plain body that is not a single one: a list of them, lines of JSON, one that was cut off. Cannot fail.

A body is read as far as it can be; nothing is made of the rest.
"""

import json
import re
from typing import Any, Final

from sentinel.openai.response.json_completion import mended
from sentinel.openai.response.usage import decode

_lenient: Final = json.JSONDecoder(strict=False)
# Also what separates records (RFC 7464), and the zero byte that some servers add.
_BETWEEN: Final = re.compile("[\\s,\0\x1e\ufeff]*+")


def objects(body: bytes) -> tuple[list[dict[str, Any]], int]:
    """The objects in `body`, one that comes twice in a row once, and how many bytes were not read."""
    text, at, found = body.decode("utf-8-sig", "replace"), 0, list[dict[str, Any]]()
    while (between := _BETWEEN.match(text, at)) and (at := between.end()) < len(text):
        try:
            value, at = _lenient.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            part, unread_bytes = _part(text[at:], getattr(error, "pos", at) - at)
            return (found if part is None else [*found, part]), unread_bytes
        for fields in value if isinstance(value, list) else (value,):
            if isinstance(fields, dict) and fields not in found[-1:]:
                found.append(fields)
    return found, 0


def _part(rest: str, wrong_at: int) -> tuple[dict[str, Any] | None, int]:
    """The object that `rest` begins with: one that was cut off, or is wrong from `wrong_at` on; and how much is not read."""
    raw = rest.encode()
    if raw[:1] not in (b"{", b"["):
        return None, len(raw)
    cut = mended(raw)
    part = decode(cut if raw[:1] == b"{" else cut[1:-1])
    if part is not None:
        return part, 0
    before = rest[:wrong_at].encode()
    cut = mended(before)
    return decode(cut if raw[:1] == b"{" else cut[1:-1]), len(raw) - len(before)
