"""The ids of a provider's objects that a form names, fine-tuned models among them (multipart/form-data, RFC 7578).

Fails closed: a form that another reader could take apart otherwise, or whose parts are encoded so that ids in them cannot be
seen, raises BadRequestError (openai/request/multipart.py). Nothing is decoded or rebuilt: the bytes go on as they came (rule
H18).
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final
from urllib.parse import unquote_to_bytes

from sentinel.openai.request import object_ids
from sentinel.openai.request.id_paths import Places, Tree, tree
from sentinel.openai.request.multipart import Part, parts
from sentinel.ops.errors import BadRequestError
from sentinel.ops.records import Ids

# Within a text only what is as long as a real id is taken for one: `file_name` and `thread_pool` stand in many.
ID_IN_TEXT_BYTES_MIN: Final = 20
# As many as the values of JSON: whoever has more texts that look like ids has no form.
ALIKE_MAX: Final = 500_000
# Other threads get their turn in between; and that much farther an id can go on, if each of its signs is escaped.
SLICE_BYTES: Final = 64 * 1024
_OVERLAP_BYTES: Final = 8 * object_ids.ID_CHARACTERS_MAX

_SEGMENT: Final = re.compile(r"\w+")
_BLANKS: Final = "\ufeff \t\r\n\v\f"  # some readers take a mark of the byte order off

_PREFIXES: Final = tuple(prefix.encode() for prefix in sorted(object_ids.OBJECT_PREFIXES))


def _hex(code: int) -> bytes:
    """The digits of a sign in its escape."""
    return b"".join(b"[%c%c]" % (digit, digit ^ 32) if digit > ord("9") else b"%c" % digit for digit in b"%02x" % code)


def _any_prefix(*, escaped: bool) -> bytes:
    """What an id begins with; by its first sign, so that most texts are told apart by one look."""
    plain, spelled = [], []
    for first, some in groupby(_PREFIXES, key=lambda prefix: prefix[0]):
        rests = [prefix[1:] for prefix in some]
        if escaped:
            rests = [b"".join(rb"(?:%c|\\u00%s)" % (code, _hex(code)) for code in rest) for rest in rests]
        plain.append(b"%c(?:%s)" % (first, b"|".join(rests)))
        spelled.append(b"%s(?:%s)" % (_hex(first), b"|".join(rests)))
    return b"|".join([*plain, rb"\\u00(?:%s)" % b"|".join(spelled)] if escaped else plain)


_BEGINS: Final = _any_prefix(escaped=False)
_FIRSTS: Final = b"".join(sorted({prefix[:1] for prefix in _PREFIXES}))
# Every search begins with a sign that is found fast, looks at what must follow it next, and goes over no byte again and again.
_QUOTED: Final = re.compile(rb'"(?=[%s][\w-]{3})((?:%s)[\w-]++)(?=["\\])' % (_FIRSTS, _BEGINS))
_SPELLED: Final = re.compile(
    rb'"((?:%s)(?:[\w-]|\\u00(?:2[dD]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]))++)(?=["\\])' % _any_prefix(escaped=True)
)
_LONG: Final = re.compile(rb"(?<![\w-])(?:%s)(?=[A-Za-z0-9]{%d})[\w-]++" % (_BEGINS, ID_IN_TEXT_BYTES_MIN))
# Where there is none of them, which is told several times as fast.
_MAYBE_LONG: Final = re.compile(
    rb"[-_](?=[A-Za-z0-9]{%d})(?:%s)" % (ID_IN_TEXT_BYTES_MIN, b"|".join(rb"(?<=%s)" % p for p in _PREFIXES))
)
_ALONE: Final = re.compile(rb"[^\w-]*+((?:%s)[\w-]{1,%d})[^\w-]*+" % (_BEGINS, object_ids.ID_CHARACTERS_MAX))
# Many a field is called `file_id`, and no object is.
_WORD: Final = re.compile(rb"(?<![\w-])(?:%s)[\w-]++(?<!_id)(?<!_ids)" % _BEGINS)
_ESCAPE: Final = re.compile(rb"\\u00([0-9a-fA-F]{2})")
# A form is cut where no id goes on.
_SEAM: Final = re.compile(rb"[^\w\\-]")


def ids(body: bytes, content_type: bytes, places: Places) -> Ids:
    """What `body` names: what stands in the fields at `places`, and whatever else looks like an id.

    Raises BadRequestError for a form that readers could take apart in two ways, or that has too many parts or ids.
    """
    objects: set[str] = set()
    alike: set[str] = set()
    for part in parts(body, content_type):
        for name in part.names:
            segments = _SEGMENT.findall(name)
            taken = _is_taken(segments, tree(places))
            told = taken or not object_ids.ID_KEYS.isdisjoint(segments) or _is_model(segments)
            text = body[part.start : part.end].decode("utf-8", "replace").strip(_BLANKS) if told else ""
            if taken and text:
                object_ids.take(objects, segments[-1], text)
            elif text:
                object_ids.note(alike, object_ids.tuned_name(text) if _is_model(segments) else text)
        for found in (_in_head(part.head), *_in_content(body, part)):
            alike.update(name.decode() for name in found if len(name) <= object_ids.ID_CHARACTERS_MAX)
            if len(alike) > ALIKE_MAX:
                raise BadRequestError(f"The form names too many objects: at most {ALIKE_MAX} are read.", code="invalid_body")
    return object_ids.ids(objects, alike)


def _is_taken(segments: list[str], at: Tree | None) -> bool:
    """Whether a field whose name has these segments (`a[b][0]`) is one of the tree's places; an index only counts elements."""
    for segment in segments:
        if at is None:
            return False
        if not segment.isdigit():
            at = at.under(segment)
    return at is not None and at.taken


def _is_model(segments: list[str]) -> bool:
    """Whether a field whose name has these segments is called like a model, of which a fine-tuned one has an owner."""
    return bool(segments) and segments[-1].lower().endswith(object_ids.MODEL_ENDINGS)


def _in_head(head: bytes) -> set[bytes]:
    """Every word of a head that begins as an id, also where a file's name is escaped."""
    found = set(_WORD.findall(head))
    if b"%" in head or b"\\" in head:
        found.update(_WORD.findall(unquote_to_bytes(head).replace(b"\\", b"")))
    return found


def _in_content(body: bytes, part: Part) -> Iterator[set[bytes]]:
    """What is an id by itself, in quotes (as in JSON, also where escapes spell it otherwise), or by its length."""
    if alone := _ALONE.fullmatch(body, part.start, part.end):
        yield {alone[1]}
    start = part.start
    while start < part.end:
        end = min(start + SLICE_BYTES, part.end)
        beyond = min(end + _OVERLAP_BYTES, part.end)
        if seam := _SEAM.search(body, end, beyond):
            end, beyond = seam.start(), seam.end()  # it may be the quote before an id, or behind one
        yield set(_QUOTED.findall(body, start, beyond))
        if body.find(b"\\u00", start, beyond) >= 0:
            yield {_ESCAPE.sub(_unescaped, found) for found in set(_SPELLED.findall(body, start, beyond))}
        if _MAYBE_LONG.search(body, start, beyond):
            yield set(_LONG.findall(body, start, beyond))
        start = end


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escape[1].decode())
