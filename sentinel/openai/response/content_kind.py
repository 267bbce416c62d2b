"""What an answer is, told by its first bytes: a provider, or what stands before it, may label it as something else.

Never fails: what is neither JSON nor a stream of events is OTHER.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

from sentinel.openai.header_fields import Line


class Kind(Enum):
    """The value is the label that fits, b"" where none is known."""

    JSON = b"application/json"
    EVENTS = b"text/event-stream; charset=utf-8"
    OTHER = b""


_BOM: Final = b"\xef\xbb\xbf"
_BLANK_LINES: Final = re.compile(rb"\A(?:[ \t]*[\r\n])++")
# The fields of an event, and a comment (WHATWG HTML 9.2.6); a stream begins with one of them.
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


_BEGINS_OBJECT: Final = re.compile(rb'\s*\{\s*"')
# Of an object whose first member is no error: written out, so that it is told from one of which too little has come.
_NO_ERROR: Final = rb'(?:[^\s"]|"(?:[^e]|e[^r]|er[^r]|err[^o]|erro[^r]|error[^"]|error"\s*:\s*[^\s{"]))'
_BEGINS_USUAL: Final = re.compile(rb"\[|\{\s*" + _NO_ERROR)
_BEGINS_ERROR: Final = re.compile(rb'\{\s*"error"\s*:\s*[{"]')


# Whether JSON that begins so is no error, and nothing stands before it; no function of ours, since every answer is asked.
is_usual: Final = _BEGINS_USUAL.match


def errs(start: bytes) -> bool | None:
    """Whether JSON that begins with `start` is an error, as some gateways send it under a status of success.

    None where more of it is needed.
    """
    said = start.removeprefix(_BOM).lstrip()
    return True if _BEGINS_ERROR.match(said) else False if _BEGINS_USUAL.match(said) else None


def told(start: bytes) -> Kind | None:
    """The kind of the answer that begins with `start`, None where more of it is needed.

    A byte order mark and blank lines may stand before either, and any white space before JSON.
    """
    if _BOM.startswith(start):
        return None
    said = start.removeprefix(_BOM)
    line = _BLANK_LINES.sub(b"", said)
    if line.startswith(_FIELDS):
        return Kind.EVENTS
    text = said.lstrip(b" \t\r\n")
    if text.startswith((b"{", b"[")):
        return Kind.JSON
    if not text or any(field.startswith(line) for field in _FIELDS):
        return None
    return Kind.OTHER


def told_of_media(label: bytes, start: bytes) -> Kind | None:
    """The kind of an answer that may be anything, told by `start` where that can be nothing else; None where it can.

    What is labelled as media is; a transcript may begin with a bracket, and a note with a colon.
    """
    if label.startswith((b"audio/", b"image/", b"video/")):
        return None
    if start.startswith((b"data:", b"event:")):
        return Kind.EVENTS
    return Kind.JSON if _BEGINS_OBJECT.match(start) else None


def relabelled(headers: Sequence[Line], kind: Kind) -> tuple[Line, ...]:
    """`headers` with the content type of `kind`."""
    return (*(line for line in headers if line[0].lower() != b"content-type"), (b"content-type", kind.value))
