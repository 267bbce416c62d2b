"""The ids of a provider's objects that a form names (multipart/form-data, RFC 7578).

Fails closed: a form that another reader could take apart otherwise, or whose parts are encoded so that ids in them cannot be
seen, raises BadRequestError. Nothing is decoded or rebuilt: the bytes go on as they came (wire.md H18).
"""

import re
from collections.abc import Iterator
from typing import Final

from sentinel.errors import BadRequestError
from sentinel.protocol import named
from sentinel.protocol.places import Places, Tree, tree
from sentinel.records import Ids

PARTS_MAX: Final = 1024
PART_HEAD_BYTES_MAX: Final = 16 * 1024
# Within a text only what is as long as a real id is taken for one: `file_name` and `thread_pool` stand in many.
ID_IN_TEXT_BYTES_MIN: Final = 20
FIELD_BYTES_MAX: Final = 1024 * 1024  # longer ones are texts or files

_BOUNDARY: Final = re.compile(rb'boundary[ \t]*+=[ \t]*+(?:"([^"\\]{1,70})"|([^" \t;,]{1,70}))[ \t]*+(?:;|$)', re.IGNORECASE)
# What any reader could take for the place at which it stands; the word itself is part of the boundary of many a browser.
_BOUNDARY_SAID: Final = re.compile(rb"boundary[ \t]*+[=*]", re.IGNORECASE)
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
# What would hide an id: bytes that are not the text itself, or another encoding of it than one that is ASCII where ids are.
_ENCODED: Final = re.compile(
    rb"content-transfer-encoding[ \t]*+:[ \t\r\n]*+(?!binary|8bit|7bit)|charset[ \t]*+=[ \t]*+[\"']?+(?!utf-?8|us-ascii)",
    re.IGNORECASE,
)
_FILE: Final = re.compile(rb"\bfilename\*?[ \t]*+=", re.IGNORECASE)
_NAME: Final = re.compile(rb'\bname[ \t]*+=[ \t]*+"?+([^";\r\n]*+)', re.IGNORECASE)
_SEGMENT: Final = re.compile(r"\w+")
_CHARSET_FIELD: Final = "_charset_"  # RFC 7578 §4.6: it would change the encoding of all others

_PREFIXES: Final = tuple(prefix.encode() for prefix in sorted(named.OBJECT_PREFIXES))
# The last sign of a prefix is sought first, since it is seldom; what comes before it is looked at only there.
_LONG: Final = re.compile(
    rb"[-_](?=[A-Za-z0-9]{%d})(?:%s)"
    % (ID_IN_TEXT_BYTES_MIN, b"|".join(rb"(?<=%s)(?<![\w-]%s)" % (one, one) for one in _PREFIXES))
)
_REST: Final = re.compile(rb"[\w-]++")
_ALONE: Final = re.compile(rb'(?:\A|(?<="))(?:%s)[\w-]++(?="|\Z)' % b"|".join(_PREFIXES))
_ESCAPED: Final = re.compile(rb"\\u00([2-7][0-9a-fA-F])")
_SLICE_BYTES: Final = 256 * 1024  # other threads get their turn in between


def ids(body: bytes, content_type: bytes, places: Places) -> Ids:
    """What `body` names: what stands in the fields at `places`, and whatever else looks like an id.

    Raises BadRequestError for a form without exactly one plain boundary, with parts that cannot be told apart or are encoded,
    or with too many of them.
    """
    objects: set[str] = set()
    alike: set[str] = set()
    for head, content in _parts(body, content_type):
        name = _NAME.search(head)
        segments = _SEGMENT.findall(name[1].decode("utf-8", "replace")) if name else []
        if _ENCODED.search(head) or _CHARSET_FIELD in segments:
            raise BadRequestError("A part of the form has an encoding that is not read here.", code="invalid_body")
        taken = _is_taken(segments, tree(places))
        key = next((segment for segment in segments if segment in named.ID_KEYS), "")
        if (taken or key) and (text := content.strip().decode("utf-8", "replace")):
            if taken:
                named.take(objects, segments[-1], text)
            else:
                named.note(alike, text)
        for text in _in_text(content):
            named.note(alike, text)
        if len(content) <= FIELD_BYTES_MAX and not _FILE.search(head):
            for text in _in_field(content):
                named.note(alike, text)
    return named.ids(objects, alike)


def _is_taken(segments: list[str], at: Tree | None) -> bool:
    """Whether a field whose name has these segments (`a[b][0]`) is one of the tree's places; an index only counts elements."""
    for segment in segments:
        if at is None:
            return False
        if not segment.isdigit():
            at = at.under(segment)
    return at is not None and at.taken


def _parts(body: bytes, content_type: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Head and content of each part."""
    boundaries = _BOUNDARY.findall(content_type)
    if len(boundaries) != 1 or len(_BOUNDARY_SAID.findall(content_type)) != 1:
        raise BadRequestError("The form must have exactly one boundary.", code="invalid_body")
    delimiter = b"--" + (boundaries[0][0] or boundaries[0][1])
    at = body.find(delimiter)
    seen = 0
    while at >= 0:
        start = at + len(delimiter)
        at = body.find(delimiter, start)
        end = len(body) if at < 0 else at
        head_end = _HEAD_END.search(body, start, min(end, start + PART_HEAD_BYTES_MAX))
        if head_end is None:
            if at < 0 and body.startswith(b"--", start):
                return
            raise BadRequestError("A part of the form has no end of its headers.", code="invalid_body")
        seen += 1
        if seen > PARTS_MAX:
            raise BadRequestError(f"The form has too many parts: at most {PARTS_MAX} are read.", code="invalid_body")
        yield body[start : head_end.start()], body[head_end.end() : end]


def _in_field(content: bytes) -> Iterator[str]:
    """What is an id by itself or in quotes, as in a field that holds JSON, also where escapes spell it otherwise."""
    content = content.strip()
    if b"\\u00" in content:
        content = _ESCAPED.sub(lambda escape: bytes.fromhex(escape[1].decode()), content)
    for found in _ALONE.findall(content):
        yield found.decode()


def _in_text(content: bytes) -> Iterator[str]:
    """What begins as an id in `content` and is as long."""
    for start in range(0, len(content), _SLICE_BYTES):
        for sign in _LONG.finditer(content, start, start + _SLICE_BYTES + ID_IN_TEXT_BYTES_MIN):
            prefix = next(one for one in _PREFIXES if content.endswith(one, 0, sign.end()))
            rest = _REST.match(content, sign.end(), sign.end() + named.ID_CHARACTERS_MAX)
            if rest and len(prefix) + len(rest[0]) <= named.ID_CHARACTERS_MAX:
                yield (prefix + rest[0]).decode()
