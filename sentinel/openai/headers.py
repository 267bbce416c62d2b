"""Header rules of both directions: framing, allow-lists, the caller's limits, retry advice.

Fails closed: what no allow-list names does not pass, doubtful framing is BadRequestError, and a value that could end a header
line is dropped. Names of downstream requests are lower-case, as ASGI promises; those of the provider come in any case.
"""

import math
import re
from collections.abc import Iterable
from functools import lru_cache, partial
from hashlib import sha256
from itertools import chain, compress
from operator import itemgetter
from typing import Final

from sentinel import __version__
from sentinel.openai.durations import go_duration
from sentinel.openai.header_fields import Fields
from sentinel.ops.errors import BadRequestError, SentinelError
from sentinel.ops.records import Hold, Origin

USER_AGENT: Final = f"sentinel/{__version__}"
REQUEST_ID_CHARACTERS_MAX: Final = 128
# Above this JavaScript SDKs retry within seconds, so that waiting is no longer something to ask for (rule R3).
RETRY_AFTER_S_MAX: Final = 60
# Beyond this a timer of JavaScript fires at once.
RETRY_AFTER_MS_MAX: Final = 2**31 - 1

_REQUEST_NAMES: Final = frozenset(
    {
        b"content-type",
        b"accept",
        b"user-agent",
        b"openai-beta",
        b"x-client-request-id",
        b"http-referer",
        b"x-title",
    }
)
_OUR_AGENT: Final = USER_AGENT.encode()
# Clients whose lines are remembered, and how long these may be.
_KNOWN_MAX: Final = 512
_KNOWN_BYTES_MAX: Final = 1024
_KEEP_ALIVE: Final = [b"keep-alive"]
# As a number, which is found several times as fast as a text of one byte.
_COMMA: Final = ord(",")
_IDEMPOTENCY: Final = b"idempotency-key"
# What is another in each request.
_ITS_OWN: Final = frozenset({_IDEMPOTENCY, b"x-client-request-id"})
RETRY_MS: Final = b"retry-after-ms"
_RETRY_NAMES: Final = frozenset({b"retry-after", RETRY_MS, b"x-should-retry"})
# Of a line, its name; and of a name, whether its line is looked at: no function of ours, since every line is asked.
_name_of: Final = itemgetter(0)
_passes: Final = re.compile(
    rb"x-stainless-[a-z0-9-]{1,64}|" + rb"|".join(map(re.escape, sorted({*_REQUEST_NAMES, _IDEMPOTENCY, b"connection"})))
).fullmatch
ANSWER_NAMES: Final = {
    b"content-type": b"content-type",
    b"content-disposition": b"content-disposition",
    b"content-encoding": b"content-encoding",
    b"x-request-id": b"x-upstream-request-id",  # x-request-id is Sentinel's own (rule I1)
    b"openai-processing-ms": b"openai-processing-ms",
    b"openai-version": b"openai-version",
    b"openai-model": b"openai-model",
    b"retry-after": b"retry-after",
    b"retry-after-ms": b"retry-after-ms",
    b"x-should-retry": b"x-should-retry",
    b"cache-control": b"cache-control",
}
_REQUEST_ID: Final = re.compile(rb"[!-~](?:[ -~]{0,%d}[!-~])?" % (REQUEST_ID_CHARACTERS_MAX - 2))
_RETRY_DIGITS_MAX: Final = 2
_LENGTH_DIGITS_MAX: Final = 18
# A number as JavaScript and Python begin to read one; what follows it is not looked at, as JavaScript does not.
_NUMBER: Final = re.compile(rb"[ \t]*\+?((?:\d+\.?\d*|\.\d+)(?:[Ee][+-]?\d+)?|Infinity)")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


# ---- requests ----------------------------------------------------------------------------------------------------------


def check_framing(fields: Fields) -> None:
    """Raise BadRequestError where two servers could disagree on where this request goes, ends, or what it is (rule H15).

    That is: no Host, an empty one or several; any Transfer-Encoding but `chunked`; several lengths, one that is not a number,
    or one beside Transfer-Encoding; several content types, since one could be checked and another be read. Granian lets most
    of these pass.
    """
    first, repeated = fields.first, fields.repeated
    if b"host" in repeated or not first.get(b"host", b"").strip():
        raise _doubtful("A request must have exactly one Host header.")
    length = first.get(b"content-length", b"0")
    if b"transfer-encoding" in first:
        if b"transfer-encoding" in repeated or first[b"transfer-encoding"].lower() != b"chunked":
            raise _doubtful("No Transfer-Encoding but 'chunked' is supported.")
        length = b"" if b"content-length" in first else length
    if b"content-length" in repeated or not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX:
        raise _doubtful("A request must have at most one Content-Length header, a number.")
    media = first.get(b"content-type", b"")
    # A comma may stand in a parameter, such as a boundary, but in no type.
    if b"content-type" in repeated or (_COMMA in media and _COMMA in media.partition(b";")[0]):
        raise BadRequestError("A request must have at most one Content-Type.")


