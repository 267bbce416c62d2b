"""Chunks of a body (RFC 9112 §7.1) that came whole: the usual read of a stream, whose framing is taken off without a parser.

Never fails: whatever is not one whole chunk after the other, each of a plain size and none of them the last, is None, and left
to the parser (`upstream/http1/answer.py`), which takes all that is taken here and reads the same.
"""

import re
from typing import Final

# A size, without leading zeros, extensions or blanks.
_SIZE: Final = rb"([1-9A-Fa-f][0-9A-Fa-f]{0,6})\r\n"
_begins: Final = re.compile(_SIZE).match
# The size and the content of what is one whole chunk if its content is so long; no function of ours, since every read is asked.
one: Final = re.compile(_SIZE + rb"(.*)\r\n", re.DOTALL).fullmatch


def content(data: bytes) -> bytes | None:
    """What is in the chunks that `data` is, of which there must be one."""
    parts: list[bytes] = []
    at, size = 0, len(data)
    while at < size:
        begun = _begins(data, at)
        if begun is None:
            return None
        start = begun.end()
        end = start + int(begun[1], 16)
        if data[end : end + 2] != b"\r\n":
            return None
        parts.append(data[start:end])
        at = end + 2
    return b"".join(parts) or None
