"""JSON objects by their members, with the bytes kept: read, checked for repeats, and one member set in place.

msgspec finds where each value ends, in C and without decoding it; only one level is walked here, whatever is nested in it.
Nothing is re-serialised: every byte that is not replaced is the client's own (rule H9). Fails closed: a repeated member
raises BadRequestError, since two readers could take different ones. What msgspec raises on malformed text (DecodeError,
RecursionError) is the caller's to answer.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Raw
from msgspec.json import Decoder, Encoder

from sentinel.ops.errors import BadRequestError

MEMBERS_MAX: Final = 1024
SPARE_BYTES_MAX: Final = 16 * 1024  # room for indented members and escaped names, or for some 3000 repeats

STREAM_OPTIONS: Final = "stream_options"
_INCLUDE_USAGE: Final = "include_usage"
_MEMBER: Final = b'"include_usage":true'
_ASKED: Final = frozenset({b'{"include_usage":true}', b'{"include_usage": true}'})  # as every SDK spells it
# What lenient readers take for true: their clients expect to see usage.
_LOOSELY_ASKED: Final = re.compile(rb'1(?:\.0+)?|"(?:true|1|yes|on|t|y)"', re.IGNORECASE)

# From the end of one value to the start of the next, in an object that msgspec has found well-formed. Possessive, so that no
# text makes it backtrack.
_TO_NEXT_VALUE: Final = re.compile(rb'[ \t\n\r,]*+"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\n\r]*+:[ \t\n\r]*+')


class _Name(str):
    """A member name that equals only itself, so that a dict keeps repeated members apart; all in C, no call to Python."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


_pairs: Final = Decoder(dict[_Name, Raw], dec_hook=str.__new__)
# The object whose members are given, written down in the shortest way.
shortest: Final = Encoder().encode

# The members of the object `text`, their values undecoded; of a repeated member the last, as msgspec does.
members: Final = Decoder(dict[str, Raw]).decode


def check_once(text: bytes, found: Mapping[str, Raw], shortest: bytes, names: Iterable[str]) -> None:
    """Raise BadRequestError if the object `text` holds one of `names` twice, in whatever spelling (rule H10).

    `found` is what `members` gave, and `shortest` what the function of that name made of it. Where that is `text` itself, each
    member stands there once, and that is how most SDKs write. Others pay for a second walk, whose length is bounded: too many
    members, or too much beside them, are refused as well.
    """
    if len(found) > MEMBERS_MAX or len(text) - len(shortest) > SPARE_BYTES_MAX:
        raise BadRequestError("The body has too many parameters, repeats of them, or blanks between them.", code="invalid_body")
    if shortest == text:
        return
    pairs = _pairs.decode(text)
    if len(pairs) == len(found):
        return
    spelled = [str(name) for name in pairs]
    for name in names:
        if spelled.count(name) > 1:
            raise BadRequestError(
                f"Duplicate parameter: '{name}'. A parameter may be given only once.", param=name, code="duplicate_parameter"
            )


def with_usage(body: bytes, options: Raw | None) -> tuple[bytes, bool]:
    """`body` with `stream_options.include_usage` true, and whether the client did not ask for usage (rules U2, U4).

    `options` is the value of its `stream_options`, which may be missing. The body stays where usage is asked for already; else
    bytes are inserted, or one value is replaced. That is done with one of a wrong type too: a provider that does not refuse it
    would tell no usage. Raises BadRequestError for a repeated `include_usage`.
    """
    if options is None:
        at = body.index(b"{") + 1  # only blanks come before it; `stream` at least comes after, hence the comma
        return b"".join((body[:at], b'"stream_options":{', _MEMBER, b"},", body[at:])), True
    given = bytes(options)
    if given in _ASKED:
        return body, False
    if not given.startswith(b"{"):
        start, end = _span(body, STREAM_OPTIONS)
        return b"".join((body[:start], b"{", _MEMBER, b"}", body[end:])), True
    inner = members(given)
    check_once(given, inner, shortest(inner), (_INCLUDE_USAGE,))
    asked = bytes(inner.get(_INCLUDE_USAGE, b""))
    if asked == b"true":
        return body, False
    start, _ = _span(body, STREAM_OPTIONS)
    if not asked:
        at = start + 1
        return b"".join((body[:at], _MEMBER, b"," if inner else b"", body[at:])), True
    first, last = _span(given, _INCLUDE_USAGE)
    return b"".join((body[: start + first], b"true", body[start + last :])), not _LOOSELY_ASKED.fullmatch(asked)


def with_member(body: bytes, name: str, value: bytes) -> bytes:
    """`body`, an object with at least one other member, with `name` set to `value`: inserted, or in place of what it was."""
    if name in members(body):
        start, end = _span(body, name)
        return b"".join((body[:start], value, body[end:]))
    at = body.index(b"{") + 1
    return b"".join((body[:at], b'"', name.encode(), b'":', value, b",", body[at:]))


def _span(text: bytes, name: str) -> tuple[int, int]:
    """Where the value of the member `name` begins and ends in the object `text`, which must hold it."""
    end = text.index(b"{") + 1
    for found, value in _pairs.decode(text).items():
        between = _TO_NEXT_VALUE.match(text, end)
        assert between is not None
        start, end = between.end(), between.end() + len(memoryview(value))
        if str(found) == name:
            return start, end
    raise AssertionError(name)
