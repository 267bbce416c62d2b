"""What an answer is, by its head: how it is metered, and which headers go down with it. Pure; nothing here fails."""

from collections.abc import Sequence
from typing import Final

from sentinel.openai import headers
from sentinel.openai.header_fields import Line
from sentinel.openai.response.body_meter import BodyMeter, PassMeter
from sentinel.openai.response.meter import Meter
from sentinel.openai.response.stream_meter import StreamMeter
from sentinel.ops.records import Call, Dialect

# Without content, so that a length would be waited for (RFC 9110 §8.6, §15.3.6).
_BODILESS: Final = frozenset((204, 205, 304))


def opened(status: int, sent: Sequence[Line], call: Call) -> tuple[Meter, list[Line], int | None]:
    """The meter that fits the answer's content type (rule S5), the headers that go down, and the length of a plain body.

    A stream is marked as one nobody may buffer (rule S8); a plain body keeps its length, since its bytes do not change.
    """
    head = headers.downstream(sent)
    kind = _content_type(head)
    if kind == b"text/event-stream" and status < 400:
        kept = [(name, value) for name, value in head if name != b"cache-control"]
        unbuffered = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        stream = StreamMeter(call.dialect, usage_hidden=call.usage_hidden, names=bool(call.creates), choices=call.choices)
        return stream, kept + unbuffered, None
    meter = _plain(kind, status, call)
    lengths = [] if status in _BODILESS else values(sent, b"content-length")
    for length in lengths:
        head.append((b"content-length", length))
    return meter, head, int(lengths[0]) if lengths else None


def _plain(kind: bytes, status: int, call: Call) -> Meter:
    """An error costs nothing and passes as it is (rule E5); of JSON nothing is read where nothing is asked for."""
    if status >= 400 or (call.dialect is Dialect.NONE and not call.creates):
        return PassMeter()
    # Some providers name no type; what they send is JSON.
    if kind in (b"", b"application/json") or kind.endswith(b"+json"):
        return BodyMeter(call.dialect, names=bool(call.creates))
    return PassMeter(call.dialect)


def _content_type(head: list[Line]) -> bytes:
    """The media type, in lower case and without its parameters; b"" where there is none."""
    for name, value in head:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""


def values(sent: Sequence[Line], wanted: bytes) -> list[bytes]:
    """The values of the headers called `wanted` (lower case)."""
    found = []
    for name, value in sent:
        if name.lower() == wanted:
            found.append(value)
    return found
