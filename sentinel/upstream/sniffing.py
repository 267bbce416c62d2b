"""What the provider's answer is, where its label may be wrong: its first bytes are looked at before its head goes down.

Fails as UpstreamError: `upstream_not_json` where it is neither JSON nor a stream of events (the page of a firewall, a login,
maintenance), which is no answer of a model, so that nothing is owed; or as reading fails. The reply is closed then.
"""

import time
from typing import Final

from sentinel.openai.response.content_kind import Kind, errs, relabelled, told, told_of_media
from sentinel.ops.errors import UpstreamError
from sentinel.ops.logs import Log
from sentinel.upstream.decompressed import inflated
from sentinel.upstream.reply import Opened, PrefetchedReply

_log: Final = Log("provider")
_now: Final = time.monotonic

# Of white space; far more than anybody sends to keep a connection alive.
_LOOKED_AT_BYTES_MAX: Final = 65_536
# Some providers send white space until the model is done. Where JSON is announced, that is believed after so long, so that the
# client gets it too.
_BLANK_S: Final = 0.1
_SHOWN_BYTES: Final = 512


async def judged(reply: Opened, *, streams: bool) -> PrefetchedReply:
    """`reply` under the label that its first bytes deserve; they come first in it, as many as tell whether it is an error. An
    empty one is neither JSON nor events. `streams` says that events were asked for, so that white space alone is no JSON.
    """
    try:
        plain = inflated(reply)
        reply.bound(as_stream=False)
        start, kind = await _look(plain, believes=reply.kind is Kind.JSON and not streams)
    except BaseException:
        reply.close()
        raise
    if kind is Kind.OTHER:
        reply.close()
        raise _other(reply, start)
    reply.bound(as_stream=kind is Kind.EVENTS)
    begun = PrefetchedReply(plain, start)
    if kind is not reply.kind:
        _log.debug("an answer under a wrong label", status=reply.status, kind=kind.name)
        begun.headers = relabelled(begun.headers, kind)
    return begun


def recognised(begun: PrefetchedReply) -> PrefetchedReply:
    """`begun`, which may be anything, as JSON or events where its first bytes say so and its label does not."""
    label = next((value for name, value in begun.headers if name.lower() == b"content-type"), b"").lower()
    kind = told_of_media(label, begun.first)
    if kind is not None and kind is not begun.kind:
        begun.bound(as_stream=kind is Kind.EVENTS)
        begun.headers = relabelled(begun.headers, kind)
    return begun


async def _look(reply: Opened, *, believes: bool) -> tuple[bytes, Kind]:
    """The first bytes of `reply`, as many as are needed to tell its kind, and that; a label that is believed tells it too."""
    start = chunk = await reply.read()
    believed_s = _now() + _BLANK_S
    while chunk and not _is_told(start) and len(start) <= _LOOKED_AT_BYTES_MAX:
        if believes:
            more = await reply.more(believed_s - _now())
            if more is None:
                return start, reply.kind
            chunk = more
        else:
            chunk = await reply.read()
        start += chunk
    return start, told(start) or Kind.OTHER


def _is_told(start: bytes) -> bool:
    kind = told(start)
    return kind is not None and (kind is not Kind.JSON or errs(start) is not None)


def _other(reply: Opened, start: bytes) -> UpstreamError:
    media = b"".join([value for name, value in reply.headers if name.lower() == b"content-type"][:1])
    _log.warning(
        "provider answers with neither JSON nor events", status=reply.status, content_type=media.decode("latin-1")[:128]
    )
    _log.debug("what it answers begins so", beginning=start[:_SHOWN_BYTES].decode("utf-8", "replace"))
    what = "something that is neither JSON nor a stream of events" if start else "an empty body"
    return UpstreamError(f"The provider answered with {what}.", code="upstream_not_json", retry=False, sent=False)
