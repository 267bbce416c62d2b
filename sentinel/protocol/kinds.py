"""What an answer is, told by its first bytes: a provider, or what stands before it, may label it as something else.

Never fails: what is neither JSON nor a stream of events is OTHER.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from sentinel.protocol.fields import Line


class Kind(Enum):
    """The value is the label that fits, b"" where none is known."""

    JSON = b"application/json"
    EVENTS = b"text/event-stream; charset=utf-8"
    OTHER = b""


_BOM: Final = b"\xef\xbb\xbf"
# The fields of an event, and a comment (WHATWG HTML 9.2.6); a stream begins with one of them.
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def told(start: bytes) -> Kind | None:
    """The kind of the answer that begins with `start`, None where more of it is needed.

    A byte order mark and empty lines may stand before either, and any white space before JSON.
    """
    if _BOM.startswith(start):
        return None
    said = start.removeprefix(_BOM)
    line = said.lstrip(b"\r\n")
    if line.startswith(_FIELDS):
        return Kind.EVENTS
    text = said.lstrip(b" \t\r\n")
    if text.startswith((b"{", b"[")):
        return Kind.JSON
    if not text or any(field.startswith(line) for field in _FIELDS):
        return None
    return Kind.OTHER


def relabelled(headers: Sequence[Line], kind: Kind) -> tuple[Line, ...]:
    """`headers` with the content type of `kind`."""
    return (*(line for line in headers if line[0].lower() != b"content-type"), (b"content-type", kind.value))
