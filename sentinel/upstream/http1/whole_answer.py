"""A plain answer that came whole in one read, read by one strict pass: the usual case, instead of a parser and its callbacks.

Never fails: whatever is not a 200 in JSON of a known length, with every byte of it here and none behind it, is None, and left
to the parser (`upstream/http1/answer.py`). It takes nothing that the parser would refuse, and reads the same from what it
takes.
"""

import re
from typing import Final

from msgspec import Struct

from sentinel.openai.header_fields import Line
from sentinel.openai.headers import ANSWER_NAMES, RETRY_MS

# Of the head; the parser takes more.
_HEAD_BYTES_MAX: Final = 16_384
_JSON: Final = b"application/json"
_REQUEST_ID: Final = b"x-request-id"
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
_TELLING: Final = re.compile(rb"\n(%b):[ \t]*+([^\r]++)" % rb"|".join(_NAMES), re.IGNORECASE)


class WholeAnswer(Struct):
    """`down` are the lines that go to the client, its length among them; `keep_s` is how long the other side keeps the
    connection, where it says so; `request_id` is its own, b"" where it gives none.
    """

    down: list[Line]
    body: bytes
    head: bytes
    request_id: bytes = b""
    keep_s: float | None = None

    def lines(self) -> tuple[Line, ...]:
        """All lines of the head, as they came."""
        return tuple(_FIELDS.findall(self.head, self.head.find(b"\n") + 1))


def read(data: bytes) -> WholeAnswer | None:
    """The answer that `data` is, None where the parser is to look."""
    matched = _HEAD.match(data, 0, _HEAD_BYTES_MAX)
    if matched is None:
        return None
    answer = WholeAnswer([], data[matched.end() :], matched[0])
    down, length, media = answer.down, b"", b""
    for given, value in _TELLING.findall(answer.head):
        name = given.lower()
        if name == b"content-length":
            if length:
                return None
            length = value
        elif name == b"content-type":
            if media or not (value == _JSON or value.startswith(b"application/json;")):
                return None
            media = value
            down.append((name, value))
        elif name == b"keep-alive":
            answer.keep_s = timeout_s(value)
        elif name == b"connection":
            if value.lower() != b"keep-alive":
                return None
        elif name not in ANSWER_NAMES or name in (b"content-encoding", RETRY_MS):
            return None
        else:
            if name == _REQUEST_ID:
                answer.request_id = answer.request_id or value
            down.append((ANSWER_NAMES[name], value))
    if not media or not answer.body or length != b"%d" % len(answer.body):
        return None
    down.append((b"content-length", length))
    return answer


def timeout_s(value: bytes) -> float | None:
    """The `timeout` of a Keep-Alive header in seconds, None where it has none (RFC 2068 §19.7.1.1)."""
    for parameter in value.split(b","):
        name, _, seconds = parameter.strip().partition(b"=")
        if name.lower() == b"timeout" and seconds.isdigit() and len(seconds) < 10:
            return float(seconds)
    return None
