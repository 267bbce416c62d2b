"""A form taken apart into its parts (multipart/form-data: RFC 7578, RFC 2046 §5.1), in one pass over its bytes.

Fails closed: what two readers could take apart in two ways raises BadRequestError. So its boundary stands at the beginning of
lines only, each of which is a delimiter; all lines of delimiters and heads end in the same way, CRLF or LF; every part has one
Content-Disposition with a plain name, no folded line and no encoding of its own; and nothing stands before the first delimiter
or behind the last. That is how clients write forms. What is in a part is its own.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sentinel.ops.errors import BadRequestError

PARTS_MAX: Final = 1024
PART_HEAD_BYTES_MAX: Final = 16 * 1024
SLICE_BYTES: Final = 1024 * 1024  # other threads get their turn in between

# RFC 2046 §5.1.1. A blank at its end, or angle brackets around it, are no part of it to some readers.
_SIGNS: Final = rb"\w'()+,./:=?\-"
_BOUNDARY: Final = re.compile(
    rb'boundary[ \t]*+=[ \t]*+(?:"([%s](?:[%s ]{0,68}[%s])?)"|([%s]{1,70}))[ \t]*+(?:;|$)'
    % (_SIGNS, _SIGNS, _SIGNS, _SIGNS.replace(b",", b"")),
    re.IGNORECASE,
)
# What any reader could take for the place at which it stands; the word itself is part of the boundary of many a browser.
_BOUNDARY_SAID: Final = re.compile(rb"boundary[ \t]*+[=*]", re.IGNORECASE)
_ENCODED_WORD: Final = b"=?"  # RFC 2047: some readers decode it wherever it stands

# Who does not take it off finds the first delimiter no more, and no field that was not searched.
_BOM: Final = b"\xef\xbb\xbf"
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):([\t -~\x80-\xff]*+)")
_FORM_DATA: Final = re.compile(rb"[ \t]*+form-data[ \t]*+;", re.IGNORECASE)
# Wherever a reader could find the name: also in what others take for the text of another parameter.
_NAME: Final = re.compile(rb';[^\w;="]*+name(?!\w)([^;="]*+)=[^\w;"\[]*+"?+([^";]*+)', re.IGNORECASE)
# What some read otherwise than it is spelled.
_SPELLED_NAME: Final = re.compile(rb"[\\%]|=\?")
_NESTED: Final = re.compile(rb"[ \t]*+multipart", re.IGNORECASE)
# Any but those in which ids are spelled as in ASCII.
_CHARSET: Final = re.compile(
    rb"charset[^\w*=]*+(?:\*|=\W*+(?!(?:utf-?8|us-ascii|iso-8859-\d\d?|windows-125\d)(?![\w-])))", re.IGNORECASE
)
_PLAIN_ENCODINGS: Final = frozenset({b"binary", b"8bit", b"7bit"})
_CHARSET_FIELD: Final = "_charset_"  # RFC 7578 §4.6: it would change the encoding of all others


class Part(NamedTuple):
    """One part of a form: every name a reader could give it, its head, and where its content begins and ends in the body."""

    names: Sequence[str]
    head: bytes
    start: int
    end: int


def parts(body: bytes, content_type: bytes) -> Iterator[Part]:
    """The parts of the form `body`. Raises BadRequestError, maybe behind the last of them."""
    delimiter = b"--" + _boundary(content_type)
    at = _find(body, delimiter, 0)
    after = at + len(delimiter)
    line_end = b"\n" if body.startswith(b"\n", after) else b"\r\n"
    before = body[: max(at, 0)].removeprefix(_BOM)
    if at < 0 or before.strip(line_end) or (before and not before.endswith(line_end)):
        raise _refused("The form must begin with its boundary.")
    seen = 0
    while body.startswith(line_end, after):
        seen += 1
        if seen > PARTS_MAX:
            raise _refused(f"The form has too many parts: at most {PARTS_MAX} are read.")
        head_start = after + len(line_end)
        head_end = body.find(line_end * 2, head_start, head_start + PART_HEAD_BYTES_MAX)
        if head_end < 0:
            raise _refused("A part of the form has no end of its headers.")
        start = head_end + 2 * len(line_end)
        at = _find(body, delimiter, head_start)
        if at < start + len(line_end) or not body.startswith(line_end, at - len(line_end)):
            raise _refused("The boundary of the form must stand at the beginning of lines only, and at its end.")
        head = body[head_start:head_end]
        yield Part(_names(head.split(line_end)), head, start, at - len(line_end))
        after = at + len(delimiter)
    if not body.startswith(b"--", after) or body[after + 2 :].strip():
        raise _refused("The form must end with its boundary, and have nothing else in the lines of it.")


def _boundary(content_type: bytes) -> bytes:
    found = _BOUNDARY.findall(content_type)
    if len(found) != 1 or len(_BOUNDARY_SAID.findall(content_type)) != 1 or _ENCODED_WORD in content_type:
        raise _refused("The form must have exactly one boundary.")
    quoted, plain = found[0]
    return bytes(quoted or plain)


def _find(body: bytes, wanted: bytes, start: int) -> int:
    """The first place of `wanted` from `start` on, -1 where there is none."""
    for begin in range(start, len(body), SLICE_BYTES):
        at = body.find(wanted, begin, begin + SLICE_BYTES + len(wanted) - 1)
        if at >= 0:
            return at
    return -1


def _names(lines: Sequence[bytes]) -> Sequence[str]:
    """Every name that a reader could find in the head of a part; what no reader is to decode otherwise is refused."""
    dispositions = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _refused("A part of the form has a header that cannot be read.")
        name, value = header[1].lower(), header[2]
        if name == b"content-disposition":
            dispositions.append(value)
        elif _is_encoded(name, value):
            raise _refused("A part of the form has an encoding that is not read here.")
    if len(dispositions) != 1 or not _FORM_DATA.match(dispositions[0]):
        raise _refused("Every part of the form must have one Content-Disposition, which is form-data.")
    found = _NAME.findall(dispositions[0])
    if not found or any(b"*" in between or _SPELLED_NAME.search(given) for between, given in found):
        raise _refused("Every part of the form must have a plain name.")
    names = [given.decode("utf-8", "replace") for _, given in found]
    if any(_CHARSET_FIELD in given for given in names):
        raise _refused("A part of the form has an encoding that is not read here.")
    return names


def _is_encoded(name: bytes, value: bytes) -> bool:
    """Whether a header makes the content something else than the text that it is."""
    if name == b"content-type":
        return _NESTED.match(value) is not None or _CHARSET.search(value) is not None
    if name == b"content-transfer-encoding":
        return value.strip().lower() not in _PLAIN_ENCODINGS
    return name == b"content-encoding"


def _refused(message: str) -> BadRequestError:
    return BadRequestError(message, code="invalid_body")