def _doubtful(message: str) -> BadRequestError:
    """Where one server sees the end of this request another may see the middle: nothing behind it is read."""
    return BadRequestError(message, headers=((b"connection", b"close"),))


def client_request_id(fields: Fields) -> str:
    """The id the client gave its request, "" where it gave none that is fit to be logged and sent back (rule I2)."""
    for name in (b"x-client-request-id", b"x-request-id"):
        if name in fields.first:
            for value in fields.every(name):
                if _REQUEST_ID.fullmatch(value):
                    return value.decode("ascii")
    return ""


def retry_count(fields: Fields) -> int | None:
    """How often the client had sent this request before, 0 to 99; None where it does not say (R4)."""
    for value in fields.every(b"x-stainless-retry-count"):
        if value.isdigit() and len(value) <= _RETRY_DIGITS_MAX:
            return int(value)
    return None


def upstream(
    fields: Fields, request_id: str, key: str, caller: str = "", trace: Iterable[tuple[str, str]] = (), coding: str = ""
) -> bytes:
    """The header lines that go to the provider: those the allow-list names, then Sentinel's own (rules H1, H2, H5, H20).

    Sentinel's own are added last, so that no Connection header of the client can take them away (rule X11). Nor can
    it take the content type, by which the body was read. An idempotency key is made that of `caller` alone: the provider sees
    one account, and could give the answer of one caller to another that chose the same key. `trace` is this request's own
    context, where the provider is to have it; `coding` are the codings of the body. Raises BadRequestError where one of
    Sentinel's own could end its line.
    """
    lines = fields.lines
    passing = tuple(compress(lines, map(_passes, map(_name_of, lines))))
    if _ITS_OWN.isdisjoint(fields.first) and len(b"".join(chain(*passing))) <= _KNOWN_BYTES_MAX:
        sent = _known_lines(passing)
    else:
        sent = _lines(passing, caller)
    fit = (key + request_id).isprintable()
    for name, value in (*trace, ("content-encoding", coding)) if coding else trace:
        fit = fit and not _CONTROL.search(value.encode())
        sent += f"{name}: {value}\r\n".encode()
    if not fit:
        raise BadRequestError("This request cannot be sent on: one of its headers has characters that end a line.")
    own = key.encode(), request_id.encode()
    return sent + b"authorization: Bearer %b\r\naccept-encoding: identity\r\nx-request-id: %b\r\n" % own


def _lines(passing: tuple[tuple[bytes, bytes], ...], caller: str) -> bytes:
    """The lines of a client that go to the provider, of those whose names may pass or speak of the connection; and our name
    where it gives none.
    """
    sent = []
    connection = []
    for name, value in passing:
        if name == b"connection":
            connection.append(value)
        elif not _CONTROL.search(value):
            sent.append((name, _text(value) if name != _IDEMPOTENCY else _of_caller(caller, value)))
    if connection and connection != _KEEP_ALIVE:
        hop_by_hop = _named_by_connection(connection) - {b"content-type"}
        sent = [(name, value) for name, value in sent if name not in hop_by_hop]
    if all(name != b"user-agent" for name, _ in sent):
        sent.append((b"user-agent", _OUR_AGENT))
    return b"".join(b"%b: %b\r\n" % line for line in sent)


# A client sends the same lines again and again. No credential is among them, nor what is another in each request.
_known_lines: Final = lru_cache(maxsize=_KNOWN_MAX)(partial(_lines, caller=""))


# ---- answers -----------------------------------------------------------------------------------------------------------


