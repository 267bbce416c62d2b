"""A plain answer that came whole in one read, read by one strict pass: the usual case, instead of a parser and its callbacks.

Never fails: whatever is not a 200 in JSON of a known length, with every byte of it here and none behind it, is None, and left
to the parser (`edges/http/answer.py`). It takes nothing that the parser would refuse, and reads the same from what it takes.
"""

import re
from operator import itemgetter
from typing import Final

from msgspec import Struct

from sentinel.protocol.fields import Line
from sentinel.protocol.headers import ANSWER_NAMES, RETRY_MS

# Of the head; the parser takes more.
_HEAD_BYTES_MAX: Final = 16_384
_JSON: Final = b"application/json"
_KEEP_ALIVE: Final = b"keep-alive"
# What goes down as it is, whatever it says.
_DOWN: Final = ANSWER_NAMES.keys() - {b"content-encoding", RETRY_MS}
# A field: a name, a colon, blanks, and a value that neither begins nor ends with one, and is not empty.
_NAME: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_VALUE: Final = rb"[\t -~\x80-\xff]++(?<![ \t])"
_HEAD: Final = re.compile(rb"HTTP/1\.1 200 [ -~]*+\r\n(?:%b:[ \t]*+%b\r\n){1,128}+\r\n" % (_NAME, _VALUE))
_FIELDS: Final = re.compile(rb"(%b):[ \t]*+(%b)\r\n" % (_NAME, _VALUE))
# The names that mean something here: what goes down, what is left to the parser, and what says how long a connection is kept.
_NAMES: Final = (
    *ANSWER_NAMES,
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"proxy-connection",
    b"keep-alive",
    b"upgrade",
)
_name_of: Final = itemgetter(0)
_value_of: Final = itemgetter(1)
_lower: Final = bytes.lower
_TELLING: Final = re.compile(rb"\n(%b):[ \t]*+([^\r]++)" % rb"|".join(_NAMES), re.IGNORECASE)


class WholeAnswer(Struct):
    """`down` are the lines that go to the client, its length among them; `keep_s` is how long the other side keeps the
    connection, where it says so; `request_id` is its own, b"" where it gives none.
    """

    down: list[Line]
    body: bytes
    head: bytes
    request_id: bytes
    keep_s: float | None

    def lines(self) -> tuple[Line, ...]:
        """All lines of the head, as they came."""
        return tuple(_FIELDS.findall(self.head, self.head.find(b"\n") + 1))


def read(data: bytes) -> WholeAnswer | None:
    """The answer that `data` is, None where the parser is to look."""
    matched = _HEAD.match(data, 0, _HEAD_BYTES_MAX)
    if matched is None:
        return None
    head, body = matched[0], data[matched.end() :]
    found = _TELLING.findall(head)
    said: dict[bytes, bytes] = dict(zip(map(_lower, map(_name_of, found)), map(_value_of, found), strict=True))
    length, media, keep_s = said.pop(b"content-length", b""), said.get(b"content-type", b""), None
    if len(said) + 1 != len(found) or not body or length != b"%d" % len(body):
        return None
    if media != _JSON and not media.startswith(b"application/json;"):
        return None
    if not said.keys() <= _DOWN:
        if said.pop(b"connection", _KEEP_ALIVE).lower() != _KEEP_ALIVE:
            return None
        keep_s = timeout_s(said.pop(b"keep-alive", b""))
        if not said.keys() <= _DOWN:
            return None
    down = [*zip(map(ANSWER_NAMES.__getitem__, said), said.values(), strict=True), (b"content-length", length)]
    return WholeAnswer(down, body, head, said.get(b"x-request-id", b""), keep_s)


def timeout_s(value: bytes) -> float | None:
    """The `timeout` of a Keep-Alive header in seconds, None where it has none (RFC 2068 §19.7.1.1)."""
    for parameter in value.split(b","):
        name, _, seconds = parameter.strip().partition(b"=")
        if name.lower() == b"timeout" and seconds.isdigit() and len(seconds) < 10:
            return float(seconds)
    return None