def downstream(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The provider's headers that go to the client: those the allow-list names (rules H1, H3, I6, R5).

    Content-Length is not among them: only who sends the body knows whether it is still right (rule H6).
    """
    sent = []
    connection = []
    for given, value in headers:
        name = given if given.islower() else given.lower()
        if name in ANSWER_NAMES:
            if not _CONTROL.search(value) and (name != RETRY_MS or not _too_late(value)):
                sent.append((ANSWER_NAMES[name], value))
        elif name == b"connection":
            connection.append(value)
    if not connection or connection == _KEEP_ALIVE:
        return sent
    hop_by_hop = {ANSWER_NAMES.get(name) for name in _named_by_connection(connection)}
    return [(name, value) for name, value in sent if name not in hop_by_hop]


def retry_advice(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """What the provider says of trying again, for an error that Sentinel tells in its place (rule R5)."""
    return tuple((name, value) for name, value in downstream(headers) if name in _RETRY_NAMES)


def _too_late(wait_ms: bytes) -> bool:
    """Whether a `retry-after-ms` is over RETRY_AFTER_MS_MAX; what is no number passes, and is nobody's wait."""
    number = _NUMBER.match(wait_ms)
    return number is not None and float(number[1]) > RETRY_AFTER_MS_MAX


def origin(known: Origin) -> list[tuple[bytes, bytes]]:
    """Where an answer comes from, where that is not plainly the provider's to what was asked."""
    sent = []
    if known.model and not _CONTROL.search(known.model.encode()):
        sent.append((b"x-sentinel-model", known.model.encode()))
    if known.cache:
        sent.append((b"x-sentinel-cache", known.cache.encode("ascii")))
    return sent


def error(failure: SentinelError) -> list[tuple[bytes, bytes]]:
    """The headers of an error answer: its type, whether and when to retry, and its own (rules E1, R2, R3).

    A 401 names the scheme it wants, as RFC 9110 §11.6.1 demands.
    """
    sent = [(b"content-type", b"application/json")]
    if failure.status == 401:
        sent.append((b"www-authenticate", b"Bearer"))
    wait_s = failure.retry_after_s
    if wait_s is not None:
        wait_ms = max(1, math.ceil(wait_s * 1000))
        sent.append((b"retry-after", b"%d" % ((wait_ms + 999) // 1000)))
        if wait_ms <= RETRY_AFTER_MS_MAX:
            sent.append((RETRY_MS, b"%d" % wait_ms))
    if failure.retry is False or (wait_s is not None and wait_s > RETRY_AFTER_S_MAX):
        sent.append((b"x-should-retry", b"false"))
    sent += failure.headers
    return sent


def limits(hold: Hold, now_s: int) -> list[tuple[bytes, bytes]]:
    """What the caller has left, in both families of names (rules I0, I3, I4); `now_s` is the Unix time.

    Requests are the tighter of the rate and the quota, tokens the tightest of the window, input and output. What has no limit
    has no header, and what never resets has no reset. A hold that Redis does not know says so.
    """
    sent: list[tuple[bytes, bytes]] = []
    requests, other = hold.rate, hold.requests
    if other.limit is not None and (requests.limit is None or (other.remaining or 0) < (requests.remaining or 0)):
        requests = other
    if requests.limit is not None:
        limit, left, reset_ms = b"%d" % requests.limit, b"%d" % max(0, requests.remaining or 0), requests.reset_ms
        sent = [
            (b"x-ratelimit-limit", limit),
            (b"x-ratelimit-remaining", left),
            (b"x-ratelimit-limit-requests", limit),
            (b"x-ratelimit-remaining-requests", left),
        ]
        if reset_ms is not None:
            reset_s = b"%d" % (now_s + -(-reset_ms // 1000) if reset_ms > 0 else now_s)
            sent += (b"x-ratelimit-reset", reset_s), (b"x-ratelimit-reset-requests", go_duration(reset_ms).encode())
    tokens = hold.rate_tokens
    for other in (hold.tokens_input, hold.tokens_output):
        if other.limit is not None and (tokens.limit is None or (other.remaining or 0) < (tokens.remaining or 0)):
            tokens = other
    if tokens.limit is not None:
        limit, left, reset_ms = b"%d" % tokens.limit, b"%d" % max(0, tokens.remaining or 0), tokens.reset_ms
        sent += (b"x-ratelimit-limit-tokens", limit), (b"x-ratelimit-remaining-tokens", left)
        if reset_ms is not None:
            sent.append((b"x-ratelimit-reset-tokens", go_duration(reset_ms).encode()))
    if hold.degraded:
        sent += degraded(hold.degraded)
    return sent


def degraded(mode: str) -> tuple[tuple[bytes, bytes], ...]:
    """That Redis was away and this was decided without it, and how: "sliced" or "open"."""
    return ((b"x-sentinel-degraded", mode.encode("ascii")),)


def _named_by_connection(lists: Iterable[bytes]) -> frozenset[bytes]:
    """The names that Connection lists: they belong to that one hop (RFC 9110 §7.6.1)."""
    return frozenset(name.strip().lower() for value in lists for name in value.split(b","))


def _of_caller(caller: str, value: bytes) -> bytes:
    """A key that is the same for the same caller and value, and for no others."""
    return sha256(b"%d:%b%b" % (len(caller), caller.encode("utf-8", "surrogatepass"), value)).hexdigest().encode()


def _text(value: bytes) -> bytes:
    """A header's value in UTF-8: the same bytes again, unless they were Latin-1."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value
